"""Text -> shards of ids, once, in parallel processes; what was broken off goes on with the shards that are there. Needs no Keras.

This process reads, normalises and filters the text; workers cut it into pieces and write the shards. So the text is read in one
order, and counted, whatever the number of workers, and a shard holds the same bytes.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from pathlib import Path

from keras_transformer.text.corpus import PairStream, none_left
from keras_transformer.text.filters import PairCounts
from keras_transformer.text.formats import is_standard_input
from keras_transformer.text.pair import source_tokenizer
from keras_transformer.text.rows import CHUNK, RowsBuilder, encode_pairs
from keras_transformer.text.store import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    checked_manifest,
    damaged_shards,
    describe_shard,
    shard_name,
    write_shard,
)
from keras_transformer.text.workers import Workers

# Seconds for one shard of a worker: some 20 times what it takes.
_LONGEST_SHARD = 600


class ShardWriter:
    """What a worker does: pairs of text -> pieces -> a shard.

    Args:
        folder: where shards are written.
        tokenizer: a Tokenizer.
        max_length: most positions of a row, eos counted; longer pairs are left out and counted.
    """

    def __init__(self, folder, tokenizer, max_length):
        self.folder, self.tokenizer, self.max_length = os.fspath(folder), tokenizer, max_length

    def __call__(self, request):
        """(number of the shard, pairs (line, source, target)) -> what the manifest says of it."""
        number, pairs = request
        tokenizers = source_tokenizer(self.tokenizer), self.tokenizer
        sides = [RowsBuilder(tokenizer.vocabulary_size) for tokenizer in tokenizers]
        kept, empty = [], 0
        for begin in range(0, len(pairs), CHUNK):
            chunk = pairs[begin : begin + CHUNK]
            source, target, whole = encode_pairs(self.tokenizer, chunk)
            fitting = [place for place in whole if max(len(source[place]), len(target[place]) - 1) <= self.max_length]
            for side, rows in zip(sides, (source, target), strict=True):
                side.extend([rows[place] for place in fitting], lambda n, at=fitting: f"pair {chunk[at[n]][0]}")  # noqa: B023
            kept += [chunk[place] for place in fitting]
            empty += len(chunk) - len(whole)
        dropped = {"empty": empty, "max_length": len(pairs) - len(kept) - empty}
        counts = {"lines": len(pairs), "kept": len(kept), "dropped": {k: n for k, n in dropped.items() if n}}
        file = shard_name(number)
        columns = {name: side.rows() for name, side in zip(("source", "target"), sides, strict=True)}
        texts = {name: [pair[n] for pair in kept] for n, name in enumerate(("line", "source_text", "target_text"))}
        size = max(tokenizer.vocabulary_size for tokenizer in tokenizers)
        return {"file": file} | write_shard(Path(self.folder, file), columns | texts, size, counts)


def prepare(stream, tokenizer, folder, max_length=256, shard_pairs=100_000, num_workers=1, progress=None):
    """Prepares a corpus into a folder that kt.Batches reads; called again after it was broken off, it goes on.

    Args:
        stream: PairStream; one of standard input is prepared into a new folder, and cannot be gone on with.
        tokenizer: Tokenizer, or TokenizerPair.
        folder: a new folder, or one in which this preparation was begun. If it was finished, its shards are compared with their
            checksums, and those that are damaged or missing made anew.
        max_length: most positions of a row, eos counted; longer pairs are left out and counted.
        shard_pairs: pairs of text a shard.
        num_workers: processes that cut text into pieces; 0 does it here.
        progress: called with (pairs so far) now and then.

    Returns:
        PairCounts.

    Raises:
        ValueError: the text is unfit, the folder holds other files or another preparation, or another process prepares there.
        WorkerError: a worker died, raised, or did not answer in time.

    Example:

    >>> import tempfile
    >>> import keras_transformer as kt
    >>> from keras_transformer.text import PairStream, prepare
    >>> texts = ["a dog runs", "a cat sleeps", " "]
    >>> tokenizer = kt.Tokenizer.train(texts[:2], vocabulary_size=280)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(prepare(PairStream(texts, texts), tokenizer, folder, num_workers=0))
    ...     kt.Batches(folder, batch_tokens=64).num_pairs
    2 of 3 pairs kept; left out: 1 for empty
    2
    """
    folder = Path(folder)
    recipe = recipe_of(stream, tokenizer, max_length, shard_pairs)
    if any(map(is_standard_input, (stream.source, stream.target))) and (folder / MANIFEST).is_file():
        raise ValueError(
            f"{folder} holds a preparation, and nobody knows whether standard input brings the same text. Give a new folder."
        )
    finished = finished_before(folder, recipe)
    if finished is not None:
        return finished
    job = ShardWriter(folder, tokenizer, max_length)
    with writing(folder, recipe, tokenizer):
        shards = _made(stream, job, shard_pairs, num_workers, progress)
        counts = total_counts(stream, stream.counts, shards)
        write_manifest(folder, recipe, shards, counts)
    return counts


def _made(stream, job, shard_pairs, num_workers, progress):
    """What the manifest says of each shard, once all are there."""
    shards = {}
    goes_on = "the same preparation goes on with the shards that are there"
    workers = Workers(job, num_workers, _LONGEST_SHARD, goes_on) if num_workers else None
    try:
        for number, pairs in enumerate(chunks(stream, shard_pairs)):
            about = existing(Path(job.folder, shard_name(number)))
            if about is not None:
                shards[number] = about
            elif workers is None:
                shards[number] = job((number, pairs))
            else:
                shards[number] = None
                workers.ask((number, pairs))
                if workers.outstanding > num_workers:
                    _take(workers, shards)
            if progress is not None:
                progress(number * shard_pairs + len(pairs))
        while workers is not None and workers.outstanding:
            _take(workers, shards)
    finally:
        if workers is not None:
            workers.close()
    return list(shards.values())


def _take(workers, shards):
    """Files the answer to the oldest request, which is for the first shard not yet there."""
    number = next(number for number, about in shards.items() if about is None)
    shards[number] = workers.next()


def existing(path):
    """What the manifest says of a shard that is there; None if there is none, or half of one, which is removed."""
    if not path.is_file():
        return None
    try:
        return {"file": path.name} | describe_shard(path)
    except ValueError:
        path.unlink()  # made anew
        return None


def chunks(stream, size):
    """Yields lists of ``size`` pairs, the last of which may be shorter."""
    pairs = iter(stream)
    while chunk := list(itertools.islice(pairs, size)):
        yield chunk


def total_counts(stream, read, shards):
    """PairCounts of the text, less what the shards left out for its pieces.

    Args:
        stream: PairStream, for its names.
        read: PairCounts of what was read of it.
        shards: what the manifest says of each.

    Raises:
        ValueError: no pair is left.
    """
    counts = PairCounts(read.lines, read.kept, dict(read.dropped))
    for about in shards:
        made = about["counts"]
        counts = counts + PairCounts(0, made["kept"] - made["lines"], made["dropped"])
    if not counts.kept:
        raise ValueError(f"No pair is left: {counts}. Raise max_length." if read.kept else none_left(stream, read))
    return counts


def write_manifest(folder, recipe, shards, counts):
    """Writes what tells that a preparation is finished."""
    manifest = recipe | {"finished": True, "counts": dataclasses.asdict(counts), "shards": shards}
    _write_json(Path(folder, MANIFEST), manifest)


def recipe_of(stream, tokenizer, max_length, shard_pairs):
    """All that the shards depend on.

    Raises:
        ValueError: ``stream`` is no PairStream.
    """
    if not isinstance(stream, PairStream):
        raise ValueError(
            f"Text to prepare comes as a PairStream. Received: a {type(stream).__name__}. Make one of its texts; the corpora of a "
            "Mixture are prepared one by one."
        )
    filters = dataclasses.asdict(stream.filters) if stream.filters else {}
    return {
        "format": FORMAT,
        "source": stream.source_name,
        "target": stream.target_name,
        "files": list(map(_about_file, stream.names)),
        "text": stream.digest(),
        "columns": list(stream.columns) if stream.columns else None,
        "filters": filters,
        "normalization": stream.normalization,
        "on_bad_line": stream.on_bad_line,
        "max_length": max_length,
        "shard_pairs": shard_pairs,
        "tokenizer": hashlib.sha256(tokenizer.to_bytes()).hexdigest(),
        "vocabulary_size": tokenizer.vocabulary_size,
    }


def _about_file(name):
    return {"name": name, "bytes": os.path.getsize(name) if os.path.isfile(name) else None}


def finished_before(folder, recipe):
    """Counts of the preparation of that recipe, if the folder holds it, finished and whole; None if there is something to do.

    Raises:
        ValueError: the folder holds another preparation, or other files.
    """
    from keras_transformer.artifacts import LOCK_FILE  # here, for workers need none of it

    path = folder / MANIFEST
    if path.is_file():
        before = checked_manifest(path)
        different = [name for name in recipe if before.get(name) != recipe[name]]
        if different:
            held = ", ".join(f"{name}={before.get(name)!r}" for name in different)
            received = ", ".join(f"{name}={recipe[name]!r}" for name in different)
            raise ValueError(
                f"{folder} holds a preparation with {held}. Received: {received}. Give the same, or a new folder."
            )
        if not before.get("finished"):
            return None
        damaged = damaged_shards(folder, before)
        for name in damaged:
            Path(folder, name).unlink(missing_ok=True)  # made anew
        return None if damaged else PairCounts(**before["counts"])
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Give a new or empty folder.")
    # What a kill at the very beginning leaves is made anew.
    left = {TOKENIZER, f".{TOKENIZER}-new", f".{MANIFEST}-new", LOCK_FILE}
    if folder.is_dir() and any(file.name not in left for file in folder.iterdir()):
        raise ValueError(f"{folder} holds other files. Give a new or empty folder.")
    return None


@contextlib.contextmanager
def writing(folder, recipe, tokenizer):
    """A context in which this process alone writes into the folder, which gets tokenizer and recipe first."""
    from keras_transformer.artifacts import FolderLock, write_file

    with FolderLock(folder):
        if not (folder / MANIFEST).is_file():
            write_file(folder / TOKENIZER, tokenizer.to_bytes())
            _write_json(folder / MANIFEST, recipe)
        yield


def _write_json(path, content):
    from keras_transformer.artifacts import write_file

    write_file(path, json.dumps(content, indent=1).encode("utf-8"))
