"""Prepared text: shards of ids and text as Arrow files, read by random access without loading them. Needs no Keras.

prepared.json        what it was made from and how, the counts, and each shard's size and checksum; written last
tokenizer.model      the tokenizer that made the ids
shard-00000.arrow    one record batch: source, target (lists of ids), source_text, target_text, line

Arrow's file format is read in place: the operating system pages in what is looked at. Pages looked at are given back now and then,
so that memory does not grow with the corpus.
"""

import json
import mmap
import os
import zlib
from pathlib import Path

import numpy as np

from keras_transformer.text.formats import _module

MANIFEST, TOKENIZER = "prepared.json", "tokenizer.model"
# Rows looked at before the pages are given back: about 100 MB of pages at one page each.
_ROWS_HELD = 25_000


def arrow():
    return _module("pyarrow", "Prepared text", "data")


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
        ValueError: there is none, or the preparation was not finished.
    """
    path = Path(folder, MANIFEST)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no prepared text: {error}. Make it with keras-transformer prepare.") from None
    if not manifest.get("finished"):
        raise ValueError(
            f"The preparation in {folder} was broken off. The same keras-transformer prepare goes on with it."
        )
    return manifest


class Store:
    """Prepared text, opened for reading.

    Args:
        folder: where keras-transformer prepare wrote it.
        verify: whether to compare the checksum of every shard first, which reads all of it.

    Attributes:
        manifest: dict.
        num_pairs: int.

    Raises:
        ValueError: it is not finished, or a shard is missing, of another size or damaged.
    """

    def __init__(self, folder, verify=False):
        self.folder = os.fspath(folder)
        self.manifest = read_manifest(folder)
        self._shards, self._firsts, self._held = [], [], 0
        first = 0
        for about in self.manifest["shards"]:
            self._shards.append(self._open(about, verify))
            self._firsts.append(first)
            first += about["pairs"]
        self._firsts = np.array(self._firsts)
        self.num_pairs = first
        self.source, self.target = _Side(self, "source"), _Side(self, "target")
        self.source_texts, self.target_texts = _TextSide(self, "source_text"), _TextSide(self, "target_text")

    def __reduce__(self):
        return Store, (self.folder,)  # a worker opens the files itself

    def _open(self, about, verify):
        path = Path(self.folder, about["file"])
        if not path.is_file() or path.stat().st_size != about["bytes"]:
            found = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
            raise ValueError(
                f"{path} must have {about['bytes']:,} bytes. Found: {found}. Delete {MANIFEST} and prepare again."
            )
        if verify and _crc32(path) != about["crc32"]:
            raise ValueError(
                f"{path} is damaged: its checksum is another. Delete it and {MANIFEST}, and prepare again."
            )
        return _Shard(path)

    def shard_of(self, pair):
        """(shard, number in it) of a pair."""
        (shard,), (number,) = self.places(np.array([pair]))
        return self._shards[shard], number

    def places(self, pairs):
        """Lists of the shard of each of these pairs, and of its number in it."""
        shards = np.searchsorted(self._firsts, pairs, side="right") - 1
        return shards.tolist(), (pairs - self._firsts[shards]).tolist()

    def looked_at(self, rows):
        """Gives pages back from time to time; they stay in the operating system's cache while it has room."""
        self._held += rows
        if self._held >= _ROWS_HELD:
            self._held = 0
            for shard in self._shards:
                shard.forget()


class _Shard:
    """One Arrow file, mapped."""

    def __init__(self, path):
        pa = arrow()
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)
        self._batch = pa.ipc.open_file(pa.py_buffer(self._map)).get_batch(0)

    def lists(self, name):
        """(all ids of a side, begin of each row and the end of the last)."""
        column = self._batch.column(name)
        return column.values.to_numpy(zero_copy_only=True), column.offsets.to_numpy(zero_copy_only=True)

    def text(self, name, number):
        return self._batch.column(name)[number].as_py()

    def line(self, number):
        return self._batch.column("line")[number].as_py()

    def forget(self):
        self._map.madvise(mmap.MADV_DONTNEED)


class _Side:
    """One side's rows, with the ``take`` of a Rows."""

    def __init__(self, store, name):
        self._store, self._name = store, name
        # Of each shard; a place of a memoryview is read faster than one of an array.
        lists = [shard.lists(name) for shard in store._shards]
        self._ids, self._offsets = [ids for ids, _ in lists], [memoryview(offsets) for _, offsets in lists]

    def __reduce__(self):
        return _Side, (self._store, self._name)

    @property
    def lengths(self):
        """Of all rows, read anew from the files."""
        parts = [np.diff(np.asarray(offsets)) for offsets in self._offsets]
        self._store.looked_at(self._store.num_pairs)
        return np.concatenate([np.zeros(0, "int32"), *parts])

    def take(self, numbers):
        """Those rows one after the other: (ids, begin of each, length of each)."""
        # Row by row, because a batch has but a few rows of each shard: a call of NumPy for each shard takes four times as long.
        ids, offsets = self._ids, self._offsets
        places = zip(*self._store.places(numbers), strict=True)
        rows = [ids[shard][offsets[shard][number] : offsets[shard][number + 1]] for shard, number in places]
        lengths = np.fromiter(map(len, rows), "int64", len(rows))
        self._store.looked_at(len(numbers))
        return np.concatenate(rows), np.cumsum(lengths) - lengths, lengths


class _TextSide:
    def __init__(self, store, name):
        self._store, self._name = store, name

    def text(self, pair):
        shard, number = self._store.shard_of(pair)
        self._store.looked_at(1)
        return shard.text(self._name, number)

    def line(self, pair):
        shard, number = self._store.shard_of(pair)
        return shard.line(number)
