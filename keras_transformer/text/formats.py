"""Files of text -> lines, one after the other, never a whole file in memory: plain, gzip, zstd, TSV, JSONL, Parquet, shards.

First in the flow. What a file holds is told by its content where that can be (gzip, zstd), else by its name. Only a line feed
ends a line; the CR of a CRLF and a byte order mark at the start of a file are taken off. Needs no Keras.
"""

import contextlib
import glob
import gzip
import importlib
import io
import json
import os
import sys
import zlib
from pathlib import Path

_GZIP_MAGIC, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))  # pzstd begins with one
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Longer lines are no sentences but a file of another kind, which would be read into memory as one line.
MOST_BYTES = 2**26
# What NUL in a line tells: UTF-16 of ASCII letters is valid UTF-8 with one beside each letter.
_NUL = (
    "holds a NUL, which is no text. Is the file UTF-16? Convert it to UTF-8, for instance with iconv, or mend the line."
)
_TABLES = {".tsv": "tsv", ".jsonl": "jsonl", ".parquet": "parquet"}


class BadLine(ValueError):
    """A line that cannot be read, told with file and line; ``on_bad_line="skip"`` counts it instead."""


def shards(path):
    """The files that a path names: itself; for a pattern with ``*``, ``?`` or ``[]``, all that match, by name.

    Raises:
        ValueError: no file matches.
    """
    name = os.fspath(path)
    if os.path.exists(name) or not glob.has_magic(name):
        return [path]
    found = sorted(glob.glob(name))
    if not found:
        raise ValueError(f"No file matches {name} (looked in {Path.cwd()}). Check the pattern.")
    return found


def name_of(path):
    """What to call a file or stream in messages."""
    if is_standard_input(path):
        return "standard input"
    return os.fspath(path) if isinstance(path, str | os.PathLike) else getattr(path, "name", "the text")


def is_standard_input(path):
    return isinstance(path, str) and path == "-"


def table_kind(path):
    """ "tsv", "jsonl" or "parquet" for a file with both sides in it, by its name; else None."""
    suffixes = [suffix.lower() for suffix in Path(name_of(path)).suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    return _TABLES.get(suffixes[-1]) if suffixes else None


def lines_of(path, skip_bad=False):
    """The lines of a UTF-8 text file; with skip_bad None for one that cannot be read.

    Yields:
        (line number from 1, str or None).

    Raises:
        BadLine: a line is not UTF-8, holds a NUL, or is longer than MOST_BYTES.
        ValueError: the file is missing, unreadable or damaged.
    """
    name = name_of(path)
    for number, line in enumerate(_binary_lines(path, name), start=1):
        try:
            yield number, _text(line, number, name)
        except BadLine:
            if not skip_bad:
                raise
            yield number, None


def _text(line, number, name):
    if line is None:
        raise BadLine(
            f"{name}:{number} is longer than {MOST_BYTES:,} bytes: that is no text of a sentence a line. Break the line, or "
            "leave it out."
        )
    if number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLine(
            f"{name}:{number} is not UTF-8: byte 0x{line[error.start]:02x} at column {error.start + 1}. "
            "Convert the file to UTF-8, for instance with iconv, or mend the line."
        ) from None
    if "\0" in text:
        raise BadLine(f"{name}:{number} {_NUL}")
    return text


def _binary_lines(path, name):
    """Lines as bytes with their line feed; None for one that is too long."""
    try:
        with _opened(path) as plain, _decompressed(plain) as stream:
            while line := stream.readline(MOST_BYTES + 1):
                if len(line) <= MOST_BYTES:
                    yield line
                    continue
                while line and not line.endswith(b"\n"):
                    line = stream.readline(MOST_BYTES)
                yield None
    except FileNotFoundError:
        raise ValueError(f"There is no file {name} (looked in {Path.cwd()}). Check the path.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{name} is a damaged gzip file: {error}. Fetch or compress it again.") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror or error}. Give a readable text file.") from None


