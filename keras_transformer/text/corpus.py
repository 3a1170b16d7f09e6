"""Two aligned texts read as pairs, so that line n of one is always the translation of line n of the other.

Text readers disagree on what ends a line (a lone CR, U+2028 and others), which silently shifts one
side against the other. Here only the line feed does. Nothing is left out without being counted.
"""

import contextlib
import dataclasses
import gzip
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class PairCounts:
    """What became of the lines of a corpus: ``lines = kept + empty``.

    Args:
        lines: line pairs read.
        kept: pairs in the corpus.
        empty: pairs left out because a side is blank.
    """

    lines: int
    kept: int
    empty: int


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Pairs of sentences; ``source[i]`` translates to ``target[i]``.

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


def read_lines(path):
    """The lines of a UTF-8 text file, plain or gzip, one after the other.

    Only a line feed ends a line; the CR of a CRLF and a byte order mark at the start of the file
    are taken off.

    Args:
        path: the file, or a buffered binary stream of its content, such as sys.stdin.buffer. gzip is told by the content,
            not by the name.

    Returns:
        Generator of str.

    Raises:
        ValueError: the file is missing or unreadable, its gzip data are damaged, or a line is not
            UTF-8.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_transformer.text import read_lines
    >>> file = pathlib.Path(tempfile.mkdtemp(), "train.en")
    >>> size = file.write_bytes(b"A dog runs.\\r\\nA cat sleeps.")
    >>> list(read_lines(file))
    ['A dog runs.', 'A cat sleeps.']
    """
    name = path if isinstance(path, str | os.PathLike) else getattr(path, "name", "the text")
    for number, line in enumerate(_binary_lines(path, name), start=1):
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name}:{number} is not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}. "
                "Convert the file to UTF-8, for instance with iconv, or mend the line."
            ) from None


def _binary_lines(path, name):
    try:
        with open(path, "rb") if isinstance(path, str | os.PathLike) else contextlib.nullcontext(path) as plain:
            compressed = plain.peek(2).startswith(_GZIP_MAGIC)
            yield from gzip.GzipFile(fileobj=plain) if compressed else plain
    except FileNotFoundError:
        raise ValueError(f"There is no file {name} (looked in {Path.cwd()}). Check the path.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} is a damaged gzip file: {error}. Fetch or compress it again.") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}. Give a readable text file.") from None


def read_pairs(source, target):
    """Two aligned texts as validated pairs.

    Pairs of which a side is blank are left out and counted.

    Args:
        source: path of a text file (plain or gzip), or a list of str.
        target: the same for the other side; as many lines.

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
    source_lines, source_name = _side(source, "source")
    target_lines, target_name = _side(target, "target")
    if len(source_lines) != len(target_lines):
        raise ValueError(
            f"{source_name} has {len(source_lines)} lines, {target_name} has {len(target_lines)}. "
            "Line n of one must translate line n of the other: give files of equal length."
        )
    kept = [
        (number, *pair)
        for number, pair in enumerate(zip(source_lines, target_lines, strict=True), start=1)
        if all(side.strip() for side in pair)
    ]
    if not kept:
        raise ValueError(
            f"{source_name} and {target_name} hold no pair: on each of {len(source_lines)} lines a side is blank. "
            "Give files with text on both sides."
        )
    counts = PairCounts(lines=len(source_lines), kept=len(kept), empty=len(source_lines) - len(kept))
    lines, sources, targets = (list(column) for column in zip(*kept, strict=True))
    return Corpus(sources, targets, lines, counts, source_name, target_name)


def _side(text, name):
    """The lines of one side and what to call it in messages."""
    if isinstance(text, str | os.PathLike):
        name, lines = os.fspath(text), list(read_lines(text))
    else:
        if isinstance(text, bytes) or not isinstance(text, Iterable):
            _refuse(text, name)
        lines = list(text)
        for number, line in enumerate(lines, start=1):
            if not isinstance(line, str):
                _refuse(line, f"Line {number} of {name}")
    if not lines:
        raise ValueError(f"{name} is empty. Give a text with one sentence a line.")
    return lines, name


def _refuse(value, name):
    raise ValueError(f"{name} is of type {type(value).__name__}: {value!r}. Expected a file's path or a list of str.")
