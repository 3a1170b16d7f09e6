"""A run whose memory is really too small: advice in figures, and a checkpoint that is as it was."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's"),
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="TensorFlow and XLA may abort a process that gets no address space"
    ),
]
SCRIPT = Path(__file__).with_name("little_memory.py")


def child(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def contents(folder):
    return {path: path.read_bytes() for path in sorted((folder / "run" / "checkpoints").rglob("step-*/*"))}


def test_advice_in_figures_and_the_checkpoint_as_it_was(tmp_path, figure):
    first = child(tmp_path, 1)
    assert first.returncode == 0, first.stderr
    before = contents(tmp_path)
    little = child(tmp_path, 2, 50)
    assert little.returncode == 9, little.stderr
    assert "Training does not fit into memory. The last checkpoint, step-" in little.stdout
    assert little.stdout.count(" GB, fits") + little.stdout.count(" GB, does not fit") == 5
    assert contents(tmp_path) == before
    again = child(tmp_path, 2)
    assert again.returncode == 0, again.stderr
    done, wanted = again.stdout.split(" of ")
    assert int(done) == int(wanted)
    figure("too little memory (RLIMIT_AS) in training", 1, "advice in figures, the checkpoint as it was, gone on with")