def _opened(path):
    if is_standard_input(path):
        return contextlib.nullcontext(sys.stdin.buffer)
    return open(path, "rb") if isinstance(path, str | os.PathLike) else contextlib.nullcontext(path)


def _decompressed(plain):
    begin = plain.peek(4)
    if begin.startswith(_GZIP_MAGIC):
        return gzip.GzipFile(fileobj=plain)
    if begin.startswith((_ZSTD_MAGIC, *_ZSTD_SKIPPABLE)):
        return _zstd(plain)
    return contextlib.nullcontext(plain)


@contextlib.contextmanager
def _zstd(plain):
    zstandard = of_extra("zstandard", "A zstd file", "data")
    try:
        yield io.BufferedReader(_Frames(plain, zstandard.ZstdDecompressor()), 2**20)
    except (zstandard.ZstdError, EOFError) as error:
        raise ValueError(f"{name_of(plain)} is a damaged zstd file: {error}. Fetch or compress it again.") from None


class _Frames(io.RawIOBase):
    """The frames of a zstd file as one stream. zstandard's own reader takes a file that was cut for a finished one."""

    def __init__(self, plain, decompressor):
        self._plain, self._decompressor = plain, decompressor
        self._frame, self._rest, self._ready = None, b"", b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._ready:
            chunk = self._rest or self._plain.read(2**17)
            if not chunk and self._frame is not None:
                raise EOFError("it ends within a frame")
            if not chunk:
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._ready, self._rest = self._frame.decompress(chunk), b""
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def characters(texts, name, skip_bad=False):
    """The texts of a list as lines; with skip_bad None for one with a NUL, or with a lone surrogate, which is no character.

    Yields:
        (number from 1, str or None).

    Raises:
        BadLine: a text has a NUL or a lone surrogate.
    """
    for number, text in enumerate(texts, start=1):
        has_nul = "\0" in text
        if not has_nul and (text.isascii() or not _has_surrogate(text)):
            yield number, text
        elif skip_bad:
            yield number, None
        elif has_nul:
            raise BadLine(f"{name}:{number} {_NUL}")
        else:
            raise BadLine(
                f"{name}:{number} has a lone surrogate, which is no character. Mend the line, or leave it out."
            )


