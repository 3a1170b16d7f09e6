"""Files that are data: arrays, locks, sidecars. Kills, faults and corruption are in tests/reliability."""

import errno
import json
import os
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.artifacts import (
    ArrayFile,
    FolderInUse,
    FolderLock,
    disk,
    list_steps,
    prune_steps,
    write_arrays,
    write_step,
)

ARRAYS = {
    "kernel": np.arange(6, dtype="float32").reshape(2, 3),
    "scalar": np.array(7, "int64"),
    "nothing": np.zeros((0, 4), "float16"),
    "half": np.array([1.5, -2], ml_dtypes.bfloat16),
    "turned": np.arange(6, dtype="uint32").reshape(2, 3).T,
    "yes": np.array([True, False]),
}


def test_arrays_come_back(tmp_path):
    size, _ = write_arrays(tmp_path / "a.safetensors", ARRAYS)
    assert size == (tmp_path / "a.safetensors").stat().st_size
    file = ArrayFile(tmp_path / "a.safetensors")
    assert list(file.shapes) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert file.read(name).dtype == array.dtype
        np.testing.assert_array_equal(file.read(name), array)


def test_layout_is_that_of_safetensors(tmp_path):
    """As its specification has it: 8 bytes of length, JSON, the arrays in their order without a gap."""
    write_arrays(tmp_path / "a", {"kernel": ARRAYS["kernel"]})
    content = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length % 8 == 0
    assert json.loads(content[8 : 8 + length]) == {"kernel": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    assert content[8 + length :] == ARRAYS["kernel"].tobytes()


HOLDER = """
import sys, time
from keras_transformer.artifacts import FolderLock
with FolderLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


# A child imports the file layer alone, which is quick.
BARE = "import sys, types; p = types.ModuleType('keras_transformer'); "
BARE += f"p.__path__ = {kt.__path__!r}; sys.modules['keras_transformer'] = p\n"
ASKER = """
from keras_transformer.artifacts import FolderInUse, FolderLock
try:
    with FolderLock(sys.argv[1]):
        print("free")
except FolderInUse:
    print("in use")
"""


def ask(folder):
    """What another process is told."""
    asked = [sys.executable, "-c", BARE + ASKER, str(folder)]
    return subprocess.run(asked, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout.strip()


def test_one_writer_and_a_dead_one_is_taken_over(tmp_path, monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", BARE + HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=f"is in use: process {child.pid} on {os.uname().nodename} writes there"):
            FolderLock(tmp_path).__enter__()
        with monkeypatch.context() as patch:  # as in two containers with one host name
            patch.setattr(os, "getpid", lambda: child.pid)
            with pytest.raises(FolderInUse):
                FolderLock(tmp_path).__enter__()
    finally:
        child.kill()
        child.communicate()
    with FolderLock(tmp_path), FolderLock(tmp_path):  # this process twice: a cell of a notebook run again
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_a_folder_is_held_until_the_last_of_a_process_lets_go(tmp_path):
    """The first of two is the one that asked the kernel."""
    first, second = FolderLock(tmp_path).__enter__(), FolderLock(tmp_path).__enter__()
    first.__exit__()
    first.__exit__()  # once more changes nothing
    assert ask(tmp_path) == "in use"
    second.__exit__()
    assert ask(tmp_path) == "free"


@pytest.mark.parametrize("name", ["ftruncate", "pwrite"])
def test_a_full_disk_leaves_no_lock(tmp_path, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(OSError, match="No space left"):
            FolderLock(tmp_path).__enter__()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_a_damaged_checkpoint_does_not_stop_those_after_it(tmp_path):
    for step in range(1, 5):
        write_step(tmp_path, step, {}, {}, {"score": -step})
    (tmp_path / "step-2" / "state.json").write_bytes(b"{")
    prune_steps(tmp_path, keep=1, best=1, merit=lambda state: state["score"])
    assert [path.name for path in list_steps(tmp_path)] == ["step-1", "step-2", "step-4"]


def test_folders_on_the_way_are_brought_to_disk(tmp_path, monkeypatch):
    """What a power cut leaves: a folder that is whole, in one that is not there, is lost."""
    synced, to_disk = [], disk.to_disk
    monkeypatch.setattr(disk, "to_disk", lambda path: (synced.append(str(path)), to_disk(path)))
    write_step(tmp_path / "runs" / "a", 3, {}, {}, {})
    above = [str(tmp_path), str(tmp_path / "runs"), str(tmp_path / "runs" / "a")]
    assert [path for path in synced if path in above] == above


def test_only_steps_are_checkpoints(tmp_path):
    for name in ("step-", "step-01", "step-1x", ".step-3-abc", "step--1", "step-9999999999999999999"):
        (tmp_path / name).mkdir()
    write_step(tmp_path, 0, {}, {}, {})
    assert [path.name for path in list_steps(tmp_path)] == ["step-0"]
    assert not (tmp_path / ".step-3-abc").exists()  # what a kill has left


def test_weights_with_a_sidecar(tmp_path):
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, dropout=0.1, seed=1)
    model.compile()
    path = tmp_path / "a.weights.h5"
    kt.save_weights(model, path)
    kt.save_weights(model, path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.weights.h5", "a.weights.h5.sha256.json"]
    other = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, dropout=0.1, seed=2)
    kt.load_weights(other, path)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7)
    model.optimizer.variables[-1].assign(model.optimizer.variables[-1] + np.nan)
    kt.save_weights(model, path)
    other.compile()
    with pytest.raises(kt.ArtifactError, match="holds numbers that are not finite. In Python, allow_non_finite=True"):
        kt.load_weights(other, path)
    assert int(other.optimizer.iterations) == 0
    kt.load_weights(other, path, allow_non_finite=True)
    assert int(other.optimizer.iterations) == 7
    larger = kt.Transformer(21, d_model=8, num_heads=2, num_layers=1)
    with pytest.raises(kt.ArtifactError, match="the weights do not fit the architecture"):
        kt.load_weights(larger, path)
    (tmp_path / "a.weights.h5.sha256.json").unlink()
    with pytest.raises(kt.ArtifactError, match="sha256.json cannot be used: corrupt or incomplete: it is missing"):
        kt.load_weights(other, path)
    with pytest.raises(ValueError, match='The path must end in ".weights.h5"'):
        kt.save_weights(model, tmp_path / "a.h5")
