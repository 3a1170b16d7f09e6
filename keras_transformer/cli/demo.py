"""``keras-transformer demo``."""

import click

from keras_transformer.cli.options import backend_option


@click.command()
@backend_option
@click.option("--output", default="saved_models/demo", help="Where the SavedModel goes.")
@click.option(
    "--seed", type=click.IntRange(0), default=1, help="Seed of the initial weights and of the order of batches."
)
def demo(backend: str, output: str, seed: int) -> None:
    """Trains on the built-in English-German corpus, translates unseen sentences and exports: three minutes."""
    from keras_transformer.demo_run import run_demo

    run_demo(output, seed, echo=click.echo)
