"""``keras-transformer inspect``."""

import click

from keras_transformer.cli.corpus_options import corpus_options, open_corpus, open_tokenizer
from keras_transformer.cli.options import backend_option


@click.command()
@backend_option
@corpus_options
@click.option(
    "--batch-tokens", type=click.IntRange(1), default=4096, help="Most positions of a batch, padding included."
)
@click.option("--num-buckets", type=click.IntRange(1), default=8, help="How many shapes batches may have.")
@click.option("--packed-length", type=click.IntRange(1), help="Packs several pairs into lines of this many positions.")
@click.option("--plot", help="PNG of the lengths' histograms to write.")
def inspect(
    backend,
    tokenizer,
    vocabulary_size,
    separate_vocabularies,
    max_length,
    batch_tokens,
    num_buckets,
    packed_length,
    plot,
    **corpus,
):
    """Prints what will be kept of a text, its lengths, padding, vocabulary, and ten pairs with their pieces."""
    from keras_transformer.text.batches import Batches
    from keras_transformer.text.inspection import inspect_corpus

    stream = open_corpus(**corpus)
    tokenizer = open_tokenizer(tokenizer, vocabulary_size, separate_vocabularies, stream)
    sizes = {"batch_tokens": batch_tokens, "max_length": max_length, "num_buckets": num_buckets}
    inspection = inspect_corpus(Batches(stream, None, tokenizer, packed_length=packed_length, **sizes))
    click.echo(f"lines: {stream.counts.lines:,}")
    click.echo(str(inspection))
    if plot:
        inspection.plot(plot)
        click.echo(f"histograms: {plot}")
