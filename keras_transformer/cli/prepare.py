"""``keras-transformer prepare``. It needs no backend, nor Keras."""

import click

from keras_transformer.cli.corpus_options import corpus_options, open_corpus, open_tokenizer


@click.command()
@corpus_options
@click.option(
    "--output", required=True, help="Folder for the shards; the same command goes on with what was broken off."
)
@click.option("--shard-pairs", type=click.IntRange(1), default=100_000, help="Pairs of text a shard.")
@click.option("--workers", type=click.IntRange(0), default=2, help="Processes.")
def prepare(tokenizer, vocabulary_size, separate_vocabularies, max_length, output, shard_pairs, workers, **corpus):
    """Cuts a text into pieces once, into shards from which training reads: kt.Batches(OUTPUT)."""
    from pathlib import Path

    from keras_transformer.text.prepare import prepare
    from keras_transformer.text.store import TOKENIZER

    stream = open_corpus(**corpus)
    made_before = Path(output, TOKENIZER)
    if tokenizer is None and made_before.is_file():
        tokenizer = made_before
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
