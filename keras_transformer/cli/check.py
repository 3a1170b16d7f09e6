"""``keras-transformer check``."""

import sys

import click

from keras_transformer.cli.options import backend_option, load_translator

# train has no option for these, so that a run cannot be wrong in them where the package is right.
_OF_THE_PACKAGE = (
    "loss counts padding, label smoothing, target not shifted: said of this package's training, with the recipe of the model's "
    "preset, and of batches made here of the text; a run folder does not keep the loss or the batches it was trained with."
)


@click.command()
@click.argument("run")
@backend_option
@click.option("--source", help="Text like that it was trained on; the built-in corpus if not given.")
@click.option("--target", help="The translations of --source, line by line.")
def check(run, backend, source, target):
    """Looks for the classic bugs of a Transformer in the model in RUN; exit code 1 if one is found, or nothing could be checked."""
    from keras_transformer.testing import check
    from keras_transformer.text import Batches
    from keras_transformer.text.demo import demo_corpus

    if (source is None) != (target is None):
        raise click.UsageError("Text needs both sides: give --source and --target, or neither.")
    translator = load_translator(run)
    if source is None:
        pairs = demo_corpus(num_train=50, num_valid=0, num_test=0).train
        source, target = pairs.source, pairs.target
    batches = Batches(source, target, translator.tokenizer, batch_tokens=512, shuffle=False, num_buckets=1)
    report = check(translator.model, batch=batches[0], echo=click.echo)
    click.echo(_OF_THE_PACKAGE, err=True)
    click.echo(report.summary)
    sys.exit(0 if report.ok else 1)
