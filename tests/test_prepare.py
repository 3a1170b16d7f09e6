"""Prepared text: the same batches as from the text itself, gone on with after a kill, refused when it is not what it says."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.artifacts import LOCK_FILE, FolderLock
from keras_transformer.text import Filters, Mixture, PairStream, prepare
from keras_transformer.text.store import Store, damaged_shards, read_manifest, shard_name

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
WORDS = ["a", "dog", "cat", "runs", "sleeps", "in", "the", "green", "park", "on", "my", "sofa", "and", "eats", "fish"]


def corpus(size=200):
    generator = np.random.default_rng(0)
    sides = [[" ".join(generator.choice(WORDS, 1 + n % 9)) for n in generator.integers(0, 50, size)] for _ in range(2)]
    sides[0][7] = " "
    sides[1][11] = "dog " * 60
    return sides


@pytest.fixture(scope="module")
def tokenizer():
    return kt.Tokenizer.train(corpus()[0], vocabulary_size=290)


def served(batches):
    return [batches[place] for place in range(len(batches))]


def same(one, other):
    def arrays(batch):
        return [*(batch[0][name] for name in sorted(batch[0])), batch[1]]

    pairs = list(zip(one, other, strict=True))
    return all(np.array_equal(a, b) for x, y in pairs for a, b in zip(arrays(x), arrays(y), strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_give_the_batches_of_the_text(tmp_path, tokenizer, num_workers):
    source, target = corpus()
    stream = PairStream(source, target)
    counts = prepare(stream, tokenizer, tmp_path / "p", max_length=50, shard_pairs=30, num_workers=num_workers)
    assert (counts.lines, counts.kept, counts.dropped) == (200, 198, {"empty": 1, "max_length": 1})
    kwargs = {"batch_tokens": 256, "seed": 5, "max_length": 50}
    text = kt.Batches(source, target, tokenizer, **kwargs)
    shards = kt.Batches(tmp_path / "p", **kwargs, num_workers=num_workers)
    assert shards.tokenizer == tokenizer and shards.skipped == text.skipped
    assert same(served(text), served(shards))
    text.set_epoch(1), shards.set_epoch(1)
    assert same(served(text), served(shards))
    shards.close()
    assert same(
        served(kt.Batches(source, target, tokenizer, **kwargs, sampling=0.1)),
        served(kt.Batches(tmp_path / "p", **kwargs, sampling=0.1, num_workers=num_workers)),
    )


@pytest.mark.parametrize("sampling", [None, 0.1])
def test_a_mixture_of_prepared_text_is_that_of_the_text(tmp_path, tokenizer, sampling):
    """Prepared corpora stay on disk, and may stand beside text."""
    texts = [corpus(80), corpus(30)]
    for name, sides in zip("ab", texts, strict=True):
        prepare(PairStream(*sides), tokenizer, tmp_path / name, shard_pairs=30, num_workers=0)
    kwargs = {"weights": [1, 2]}, {"batch_tokens": 256, "seed": 3, "sampling": sampling}
    expected = kt.Batches(Mixture([tuple(sides) for sides in texts], **kwargs[0]), None, tokenizer, **kwargs[1])
    assert expected.num_pairs > 108  # the small one is repeated
    folders = kt.Batches(Mixture([tmp_path / "a", tmp_path / "b"], **kwargs[0]), **kwargs[1], num_workers=1)
    both = kt.Batches(Mixture([tmp_path / "a", tuple(texts[1])], **kwargs[0]), **kwargs[1])
    try:
        assert same(served(expected), served(folders)) and same(served(expected), served(both))
        assert folders.lines(0, 0) == both.lines(0, 0) == expected.lines(0, 0)
        assert folders.skipped == expected.skipped
    finally:
        folders.close()
    if sampling is None:
        other = kt.Tokenizer.train(texts[0][1], vocabulary_size=285)
        prepare(PairStream(*texts[1]), other, tmp_path / "c", num_workers=0)
        with pytest.raises(ValueError, match="c was prepared with another tokenizer"):
            kt.Batches(Mixture([tmp_path / "a", tmp_path / "c"]))


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".arrow"}


def test_the_number_of_workers_changes_no_byte(tmp_path, tokenizer):
    for workers in (0, 1, 3):
        prepare(PairStream(*corpus()), tokenizer, tmp_path / str(workers), shard_pairs=30, num_workers=workers)
    assert files_of(tmp_path / "0") == files_of(tmp_path / "1") == files_of(tmp_path / "3")


def test_what_was_broken_off_goes_on_with_its_shards(tmp_path, tokenizer):
    stream = PairStream(*corpus(), filters=Filters(duplicates=True))
    whole = prepare(stream, tokenizer, tmp_path / "whole", shard_pairs=30, num_workers=0)

    class Broken(Exception):
        pass

    def stop(pairs):
        if pairs >= 90:
            raise Broken

    with pytest.raises(Broken):
        prepare(stream, tokenizer, tmp_path / "p", shard_pairs=30, num_workers=0, progress=stop)
    with pytest.raises(ValueError, match=r"was broken off\. The same keras-transformer prepare goes on with it"):
        kt.Batches(tmp_path / "p")
    kept = {name: (tmp_path / "p" / name).stat().st_mtime_ns for name in files_of(tmp_path / "p")}
    assert len(kept) == 3
    (tmp_path / "p" / shard_name(1)).write_bytes(b"half a shard")  # made anew
    assert prepare(stream, tokenizer, tmp_path / "p", shard_pairs=30, num_workers=0) == whole
    assert files_of(tmp_path / "p") == files_of(tmp_path / "whole")
    assert (tmp_path / "p" / shard_name(0)).stat().st_mtime_ns == kept[shard_name(0)]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "p").iterdir()}
    assert prepare(stream, tokenizer, tmp_path / "p", shard_pairs=30) == whole  # finished: nothing is done
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "p").iterdir()}


@pytest.mark.deep
def test_a_kill_at_any_moment_leaves_a_preparation_to_go_on_with(tmp_path, tokenizer):
    for name, lines in zip(("a.en", "a.de"), corpus(3000), strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    tokenizer.save(tmp_path / "t.model")
    code = (
        "import sys; import keras_transformer as kt; from keras_transformer.text import PairStream, prepare\n"
        "folder = sys.argv[1]; print('ready', flush=True)\n"
        "stream = PairStream(folder + '/a.en', folder + '/a.de')\n"
        "prepare(stream, kt.Tokenizer.load(folder + '/t.model'), folder + '/p', shard_pairs=50, num_workers=0)\n"
    )
    for wait in (0.0, 0.01, 0.05, 0.1, 0.2):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        child.stdout.readline()
        time.sleep(wait)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    stream = PairStream(tmp_path / "a.en", tmp_path / "a.de")
    prepare(stream, tokenizer, tmp_path / "p", shard_pairs=50, num_workers=0)
    prepare(stream, tokenizer, tmp_path / "whole", shard_pairs=50, num_workers=0)
    assert files_of(tmp_path / "p") == files_of(tmp_path / "whole")


def test_another_preparation_is_refused(tmp_path, tokenizer):
    source, target = corpus()
    prepare(PairStream(source, target), tokenizer, tmp_path / "p", num_workers=0)
    with pytest.raises(
        ValueError, match=r"holds a preparation with normalization=None\. Received: normalization='NFC'"
    ):
        prepare(PairStream(source, target, normalization="NFC"), tokenizer, tmp_path / "p")
    other = kt.Tokenizer.train(target, vocabulary_size=280)
    with pytest.raises(ValueError, match="holds a preparation with tokenizer="):
        prepare(PairStream(source, target), other, tmp_path / "p")
    with pytest.raises(ValueError, match=r"holds a preparation with text='\w+'\. Received: text='\w+'"):
        prepare(PairStream(source, [*target[:-1], "a dog"]), tokenizer, tmp_path / "p", num_workers=0)
    with pytest.raises(ValueError, match="comes as a PairStream. Received: a Mixture"):
        prepare(Mixture([(source, target)]), tokenizer, tmp_path / "p")
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "thesis.txt").write_text("a")
    with pytest.raises(ValueError, match="holds other files"):
        prepare(PairStream(source, target), tokenizer, tmp_path / "q")
    with pytest.raises(ValueError, match="thesis.txt is a file. Give a new or empty folder"):
        prepare(PairStream(source, target), tokenizer, tmp_path / "q" / "thesis.txt")


def test_damaged_shards_are_refused(tmp_path, tokenizer):
    folder = tmp_path / "p"
    prepare(PairStream(*corpus()), tokenizer, folder, shard_pairs=100, num_workers=0)
    shard = folder / shard_name(1)
    whole = shard.read_bytes()
    middle = len(whole) // 2
    shard.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    assert damaged_shards(folder, read_manifest(folder)) == [shard_name(1)]
    with pytest.raises(ValueError, match=r"shard-00001\.arrow is damaged: its checksum is another"):
        kt.Batches(folder)
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=rf"must have {len(whole):,} bytes\. Found: {len(whole) - 1:,} bytes"):
        kt.Batches(folder)
    shard.unlink()
    with pytest.raises(ValueError, match="Found: no file"):
        kt.Batches(folder)
    with pytest.raises(ValueError, match="holds no prepared text"):
        kt.Batches(tmp_path)


def test_the_same_preparation_makes_damaged_shards_anew(tmp_path, tokenizer):
    """As the errors advise: whole shards stay, a flipped bit is found by the checksum."""
    folder = tmp_path / "p"
    counts = prepare(PairStream(*corpus()), tokenizer, folder, shard_pairs=60, num_workers=0)
    whole = files_of(folder)
    (folder / shard_name(0)).unlink()
    flipped = bytearray(whole[shard_name(2)])
    flipped[len(flipped) // 2] ^= 4
    (folder / shard_name(2)).write_bytes(flipped)
    kept = (folder / shard_name(1)).stat().st_mtime_ns
    assert prepare(PairStream(*corpus()), tokenizer, folder, shard_pairs=60, num_workers=0) == counts
    assert files_of(folder) == whole and (folder / shard_name(1)).stat().st_mtime_ns == kept
    assert kt.Batches(folder).num_pairs == counts.kept


def test_more_shards_than_files_may_be_open(tmp_path, tokenizer, monkeypatch):
    prepare(PairStream(*corpus()), tokenizer, tmp_path / "p", shard_pairs=60, num_workers=0)

    def refuse(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("keras_transformer.text.store.os.open", refuse)
    with pytest.raises(ValueError, match=r"Too many open files. All 4 shards are open at a time: .* \(ulimit -n\)"):
        Store(tmp_path / "p")


def test_standard_input_may_bring_another_text(tmp_path, tokenizer, monkeypatch):
    source, target = corpus()

    def prepare_from_stdin():
        content = "\n".join(source).encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
        return prepare(PairStream("-", target), tokenizer, tmp_path / "p", num_workers=0)

    assert prepare_from_stdin().kept == 199
    with pytest.raises(ValueError, match="nobody knows whether standard input brings the same text. Give a new folder"):
        prepare_from_stdin()


def test_two_preparations_of_one_folder_at_a_time(tmp_path, tokenizer):
    """The second is refused before it writes anything; in a process of its own, for one process may lock twice."""
    for name, lines in zip(("a.en", "a.de"), corpus(), strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    tokenizer.save(tmp_path / "t.model")
    command = [sys.executable, "-m", "keras_transformer", "prepare", "--source", "a.en", "--target", "a.de"]
    command += ["--tokenizer", "t.model", "--output", "p", "--workers", "0"]
    with FolderLock(tmp_path / "p"):
        child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert child.returncode == 1 and f"is in use: process {os.getpid()}" in child.stderr
    assert [path.name for path in (tmp_path / "p").iterdir()] == [LOCK_FILE]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert kt.Batches(tmp_path / "p").num_pairs == 199


def test_ids_of_another_tokenizer_are_no_ids_of_this_text(tmp_path, tokenizer):
    """One of as many pieces, too: its ids are in range and mean something else."""
    prepare(PairStream(*corpus()), tokenizer, tmp_path / "p", num_workers=0)
    other = kt.Tokenizer.train([text[::-1] for text in corpus()[0]], vocabulary_size=tokenizer.vocabulary_size)
    assert other.vocabulary_size == tokenizer.vocabulary_size and other != tokenizer
    assert kt.Batches(tmp_path / "p", tokenizer=kt.Tokenizer.from_bytes(tokenizer.to_bytes())).num_pairs > 100
    with pytest.raises(ValueError, match="was prepared with another tokenizer, .* Leave tokenizer out"):
        kt.Batches(tmp_path / "p", tokenizer=other)
    manifest = (tmp_path / "p" / "prepared.json").read_text()
    size = f'"vocabulary_size": {tokenizer.vocabulary_size}'
    (tmp_path / "p" / "prepared.json").write_text(manifest.replace(size, '"vocabulary_size": 10'))
    with pytest.raises(ValueError, match=rf"tells of 10 pieces, its tokenizer has {tokenizer.vocabulary_size}"):
        kt.Batches(tmp_path / "p")
    (tmp_path / "p" / "prepared.json").write_text(manifest)
    other.save(tmp_path / "p" / "tokenizer.model")
    with pytest.raises(ValueError, match="is not the tokenizer that .* was prepared with. Put that one back"):
        kt.Batches(tmp_path / "p")


def test_what_it_was_made_from_and_how_is_recorded(tmp_path, tokenizer):
    for name, lines in zip(("a.en", "a.de"), corpus(), strict=True):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    stream = PairStream(tmp_path / "a.en", tmp_path / "a.de", normalization="NFKC", filters=Filters(max_ratio=9))
    prepare(stream, tokenizer, tmp_path / "p", num_workers=0)
    manifest = json.loads((tmp_path / "p" / "prepared.json").read_text())
    assert manifest["normalization"] == "NFKC" and manifest["filters"]["max_ratio"] == 9
    assert [file["name"] for file in manifest["files"]] == [str(tmp_path / "a.en"), str(tmp_path / "a.de")]
    store = Store(tmp_path / "p")
    assert stream.place(store.source_texts.line(9)).startswith(f"{tmp_path}/a.en:")
