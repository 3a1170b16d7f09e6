"""Prepared text: shards of ids and text as Arrow files, read by random access without loading them. Needs no Keras.

prepared.json        what it was made from and how, the counts, and each shard's size and checksum; written last
tokenizer.model      the tokenizer that made the ids
shard-00000.arrow    one record batch: source, target (lists of ids), source_text, target_text, line

Rows are read by their place in the file, a few bytes each, and not through a mapping: of mapped files Linux may count 2 MB as
resident for every row that is looked at.
"""

import itertools
import json
import mmap
import os
import re
import weakref
import zlib
from pathlib import Path

import numpy as np

from keras_transformer.text.formats import of_extra

MANIFEST, TOKENIZER = "prepared.json", "tokenizer.model"
# In text of several corpora, or of several files, the line numbers of part n, from 0, begin at n times this.
LINES = 2**40
FORMAT = 1
_SHARD = re.compile(r"shard-\d{5,}\.arrow")
_WIDTHS = {"uint16": np.dtype("<u2"), "int32": np.dtype("<i4")}  # of ids


def arrow():
    return of_extra("pyarrow", "Prepared text", "data")


def shard_name(number):
    return f"shard-{number:05d}.arrow"


def write_shard(path, columns, vocabulary_size, counts):
    """Writes a shard under another name and renames it, so that a kill leaves the whole file or none.

    Args:
        path: of the file.
        columns: {"source": Rows, "target": Rows, "source_text": list of str, "target_text": likewise, "line": list of int}.
        vocabulary_size: of the larger vocabulary, which decides how wide an id is stored.
        counts: dict of numbers, stored with it.

    Returns:
        dict: what the manifest says of the shard.
    """
    pa = arrow()
    width = "uint16" if vocabulary_size <= 2**16 else "int32"
    arrays = {
        "source": _lists(pa, columns["source"], width),
        "target": _lists(pa, columns["target"], width),
        "source_text": pa.array(columns["source_text"], pa.string()),
        "target_text": pa.array(columns["target_text"], pa.string()),
        "line": pa.array(columns["line"], pa.int64()),
    }
    batch = pa.record_batch(arrays)
    schema = batch.schema.with_metadata({"counts": json.dumps(counts)})
    new = Path(f"{path}.new")
    with pa.OSFile(str(new), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    about = describe_shard(new)
    os.replace(new, path)
    return about


def _lists(pa, rows, width):
    offsets = np.append(0, np.cumsum(rows.lengths)).astype("int32")
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.ids.astype(width)))


def describe_shard(path):
    """{"pairs", "counts", "bytes", "crc32"} of a shard.

    Raises:
        ValueError: it is no whole shard.
    """
    pa = arrow()
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            counts = json.loads(reader.schema.metadata[b"counts"])
            pairs = reader.get_batch(0).num_rows if reader.num_record_batches else 0
        return {"pairs": pairs, "counts": counts, "bytes": os.path.getsize(path), "crc32": _crc32(path)}
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no whole shard: {error}. Delete it and prepare again.") from None


def _crc32(path):
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            crc = zlib.crc32(chunk, crc)
    return crc


def read_manifest(folder):
    """The manifest of prepared text.

    Raises:
        ValueError: there is none, it is damaged, or the preparation was not finished.
    """
    path = Path(folder, MANIFEST)
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no prepared text: there is no {MANIFEST}. Make it with keras-transformer prepare."
        )
    manifest = checked_manifest(path)
    if not manifest.get("finished"):
        raise ValueError(
            f"The preparation in {folder} was broken off. The same keras-transformer prepare goes on with it."
        )
    return manifest


def checked_manifest(path):
    """What a prepared.json says, which may be of a preparation that was not finished.

    Raises:
        ValueError: it is damaged, or of another format.
    """
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}. Prepare the text into a new folder.") from None
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise ValueError(f"{path} is damaged: it tells no format. Prepare the text into a new folder.")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{path} is of format {manifest['format']!r}; this release reads format {FORMAT}. Read it with the release that wrote "
            "it, or prepare the text into a new folder."
        )
    wrong = _wrong_in(manifest) if manifest.get("finished") else None
    if wrong:
        raise ValueError(f"{path} is damaged: {wrong}. Prepare the text into a new folder.")
    return manifest


