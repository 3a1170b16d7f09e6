"""``keras-transformer prepare``. It needs no backend, nor Keras."""

import click

from keras_transformer.cli.corpus_options import corpus_options, open_corpus, open_tokenizer


@click.command()
@corpus_options
@click.option(
    "--output", required=True, help="Folder for the shards; the same command goes on with what was broken off."
)
@click.option("--shard-pairs", type=click.IntRange(1), default=100_000, help="Pairs in a shard.")
@click.option("--workers", type=click.IntRange(0), default=2, help="Processes that cut text into pieces.")
def prepare(tokenizer, vocabulary_size, separate_vocabularies, max_length, output, shard_pairs, workers, **corpus):
    """Cuts a text into pieces once, into shards from which training reads: kt.Batches(OUTPUT)."""
    from keras_transformer.text.prepare import prepare

    stream = open_corpus(**corpus)
    if tokenizer is None:
        tokenizer = _made_before(output, vocabulary_size, separate_vocabularies)
    tokenizer = open_tokenizer(tokenizer, vocabulary_size, separate_vocabularies, stream)
    counts = prepare(
        stream,
        tokenizer,
        output,
        max_length=max_length,
        shard_pairs=shard_pairs,
        num_workers=workers,
        progress=lambda pairs: click.echo(f"{pairs:,} pairs", err=True),
    )
    click.echo(str(counts))


def _made_before(output, vocabulary_size, separate_vocabularies):
    """The file of the tokenizer of a preparation that is gone on with, if it is what these options make; else None.

    Where it is not, it may still come of a text too small for so many pieces: trained again it is then the same, or refused.
    """
    from pathlib import Path

    from keras_transformer.text.pair import TokenizerPair, source_tokenizer
    from keras_transformer.text.store import TOKENIZER
    from keras_transformer.text.tokenizer_files import load_tokenizer

    file = Path(output, TOKENIZER)
    if not file.is_file():
        return None
    tokenizer = load_tokenizer(file)
    sizes = {source_tokenizer(tokenizer).vocabulary_size, tokenizer.vocabulary_size}
    is_alike = isinstance(tokenizer, TokenizerPair) == separate_vocabularies and sizes == {vocabulary_size}
    return file if is_alike else None