def _has_surrogate(text):
    """Whether there is half of a pair, which JSON and Python can spell and UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def check_columns(columns, kind):
    """Raises ValueError unless these columns can be of a file of that kind, as table_kind tells it."""
    if columns is None:
        return
    if kind is None:
        raise ValueError(
            f"Columns are of a .tsv, .jsonl or .parquet file with both sides in it. Received: columns={columns!r} for other text. "
            "Leave them out."
        )
    is_pair = isinstance(columns, tuple | list) and len(columns) == 2
    are_names = is_pair and all(isinstance(column, str) and column != "" for column in columns)
    are_numbers = is_pair and all(type(column) is int and column >= 0 for column in columns)
    if not are_names and not (are_numbers and kind == "tsv"):
        form = "two numbers from 0, or two names that its first line gives" if kind == "tsv" else "two names"
        raise ValueError(
            f"The columns of source and target in a .{kind} file are {form}. Received: columns={columns!r}."
        )


def rows_of(path, columns=None, skip_bad=False):
    """The pairs of a file with both sides in it: TSV, JSONL or Parquet, by its name.

    Args:
        path: the file.
        columns: of source and target: numbers from 0 in TSV, (0, 1) if not given, or names, which the first line of every file
            then gives; names in the others, where a dot leads into nested values, ("source", "target") if not given.
        skip_bad: (None, None) for a row that cannot be read.

    Yields:
        (row number from 1, source, target).

    Raises:
        BadLine: a row lacks a column or holds something else than text.
        ValueError: the file is missing, unreadable or damaged.
    """
    kind = table_kind(path)
    if kind == "parquet":
        yield from _parquet_rows(path, columns or ("source", "target"), skip_bad)
        return
    columns = columns or ((0, 1) if kind == "tsv" else ("source", "target"))
    fields = _tsv_fields if kind == "tsv" else _json_fields
    lines = lines_of(path, skip_bad)
    if kind == "tsv" and isinstance(columns[0], str):
        columns = _named_columns(lines, columns, name_of(path))
    for number, line in lines:
        try:
            pair = (None, None) if line is None else fields(line, columns, f"{name_of(path)}:{number}")
        except BadLine:
            if not skip_bad:
                raise
            pair = None, None
        yield number, *pair


def _named_columns(lines, columns, name):
    """Numbers of the columns of these names; takes the first line, which has the names, from the lines."""
    _, line = next(lines, (0, None))
    names = [] if line is None else line.split("\t")
    missing = [column for column in columns if names.count(column) != 1]
    if missing:
        raise ValueError(
            f"{name}:1 names the columns {', '.join(map(repr, names))}. Expected {missing[0]!r} once. Give names of these, or "
            "numbers from 0 for a file whose first line is a pair."
        )
    return [names.index(column) for column in columns]


def _tsv_fields(line, columns, place):
    fields = line.split("\t")
    if len(fields) <= max(columns):
        raise BadLine(
            f"{place} has {len(fields)} columns, {max(columns) + 1} are needed. Separate source and target by one tab."
        )
    return [fields[column] for column in columns]


def _json_fields(line, columns, place):
    if not line.strip():
        return "", ""  # counted as empty
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # of brackets within brackets
        raise BadLine(f"{place} is not JSON: {error}. Write one object a line.") from None
    return [_field(row, column, place) for column in columns]


def _field(row, column, place):
    value = row
    for part in _path(column, row if isinstance(row, dict) else ()):
        if not isinstance(value, dict) or part not in value:
            found = ", ".join(map(repr, value)) if isinstance(value, dict) else repr(value)[:80]
            raise BadLine(
                f"{place} has no {column!r}. Found: {found}. Name the columns of source and target: "
                "PairStream(..., columns=), or --columns of inspect and prepare."
            )
        value = value[part]
    if not isinstance(value, str):
        raise BadLine(f"{place} holds {value!r:.80} as {column!r}. Expected text.")
    if "\0" in value:
        raise BadLine(f"{place} {_NUL}")
    if not value.isascii() and _has_surrogate(value):
        raise BadLine(f"{place} has a lone surrogate in {column!r}, which is no character. Mend the line.")
    return value


def _path(column, names):
    """What leads to a column: its name, if there is one of that name, or the parts between its dots."""
    return [column] if column in names else column.split(".")


def _parquet_rows(path, columns, skip_bad):
    parquet = of_extra("pyarrow.parquet", "A Parquet file", "data")
    arrow = of_extra("pyarrow", "A Parquet file", "data")
    name, number = name_of(path), 0
    try:
        with parquet.ParquetFile(path) as file:
            tops = list(dict.fromkeys(_path(column, file.schema_arrow.names)[0] for column in columns))
            missing = [top for top in tops if top not in file.schema_arrow.names]
            if missing:
                found = ", ".join(map(repr, file.schema_arrow.names))
                raise ValueError(
                    f"{name} has no column {missing[0]!r}. Found: {found}. Name those of source and "
                    "target: PairStream(..., columns=), or --columns of inspect and prepare."
                )
            for batch in file.iter_batches(batch_size=4096, columns=tops):
                for row in batch.to_pylist():
                    number += 1
                    try:
                        pair = [_field(row, column, f"{name}:{number}") for column in columns]
                    except BadLine:
                        if not skip_bad:
                            raise
                        pair = None, None
                    yield number, *pair
    except FileNotFoundError:
        raise ValueError(f"There is no file {name} (looked in {Path.cwd()}). Check the path.") from None
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{name} is no readable Parquet file: {error}. Fetch or write it again.") from None


def of_extra(name, what, extra):
    """The module of that name, which ``what`` needs.

    Raises:
        ValueError: it is not installed; names the extra that has it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise ValueError(
            f"{what} needs {name.partition('.')[0]}, which is not installed. Install keras-transformer[{extra}]."
        ) from None
