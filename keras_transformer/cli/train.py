"""``keras-transformer train``."""

from pathlib import Path

import click
import yaml

from keras_transformer.cli.options import backend_option


def _read_config(context, parameter, path):
    """The values of a YAML file become the defaults of the options."""
    if path is None:
        return
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.BadParameter(
            f"{path} is not a YAML file: {reason}. Write one option a line, as in 'epochs: 5'."
        ) from None
    if not isinstance(values, dict):
        raise click.BadParameter(
            f"{path} must hold a mapping of options to values. Received: a {type(values).__name__}."
        )
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    known = {option.name for option in context.command.params} - {parameter.name}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise click.BadParameter(
            f"{path} holds {', '.join(unknown)}, which train does not take. It takes {', '.join(sorted(known))}."
        )
    whole = {option.name for option in context.command.params if isinstance(option.type, click.IntRange)}
    for name in sorted(whole & values.keys()):
        if isinstance(values[name], (bool, float)):  # click would cut 2.9 down to 2
            raise click.BadParameter(f"{path}: {name} must be a whole number. Received: {values[name]!r}.")
    context.default_map = values


@click.command()
@backend_option
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    callback=_read_config,
    is_eager=True,
    help="YAML file with any of these options.",
)
@click.option(
    "--source",
    required=True,
    help="Training text, a sentence a line: plain, .gz, .zst, a pattern of shards; .tsv, .jsonl, .parquet of both sides; or "
    "the folder that prepare wrote.",
)
@click.option("--target", help="The translations of --source, line by line; none where the source holds both sides.")
@click.option("--valid-source", help="Validation text.")
@click.option("--valid-target", help="The translations of --valid-source.")
@click.option("--output", required=True, help="Run folder; training again on it goes on where it stands.")
@click.option("--preset", default="tiny", help="tiny, small, base or large.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs in all; 20 if no limit is given.")
@click.option("--steps", type=click.IntRange(1), help="Updates of the weights in all.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Minutes of training from now on.")
@click.option(
    "--batch-tokens",
    type=click.IntRange(1),
    help="Most positions of a batch, padding included; the preset's if not given.",
)
@click.option(
    "--vocabulary-size",
    type=click.IntRange(1),
    help="Pieces in the vocabulary; the preset's, or those of prepared text, if not given.",
)
@click.option(
    "--separate-vocabularies", is_flag=True, help="A vocabulary for each side, of --vocabulary-size pieces each."
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, help="Seed of the initial weights and of the order of batches."
)
@click.option("--accumulate", type=click.IntRange(1), default=1, help="Batches whose gradients make one update.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes that make batches ahead of time.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
    help="Keras's dtype policy; the global one if not given.",
)
@click.option("--remat", is_flag=True, help="Computes activations again in the backward pass, to save memory.")
@click.option("--keep", type=click.IntRange(1), default=2, help="How many of the newest checkpoints are kept.")
@click.option(
    "--best",
    type=click.IntRange(0),
    default=0,
    help="How many of the best checkpoints by --monitor are kept beside them.",
)
@click.option(
    "--monitor",
    help="The metric that tells the best: val_bleu, val_loss or another; if not given val_bleu, or loss without validation.",
)
@click.option(
    "--patience", type=click.IntRange(1), help="Ends training after this many epochs without a better --monitor."
)
def train(backend, config, output, epochs, steps, minutes, workers, keep, best, monitor, patience, **settings):
    """Trains a model from aligned text, or prepared text. Ctrl-C saves it first; the same command goes on at the very batch.

    Exit codes: 0 trained; 1 an error, told in one line; 129, 130, 143 ended by SIGHUP, SIGINT (Ctrl-C), SIGTERM, and saved.
    """
    from keras_transformer.callbacks import Interrupted
    from keras_transformer.runs import Run, Settings

    run = Run(output, Settings(**settings), num_workers=workers)
    click.echo(_describe(run), err=True)
    try:
        run.train(
            epochs=epochs, updates=steps, minutes=minutes, keep=keep, best=best, monitor=monitor, patience=patience
        )
    except Interrupted as error:
        error.args = (f"{error} {output} is saved: the same command goes on after update {run.updates}.",)
        raise
    click.echo(f"{output}/translator holds the best model. Try: keras-transformer translate {output}", err=True)


def _describe(run):
    import keras

    from keras_transformer.text.pair import vocabulary_sizes

    batches = run.batches
    skipped = _left_out(run.skipped) or "none"
    validation = (
        f"\nvalidation: {_left_out(run.validation_skipped)} left out" if any(run.validation_skipped.values()) else ""
    )
    begun = f", going on after update {run.updates} in epoch {run.epoch + 1}" if run.updates else ""
    return (
        f"{run.settings.preset} on {keras.backend.backend()}: {run.model.count_params():,} parameters, "
        f"{vocabulary_sizes(run.tokenizer)} pieces\n"
        f"{batches.num_pairs:,} pairs ({skipped} left out), {batches.num_tokens:,} target tokens an epoch in "
        f"{len(batches)} batches of {len(batches.shapes)} shapes, {batches.padding_share:.0%} padding{begun}{validation}"
    )


def _left_out(skipped):
    return ", ".join(f"{count} for {reason}" for reason, count in skipped.items() if count)