def _wrong_in(manifest):
    """What a finished manifest lacks or contradicts; None if it is sound."""
    if not isinstance(manifest.get("tokenizer"), str) or not _is_count(manifest.get("vocabulary_size")):
        return "it lacks the tokenizer's sha256 or the vocabulary_size"
    counts, shards = manifest.get("counts"), manifest.get("shards")
    if not _are_counts(counts) or counts["lines"] != counts["kept"] + sum(counts["dropped"].values()):
        return f"its counts are {counts!r:.200}"
    if not isinstance(shards, list):
        return "it lacks the shards"
    for about in shards:
        if not isinstance(about, dict) or not all(_is_count(about.get(name)) for name in ("pairs", "bytes", "crc32")):
            return f"of a shard it says {about!r:.200}"
        if not isinstance(about.get("file"), str) or not _SHARD.fullmatch(about["file"]):
            return f"a shard's name is {about.get('file')!r}"
    if counts["kept"] != sum(about["pairs"] for about in shards):
        return f"its shards have {sum(about['pairs'] for about in shards)} pairs, its counts tell {counts['kept']}"
    return None


def _are_counts(counts):
    return (
        isinstance(counts, dict)
        and counts.keys() == {"lines", "kept", "dropped"}
        and isinstance(counts["dropped"], dict)
        and all(map(_is_count, (counts["lines"], counts["kept"], *counts["dropped"].values())))
    )


def _is_count(value):
    return type(value) is int and value >= 0


def damaged_shards(folder, manifest):
    """Names of the shards that are missing or not, byte for byte, what was written; reads all of them."""
    return [about["file"] for about in manifest["shards"] if not _is_whole(Path(folder, about["file"]), about)]


def _is_whole(path, about):
    return path.is_file() and path.stat().st_size == about["bytes"] and _crc32(path) == about["crc32"]


class Store:
    """Prepared text, opened for reading: every shard is compared with its checksum first, once; a worker compares sizes alone.

    Args:
        folder: where keras-transformer prepare wrote it.
        is_checked: whether somebody has compared the checksums.

    Attributes:
        manifest: dict.
        num_pairs: int.

    Raises:
        ValueError: it is not finished, a shard is missing or not what was written, or more shards than a process may open.
    """

    def __init__(self, folder, is_checked=False):
        self.folder = os.fspath(folder)
        self.manifest = read_manifest(folder)
        for about in self.manifest["shards"]:
            _check_size(Path(folder, about["file"]), about["bytes"])
        damaged = [] if is_checked else damaged_shards(folder, self.manifest)
        if damaged:
            raise _damaged(Path(folder, damaged[0]), "its checksum is another")
        self.shards = [self._open(about) for about in self.manifest["shards"]]
        sizes = np.array([about["pairs"] for about in self.manifest["shards"]])
        self._firsts = np.cumsum(sizes) - sizes
        self.num_pairs = int(sizes.sum())
        self.source, self.target = _Side(self, "source"), _Side(self, "target")
        self.source_texts, self.target_texts = _TextSide(self, "source_text"), _TextSide(self, "target_text")

    def __reduce__(self):
        return Store, (self.folder, True)  # a worker opens the files itself

    def _open(self, about):
        path = Path(self.folder, about["file"])
        try:
            shard = _Shard(path)
        except (arrow().ArrowException, AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, error) from None
        except OSError as error:
            if error.errno is None:  # Arrow's, of a damaged foot
                raise _damaged(path, error) from None
            raise ValueError(
                f"{path} cannot be opened: {error.strerror}. All {len(self.manifest['shards'])} shards are open at a time: allow "
                "as many files (ulimit -n), or prepare the text with more pairs a shard."
            ) from None
        if shard.pairs != about["pairs"]:
            raise _damaged(path, f"it holds {shard.pairs} pairs instead of {about['pairs']}")
        return shard

    def places(self, pairs):
        """The shard of each of these pairs, and its number in it."""
        shards = np.searchsorted(self._firsts, pairs, side="right") - 1
        return shards, pairs - self._firsts[shards]


