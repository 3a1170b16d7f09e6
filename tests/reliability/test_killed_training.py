"""Real training killed with signal 9, again and again, and a run that wanders from backend to backend."""

import importlib.util
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.deep
SCRIPT = Path(__file__).with_name("training.py")


def start(folder, *arguments, backend=None):
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"KERAS_BACKEND": backend or keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(SCRIPT), str(folder), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def means(child):
    """{step: (tokens of the epoch so far, their mean loss)}."""
    output = child.communicate()[0]
    lines = (line.split() for line in output.splitlines())
    return {int(step): (int(tokens), float(loss)) for step, tokens, loss in lines}


def losses(means):
    """{step: the loss of its batch alone}."""
    found, before = {}, (0, 0.0)
    for step, (tokens, mean) in sorted(means.items()):
        if tokens <= before[0]:  # a new epoch
            before = (0, 0.0)
        found[step] = (tokens * mean - before[0] * before[1]) / (tokens - before[0])
        before = tokens, mean
    return found


def weights(folder):
    with np.load(folder / "weights.npz") as file:
        return [file[name] for name in file.files]


def test_ten_kills(tmp_path, figure):
    """Five at chosen steps, five at any moment of training and saving."""
    child = start(tmp_path / "whole")
    assert sorted(means(child)) == list(range(1, 61)) and child.returncode == 0
    generator, kills = random.Random(3), 0
    for at in (1, 8, 17, 30, 45):
        child = start(tmp_path / "parts", at)
        means(child)
        kills += child.returncode == -9
    while kills < 10:
        child = start(tmp_path / "parts", 59)
        child.stdout.readline()  # training has begun
        time.sleep(generator.uniform(0, 0.05))
        child.kill()
        means(child)
        kills += child.returncode == -9
    child = start(tmp_path / "parts")
    assert max(means(child)) == 60 and child.returncode == 0
    same = all(
        np.array_equal(a, b) for a, b in zip(weights(tmp_path / "whole"), weights(tmp_path / "parts"), strict=True)
    )
    figure(
        "kill -9 of real training", kills, "all gone on with, weights at the end " + ("equal" if same else "DIFFERENT")
    )
    assert same


@pytest.mark.skipif(
    keras.backend.backend() != "torch"
    or any(importlib.util.find_spec(name) is None for name in ("jax", "torch", "tensorflow")),
    reason="needs all three backends, and runs once",
)
def test_from_jax_to_torch_to_tensorflow(tmp_path, figure):
    whole = losses(means(start(tmp_path / "whole")))
    parts = {}
    for backend, last in (("jax", 20), ("torch", 41), ("tensorflow", None)):
        child = start(tmp_path / "parts", *([] if last is None else [last]), backend=backend)
        parts |= means(child)
        assert child.returncode == (0 if last is None else -9)
    parts = losses(parts)
    assert sorted(parts) == sorted(whole) == list(range(1, 61))
    worst = max(abs(parts[step] - whole[step]) for step in whole)
    figure(
        "begun on JAX, killed, on PyTorch, killed, ended on TensorFlow: loss of each step",
        len(parts),
        f"within {worst:.1e} of a run on PyTorch that never stopped",
        backend=False,
    )
    assert worst < 1e-4
