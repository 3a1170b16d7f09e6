"""The Beam pipeline writes what prepare writes. Runs where apache-beam is: ``make test-beam``; what a worker does, everywhere."""

import gzip
import hashlib
import importlib.util
import json

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.text import Filters, PairStream, prepare
from keras_transformer.text import beam as module
from keras_transformer.text.beam import prepare_with_beam
from keras_transformer.text.store import Store

pytestmark = pytest.mark.filterwarnings("default")  # Beam's own
needs_beam = pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus in three shards, one of them compressed, with faults that are counted."""
    folder = tmp_path_factory.mktemp("text")
    for number in range(3):
        source = [f"a dog runs {number} {line}" for line in range(40)]
        target = [f"ein Hund rennt {number} {line}" for line in range(40)]
        source[5], target[9] = "", "x" * 300
        squeeze = gzip.compress if number == 1 else bytes
        (folder / f"train-{number}.en").write_bytes(squeeze("\n".join(source).encode()))
        (folder / f"train-{number}.de").write_bytes("\n".join(target).encode())
    return folder


def stream(folder, **kwargs):
    return PairStream(folder / "train-*.en", folder / "train-*.de", **kwargs)


@needs_beam
def test_the_same_pairs_and_counts(folder, tmp_path):
    tokenizer = kt.Tokenizer.train([text for _, *pair in stream(folder) for text in pair], vocabulary_size=330)
    filters = Filters(max_characters=200)
    counts = prepare_with_beam(stream(folder, filters=filters), tokenizer, tmp_path / "beam", shard_pairs=16)
    assert counts.dropped == {"empty": 3, "max_characters": 3} and counts.lines == 120
    assert counts == prepare(stream(folder, filters=filters), tokenizer, tmp_path / "here", num_workers=0)
    kwargs = {"batch_tokens": 256, "num_buckets": 1, "shuffle": False}
    beam, here = kt.Batches(tmp_path / "beam", **kwargs), kt.Batches(tmp_path / "here", **kwargs)
    assert len(beam) == len(here)
    for place in range(len(here)):
        assert np.array_equal(beam[place][1], here[place][1])
        assert np.array_equal(beam[place][0]["source"], here[place][0]["source"])
    assert prepare_with_beam(stream(folder, filters=filters), tokenizer, tmp_path / "beam", shard_pairs=16) == counts


@needs_beam
def test_one_file_gives_the_same_bytes(folder, tmp_path):
    tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=285)
    one = PairStream(folder / "train-0.en", folder / "train-0.de")
    prepare_with_beam(one, tokenizer, tmp_path / "beam", shard_pairs=16)
    prepare(one, tokenizer, tmp_path / "here", shard_pairs=16, num_workers=0)
    for file in (tmp_path / "here").iterdir():
        if file.suffix == ".arrow":
            assert (tmp_path / "beam" / file.name).read_bytes() == file.read_bytes()


@needs_beam
def test_what_no_worker_can_do_alone_is_refused(folder, tmp_path):
    tokenizer = kt.Tokenizer.train(["a dog runs"], vocabulary_size=275)
    with pytest.raises(ValueError, match="Duplicates are found by one process"):
        prepare_with_beam(stream(folder, filters=Filters(duplicates=True)), tokenizer, tmp_path / "p")
    with pytest.raises(ValueError, match="Beam reads files. Received: text in memory"):
        prepare_with_beam(PairStream(["a"], ["b"]), tokenizer, tmp_path / "p")
    with pytest.raises(ValueError, match="Beam reads files. Received: standard input"):
        prepare_with_beam(PairStream("-", folder / "train-0.de"), tokenizer, tmp_path / "p")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
def test_where_nothing_is_left_the_workers_counts_are_told(folder, tmp_path):
    """The process that ends the preparation has read nothing itself."""

    def refused(counts, shards):
        (tmp_path / "results").write_text(json.dumps([[0, counts, shards]]))
        with pytest.raises(ValueError) as error:
            module._finish(stream(folder), tmp_path, {}, tmp_path / "results")
        return str(error.value)

    blank = {"lines": 120, "kept": 0, "dropped": {"empty": 120}}
    assert "on each of 120 lines a side is blank" in refused(blank, [])
    read = {"lines": 120, "kept": 114, "dropped": {"empty": 6}}
    made = {"counts": {"lines": 114, "kept": 0, "dropped": {"max_length": 114}}}
    told = refused(read, [made])
    assert told == (
        "No pair is left: 0 of 120 pairs kept; left out: 6 for empty, 114 for max_length. Raise max_length."
    )


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
def test_lines_of_different_files_draw_different_samples(folder, tmp_path, monkeypatch):
    """And are the lines of their files to people."""
    pytest.importorskip("pyarrow")
    tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=285)
    options = {"columns": None, "filters": None, "normalization": None, "on_bad_line": "error"}
    work = module._PrepareFiles(str(tmp_path), tokenizer.to_bytes(), 256, 16, options)
    made = [work((number, *(str(folder / f"train-{number}.{side}") for side in ("en", "de"))))[2] for number in (0, 2)]
    shards = [about for part in made for about in part]
    assert [about["file"] for about in shards[:2]] == ["shard-00000.arrow", "shard-00001.arrow"]
    recipe = {
        "format": 1,
        "vocabulary_size": tokenizer.vocabulary_size,
        "tokenizer": hashlib.sha256(tokenizer.to_bytes()).hexdigest(),
    }
    counts = {"lines": 80, "kept": 76, "dropped": {"empty": 2, "max_length": 2}}
    (tmp_path / "prepared.json").write_text(json.dumps(recipe | {"finished": True, "counts": counts, "shards": shards}))
    tokenizer.save(tmp_path / "tokenizer.model")
    texts = Store(tmp_path).source_texts
    assert len({texts.line(pair) for pair in range(76)}) == 76 == sum(about["pairs"] for about in shards)
    batches = kt.Batches(tmp_path, batch_tokens=4096, num_buckets=1)
    lines = [line for place in range(len(batches)) for line in batches.lines(0, place)]
    assert sorted(lines) == sorted(2 * [line for line in range(1, 41) if line not in (6, 10)])
    monkeypatch.setattr(module, "_NUMBERS", 2)
    with pytest.raises(ValueError, match="makes more than 2 shards of 16 pairs. Raise shard_pairs"):
        work((0, str(folder / "train-0.en"), str(folder / "train-0.de")))