def _check_size(path, size):
    found = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
    if found != f"{size:,} bytes":
        raise ValueError(
            f"{path} must have {size:,} bytes. Found: {found}. The same keras-transformer prepare makes it anew."
        )


def _damaged(path, why):
    return ValueError(f"{path} is damaged: {why}. The same keras-transformer prepare makes it anew.")


class _Shard:
    """One Arrow file: where in it the columns begin.

    Attributes:
        file: descriptor of the shard, open for reading.
        pairs: number of pairs in it.
        columns: {name: (place of the begins of its rows, place of what they hold, dtype of ids)}; of "line" first the place of
            the numbers.
    """

    def __init__(self, path):
        pa = arrow()
        self.file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_RANDOM)
        # Mapped for a moment: an address less the first one is a place in the file.
        whole = pa.py_buffer(mmap.mmap(self.file, 0, access=mmap.ACCESS_READ))
        batch = pa.ipc.open_file(whole).get_batch(0)
        self.pairs = batch.num_rows
        self.columns = {}
        for name in batch.schema.names:
            column = batch.column(name)
            places = [buffer.address - whole.address for buffer in column.buffers() if buffer is not None]
            ids = _WIDTHS[str(column.type.value_type)] if name in ("source", "target") else None
            self.columns[name] = (*[*places, 0, 0][:2], ids)  # an empty shard may have no place


class _Column:
    """A column of rows of different lengths, in all shards."""

    def __init__(self, store, name):
        self._store, self._name = store, name
        columns = [shard.columns[name] for shard in store.shards]
        self._begins, self._values = (np.array([column[part] for column in columns]) for part in (0, 1))
        self.dtype = columns[0][2] if columns else None

    def __reduce__(self):
        return type(self), (self._store, self._name)

    def read(self, pairs, width):
        """(content of those rows one after the other as bytes, length of each); width: bytes of what is counted."""
        shards, numbers = self._store.places(pairs)
        files = [self._store.shards[shard].file for shard in shards.tolist()]
        places = (self._begins[shards] + 4 * numbers).tolist()
        ends = b"".join(map(os.pread, files, itertools.repeat(8), places))
        begins, ends = np.frombuffer(ends, "<i4").astype("int64").reshape(-1, 2).T
        sizes, places = width * (ends - begins), self._values[shards] + width * begins
        return b"".join(map(os.pread, files, sizes.tolist(), places.tolist())), ends - begins


class _Side(_Column):
    """One side's rows, with the ``take`` of a Rows."""

    @property
    def lengths(self):
        """Of all rows, read anew from the files."""
        parts = [np.zeros(0, "int32")]
        for shard, place in zip(self._store.shards, self._begins.tolist(), strict=True):
            parts.append(np.diff(np.frombuffer(os.pread(shard.file, 4 * (shard.pairs + 1), place), "<i4")))
        return np.concatenate(parts)

    def take(self, numbers):
        """Those rows one after the other: (ids, begin of each, length of each)."""
        content, lengths = self.read(numbers, self.dtype.itemsize)
        return np.frombuffer(content, self.dtype), np.cumsum(lengths) - lengths, lengths


class _TextSide(_Column):
    def text(self, pair):
        return self.read(np.array([pair]), 1)[0].decode("utf-8")

    def line(self, pair):
        (shard,), (number,) = self._store.places(np.array([pair]))
        shard = self._store.shards[shard]
        place = shard.columns["line"][0] + 8 * int(number)
        return int.from_bytes(os.pread(shard.file, 8, place), "little")
