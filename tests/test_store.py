"""Prepared shards are read row by row, in any order, across shards. Damage and preparation: test_prepare.py."""

import json
import pickle

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.text.rows import Rows
from keras_transformer.text.store import MANIFEST, TOKENIZER, Store, describe_shard, shard_name, write_shard

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
ROWS = [[number] * (1 + number % 3) for number in range(4, 24)]  # the longest are 3


def write(folder, sizes, vocabulary_size=300):
    """Shards of so many pairs each."""
    shards, first = [], 0
    for number, size in enumerate(sizes):
        part = range(first, first + size)
        columns = {
            "source": Rows.of([ROWS[n] for n in part]),
            "target": Rows.of([[2, *ROWS[n], 3] for n in part]),
            "source_text": [f"source {n} ä" for n in part],
            "target_text": [f"target {n}" for n in part],
            "line": [10 * n for n in part],
        }
        file, counts = shard_name(number), {"lines": size, "kept": size, "dropped": {}}
        shards.append({"file": file} | write_shard(folder / file, columns, vocabulary_size, counts))
        first += size
    kt.Tokenizer.train(["a dog"], vocabulary_size=270).save(folder / TOKENIZER)
    counts = {"lines": first, "kept": first, "dropped": {}}
    manifest = {"format": 1, "finished": True, "vocabulary_size": vocabulary_size, "tokenizer": "", "counts": counts}
    manifest["shards"] = shards
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Store(folder)


def rows(side, numbers):
    ids, begins, lengths = side.take(np.array(numbers))
    return [ids[b : b + n].tolist() for b, n in zip(begins, lengths, strict=True)]


@pytest.mark.parametrize("sizes", [(20,), (3, 10, 7), (5, 0, 15)])
@pytest.mark.parametrize("vocabulary_size", [300, 70_000])
def test_rows_in_any_order_from_any_shard(tmp_path, sizes, vocabulary_size):
    store = write(tmp_path, sizes, vocabulary_size)
    assert store.num_pairs == 20 and store.source.lengths.tolist() == list(map(len, ROWS))
    for numbers in ([0, 19, 3, 4, 5, 12, 13, 3], list(range(20)), [7]):
        assert rows(store.source, numbers) == [ROWS[n] for n in numbers]
        assert rows(store.target, numbers) == [[2, *ROWS[n], 3] for n in numbers]
    assert [store.source_texts.text(n) for n in (0, 4, 19)] == ["source 0 ä", "source 4 ä", "source 19 ä"]
    assert [store.target_texts.line(n) for n in (0, 4, 19)] == [0, 40, 190]


def test_ids_take_two_bytes_where_they_can(tmp_path):
    sizes = []
    for name, vocabulary_size in (("small", 2**16), ("large", 2**16 + 1)):
        (tmp_path / name).mkdir()
        sizes.append(write(tmp_path / name, (20,), vocabulary_size).source.take(np.array([0]))[0].dtype.itemsize)
    assert sizes == [2, 4]


def test_a_worker_opens_the_files_itself(tmp_path):
    store = write(tmp_path, (3, 17))
    pickled = pickle.dumps((store.source, store.target_texts))
    assert len(pickled) < 1000
    source, texts = pickle.loads(pickled)
    assert rows(source, [2, 3]) == ROWS[2:4] and texts.text(3) == "target 3"
    assert source._store is texts._store  # and opens them once


def test_a_shard_tells_its_pairs_and_what_is_none_is_refused(tmp_path):
    write(tmp_path, (3, 17))
    assert not list(tmp_path.glob("*.new"))  # they were renamed, not copied
    about = describe_shard(tmp_path / shard_name(1))
    assert about["pairs"] == 17 and about["counts"]["kept"] == 17
    assert about["bytes"] == (tmp_path / shard_name(1)).stat().st_size
    (tmp_path / "other.arrow").write_bytes(b"ARROW1\0\0" + bytes(100))
    with pytest.raises(ValueError, match="other.arrow is no whole shard"):
        describe_shard(tmp_path / "other.arrow")


def test_no_flipped_bit_passes(tmp_path):
    """In ids, texts, or Arrow's own description, which it may misread in many ways: the checksum is looked at first."""
    write(tmp_path, (20,))
    file = tmp_path / shard_name(0)
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 100)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(
            ValueError, match=r"shard-00000\.arrow is damaged: .* keras-transformer prepare makes it anew"
        ):
            Store(tmp_path)


def test_a_damaged_foot_tells_the_file_where_no_checksum_is_looked_at(tmp_path):
    """As in a worker: the file changed since."""
    write(tmp_path, (20,))
    file = tmp_path / shard_name(0)
    whole = file.read_bytes()
    for damaged in (whole[:-6] + b"nothing"[:6], bytes(len(whole)), whole[:-10] + b"\xff\xff\xff\xff" + whole[-6:]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"shard-00000\.arrow is damaged: "):
            Store(tmp_path, is_checked=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: [], "it tells no format"),
        (lambda m: {}, "it tells no format"),
        (lambda m: m | {"format": 2}, "is of format 2; this release reads format 1"),
        (lambda m: {"format": 1, "finished": True}, "it lacks the tokenizer's sha256 or the vocabulary_size"),
        (lambda m: m | {"counts": {}}, "its counts are {}"),
        (lambda m: m | {"counts": m["counts"] | {"lines": 30}}, "its counts are"),
        (lambda m: m | {"shards": None}, "it lacks the shards"),
        (lambda m: m | {"shards": [m["shards"][0]]}, "its shards have 8 pairs, its counts tell 20"),
        (lambda m: m | {"shards": [m["shards"][0] | {"bytes": -1}]}, "of a shard it says"),
        (lambda m: m | {"shards": [m["shards"][0] | {"file": "../a/shard-00000.arrow"}]}, "a shard's name is '../a/"),
        (
            lambda m: m | {"shards": [one | {"pairs": 10} for one in m["shards"]]},
            "it holds 8 pairs instead of 10",
        ),
    ],
)
def test_a_manifest_is_not_believed(tmp_path, change, told):
    write(tmp_path, (8, 12))
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(change(manifest)))
    with pytest.raises(ValueError) as error:
        Store(tmp_path)
    assert told in str(error.value) and "broken off" not in str(error.value)
