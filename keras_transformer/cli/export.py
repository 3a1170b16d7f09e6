"""``keras-transformer export``."""

import click

from keras_transformer.cli.options import backend_option, beam_size_option, length_penalty_option, load_translator


@click.command()
@click.argument("run")
@click.argument("output")
@backend_option
@beam_size_option
@length_penalty_option
@click.option(
    "--max-length", type=click.IntRange(1), help="Tokens a translation may have; twice the source's and ten more."
)
def export(run, output, backend, beam_size, length_penalty, max_length):
    """Writes the model in RUN as a TensorFlow SavedModel into OUTPUT."""
    load_translator(run).export(output, beam_size=beam_size, length_penalty=length_penalty, max_length=max_length)
    click.echo(
        f"{output} holds a SavedModel with the signature serving_default, its tokenizer and card.json.", err=True
    )
