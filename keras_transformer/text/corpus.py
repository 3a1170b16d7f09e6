"""Two aligned texts read as pairs, so that line n of one is always the translation of line n of the other.

Text readers disagree on what ends a line (a lone CR, U+2028 and others), which silently shifts one side against the other. Here
only the line feed does. Nothing is left out without being counted, and no corpus need fit into memory. Needs no Keras.
"""

import dataclasses
import hashlib
import itertools
import os
import unicodedata
from collections.abc import Iterable

from keras_transformer.text.filters import Filters, PairCounts, Sieve
from keras_transformer.text.formats import (
    characters,
    check_columns,
    is_standard_input,
    lines_of,
    name_of,
    rows_of,
    shards,
    table_kind,
)

NORMALIZATIONS = ("NFC", "NFKC", None)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Pairs of sentences in memory; ``source[i]`` translates to ``target[i]``. Iterating over it gives what a PairStream gives.

    Args:
        source: list of str.
        target: list of str, as long.
        lines: line number of each pair where it was read, counted from 1.
        counts: PairCounts.
        source_name: the source's file, or "source" when it came as a list.
        target_name: the target's.
    """

    source: list
    target: list
    lines: list
    counts: PairCounts
    source_name: str = "source"
    target_name: str = "target"

    def __len__(self):
        return len(self.source)

    def __iter__(self):
        return zip(self.lines, self.source, self.target, strict=True)

    def place(self, line, side="source"):
        """ "file:line" of a pair."""
        return f"{self.target_name if side == 'target' else self.source_name}:{line}"


def read_lines(path):
    """The lines of a UTF-8 text file, plain, gzip or zstd, one after the other; of several for a pattern ("train-*.en").

    Only a line feed ends a line; the CR of a CRLF and a byte order mark at the start of a file
    are taken off.

    Args:
        path: the file; a pattern; "-" for standard input; or a buffered binary stream of its content. Compression is told by
            the content, not by the name.

    Returns:
        Generator of str.

    Raises:
        ValueError: the file is missing or unreadable, its compressed data are damaged, or a line is not
            UTF-8.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_transformer.text import read_lines
    >>> file = pathlib.Path(tempfile.mkdtemp(), "train.en")
    >>> size = file.write_bytes(b"A dog runs.\\r\\nA cat sleeps.")
    >>> list(read_lines(file))
    ['A dog runs.', 'A cat sleeps.']
    """
    files = shards(path) if isinstance(path, str | os.PathLike) else [path]
    return (line for file in files for _, line in lines_of(file))


class PairStream:
    """The pairs of a corpus, one after the other, filtered and counted; it can be iterated over again, but for standard input.

    Args:
        source: path of a text file, a pattern of shards, "-" for standard input, or a list of str. Or, with target=None, of a
            file with both sides in it: ``.tsv``, ``.jsonl``, ``.parquet``.
        target: the same for the other side; as many shards, each of as many lines.
        columns: of source and target in a file with both: numbers from 0 in TSV, or names that its first line gives, which is then
            no pair; names in JSONL and Parquet, where a dot leads into nested values ("translation.en").
        filters: Filters.
        normalization: "NFC" or "NFKC" of every line, or None. A Tokenizer normalises too, by its own rule.
        on_bad_line: "error", or "skip" to leave out and count lines that are not UTF-8, hold a NUL, or lack a column.

    Attributes:
        counts: PairCounts of what was read so far; final when the iteration is.

    Raises:
        ValueError: an argument is impossible. While reading: a file is missing, empty, unreadable or not UTF-8, or the line
            counts differ.

    Example:

    >>> from keras_transformer.text import PairStream
    >>> stream = PairStream(["A dog runs.", ""], ["Ein Hund rennt.", "Niemand."])
    >>> list(stream), stream.counts.dropped
    ([(1, 'A dog runs.', 'Ein Hund rennt.')], {'empty': 1})
    """

    def __init__(self, source, target=None, columns=None, filters=None, normalization=None, on_bad_line="error"):
        if normalization not in NORMALIZATIONS:
            raise ValueError(f'normalization must be "NFC", "NFKC" or None. Received: {normalization!r}.')
        if on_bad_line not in ("error", "skip"):
            raise ValueError(f'on_bad_line must be "error" or "skip". Received: {on_bad_line!r}.')
        self.source, self.target = source, target
        self.columns = columns
        if not isinstance(filters, Filters | None):
            raise ValueError(
                f"filters must be a Filters, or None. Received: {filters!r}. Give Filters(max_ratio=9), say."
            )
        self.filters = filters
        self.normalization = normalization
        self.on_bad_line = on_bad_line
        self.counts = PairCounts(0, 0)
        self._in_memory = []  # lists of str
        self._begins = []  # (first line - 1, name of the source's shard, of the target's)
        self._parts = self._open()

    def _open(self):
        """What is read in turn: (name of the source, of the target, function that gives (number, source, target))."""
        skip = self.on_bad_line == "skip"
        check_columns(self.columns, table_kind(self.source) if _is_path(self.source) else None)
        if _is_path(self.source) and table_kind(self.source):
            if self.target is not None:
                raise ValueError(
                    f"{self.source} holds both sides, by its name. Received also target={self.target!r}. Give no target."
                )
            files = shards(self.source)
            return [(name_of(file),) * 2 + (lambda file=file: rows_of(file, self.columns, skip),) for file in files]
        if self.target is None and _is_path(self.source) and os.path.isdir(self.source):
            raise ValueError(
                f"{self.source} is a folder. Text is read from files; a folder of prepared text is read by kt.Batches and train."
            )
        if self.target is None:
            raise ValueError(
                f"There is no target for the source {self.source!r:.80}. Give one, or a .tsv, .jsonl or .parquet file of both."
            )
        if is_standard_input(self.source) and is_standard_input(self.target):
            raise ValueError("Standard input cannot be both sides. Give a file for one, or a .tsv file of both.")
        sources, targets = (
            self._side_parts(text, name, skip) for text, name in ((self.source, "source"), (self.target, "target"))
        )
        if len(sources) != len(targets):
            raise ValueError(
                f"{self.source} names {len(sources)} files, {self.target} names {len(targets)}. Each shard of one must be the "
                "translation of one shard of the other, in the order of their names."
            )
        return [_zipped(source, target) for source, target in zip(sources, targets, strict=True)]

    @property
    def names(self):
        """Names of all files, shard by shard the source's and the target's; one name where both are in one file."""
        return [name for part in self._parts for name in dict.fromkeys(part[:2])]

    def digest(self):
        """sha256 of the sides that are in memory, in hexadecimal digits; None where both are files, which have names."""
        if not self._in_memory:
            return None
        digest = hashlib.sha256()
        for line in itertools.chain.from_iterable(self._in_memory):
            line = line.encode("utf-8", "surrogatepass")
            digest.update(b"%d\n%b" % (len(line), line))
        return digest.hexdigest()

    def _side_parts(self, text, name, skip):
        """[(name, function that gives (number, line))] of the shards of one side."""
        if _is_path(text):
            return [(name_of(file), lambda file=file: lines_of(file, skip)) for file in shards(text)]
        if isinstance(text, bytes) or not isinstance(text, Iterable):
            _refuse(text, name)
        lines = list(text)
        for number, line in enumerate(lines, start=1):
            if not isinstance(line, str):
                _refuse(line, f"Line {number} of {name}")
        self._in_memory.append(lines)
        return [(name, lambda: characters(lines, name, skip))]

    @property
    def source_name(self):
        return name_of(self.source) if _is_path(self.source) else "source"

    @property
    def target_name(self):
        if self.target is None:
            return self.source_name
        return name_of(self.target) if _is_path(self.target) else "target"

    def __iter__(self):
        """(line number across all shards from 1, source, target) of each pair that is kept."""
        sieve = Sieve(self.filters)
        self._begins, before = [], 0
        for source_name, target_name, read in self._parts:
            self._begins.append((before, source_name, target_name))
            number = 0
            for number, source, target in read():
                source, target = self._normalized(source), self._normalized(target)
                kept = sieve.passes(source, target)
                self.counts = sieve.counts if number % 4096 == 0 else self.counts
                if kept:
                    yield before + number, source, target
            before += number
        self.counts = sieve.counts

    def _normalized(self, text):
        return text if text is None or self.normalization is None else unicodedata.normalize(self.normalization, text)

    def place(self, line, side="source"):
        """ "file:line" of a pair that was read."""
        before, *names = next(begin for begin in reversed(self._begins) if begin[0] < line)
        return f"{names[side == 'target']}:{line - before}"


def _is_path(text):
    return isinstance(text, str | os.PathLike)


def _refuse(value, name):
    raise ValueError(f"{name} is of type {type(value).__name__}: {value!r}. Expected a file's path or a list of str.")


def _zipped(source, target):
    (source_name, source_lines), (target_name, target_lines) = source, target

    def read():
        nothing = (0, None)
        count, sides = 0, (source_lines(), target_lines())
        for one, other in itertools.zip_longest(*sides, fillvalue=nothing):
            if nothing in (one, other):
                more = sum(1 for _ in (sides[1] if one is nothing else sides[0])) + 1
                found = (count, count + more) if one is nothing else (count + more, count)
                raise _unequal((source_name, target_name), found)
            count += 1
            yield count, one[1], other[1]
        if not count:
            raise ValueError(f"{source_name} and {target_name} are empty. Give texts with one sentence a line.")

    return source_name, target_name, read


def _unequal(names, found):
    for name, count in zip(names, found, strict=True):
        if not count:
            return ValueError(f"{name} is empty. Give a text with one sentence a line.")
    return ValueError(
        f"{names[0]} has {found[0]} lines, {names[1]} has {found[1]}. "
        "Line n of one must translate line n of the other: give files of equal length."
    )


def read_pairs(source, target=None, **kwargs):
    """Two aligned texts as validated pairs, all of them in memory; PairStream reads one after the other.

    Pairs of which a side is blank are left out and counted.

    Args:
        source: path of a text file, or a list of str; see PairStream.
        target: the same for the other side; as many lines.
        kwargs: further arguments of PairStream.

    Returns:
        Corpus.

    Raises:
        ValueError: a file is missing, empty, unreadable or not UTF-8; the line counts differ; no
            pair is left.

    Example:

    >>> from keras_transformer.text import read_pairs
    >>> corpus = read_pairs(["A dog runs.", ""], ["Ein Hund rennt.", "Niemand."])
    >>> corpus.source, corpus.target, corpus.counts.empty
    (['A dog runs.'], ['Ein Hund rennt.'], 1)
    """
    stream = PairStream(source, target, **kwargs)
    kept = list(stream)
    if not kept:
        raise ValueError(none_left(stream, stream.counts))
    lines, sources, targets = (list(column) for column in zip(*kept, strict=True))
    return Corpus(sources, targets, lines, stream.counts, stream.source_name, stream.target_name)


def none_left(stream, counts):
    """What to say of a corpus of which no pair is kept.

    Args:
        stream: PairStream or Corpus, for its names.
        counts: PairCounts of what was read, perhaps by other processes than this.
    """
    names = " and ".join(dict.fromkeys((stream.source_name, stream.target_name)))
    if counts.dropped.keys() <= {"empty"}:
        return (
            f"{names} hold no pair: on each of {counts.lines} lines a side is blank. "
            "Give files with text on both sides."
        )
    return f"{names} hold no pair that passes: {counts}. Give other texts or wider filters."
