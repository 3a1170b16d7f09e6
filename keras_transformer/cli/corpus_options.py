"""Options that say which text is read and which pairs are kept, shared by ``inspect`` and ``prepare``."""

import click

_OPTIONS = [
    click.option(
        "--source",
        required=True,
        help="Text, a sentence a line: plain, .gz, .zst, a pattern of shards, - for stdin; or .tsv, .jsonl, .parquet of both.",
    ),
    click.option("--target", help="The translations of --source, line by line."),
    click.option(
        "--columns",
        help="Columns of source and target in a file of both: 'en,de', 'translation.en,translation.de'; in .tsv '0,1', or names, "
        "which its first line then gives.",
    ),
    click.option("--tokenizer", help="File of a tokenizer; if not given, one is trained on this text."),
    click.option("--vocabulary-size", type=click.IntRange(1), default=8000, help="Pieces of a tokenizer trained here."),
    click.option(
        "--separate-vocabularies",
        is_flag=True,
        help="Trains a tokenizer for each side, of --vocabulary-size pieces each.",
    ),
    click.option(
        "--max-length", type=click.IntRange(1), default=256, help="Most positions of a row; longer pairs are left out."
    ),
    click.option(
        "--max-characters", type=click.IntRange(1), help="Most characters of either side; longer pairs are left out."
    ),
    click.option(
        "--max-ratio", type=click.FloatRange(1), help="Largest ratio of the longer side to the shorter, in characters."
    ),
    click.option("--drop-identical", is_flag=True, help="Leaves out pairs whose sides are equal."),
    click.option("--drop-duplicates", is_flag=True, help="Leaves out pairs that occurred before."),
    click.option(
        "--normalization",
        type=click.Choice(["NFC", "NFKC"]),
        help="Unicode normalization of every line, before all else.",
    ),
    click.option(
        "--on-bad-line",
        type=click.Choice(["error", "skip"]),
        default="error",
        help="What to do with lines that are not UTF-8, hold a NUL, or lack a column.",
    ),
]


def corpus_options(command):
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def open_corpus(
    source, target, columns, max_characters, max_ratio, drop_identical, drop_duplicates, normalization, on_bad_line
):
    """The PairStream that the options describe."""
    from keras_transformer.text.corpus import PairStream
    from keras_transformer.text.filters import Filters

    columns = tuple(columns.split(",")) if columns else None
    if columns is not None and len(columns) != 2:
        raise ValueError(f"--columns names source and target, separated by a comma. Received: {','.join(columns)!r}.")
    if columns is not None and all(column.isdigit() for column in columns):
        columns = tuple(map(int, columns))
    filters = Filters(max_characters, max_ratio, identical=drop_identical, duplicates=drop_duplicates)
    return PairStream(source, target, columns, filters, normalization, on_bad_line)


def open_tokenizer(tokenizer, vocabulary_size, separate_vocabularies, stream, sentences=1_000_000):
    """The tokenizer of a file; or one, or one for each side, trained on the text, whose first million pairs are enough."""
    import itertools

    from keras_transformer.text.pair import TokenizerPair
    from keras_transformer.text.tokenizer import Tokenizer
    from keras_transformer.text.tokenizer_files import load_tokenizer

    if tokenizer is not None:
        return load_tokenizer(tokenizer)
    if "-" in (stream.source, stream.target):
        raise ValueError("Standard input can be read once: train a tokenizer first and give it as --tokenizer.")
    if separate_vocabularies:
        sides = ((pair[side] for pair in itertools.islice(stream, sentences)) for side in (1, 2))
        return TokenizerPair(*(Tokenizer.train(side, vocabulary_size=vocabulary_size) for side in sides))
    texts = (text for _, *pair in itertools.islice(stream, sentences) for text in pair)
    return Tokenizer.train(texts, vocabulary_size=vocabulary_size)
