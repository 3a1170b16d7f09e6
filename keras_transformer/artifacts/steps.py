"""A folder of checkpoints: ``step-N`` each, written as a whole, the newest found by scanning.

step-N/
    weights.safetensors    the model's variables, seeds among them
    training.safetensors   the optimizer's variables, the metrics', generators of random numbers
    state.json             where training stood
    manifest.json          size and sha256 of the three

Needs no backend and knows nothing of models: arrays and JSON go in and come out.
"""

import json
import os
import re
import shutil
from pathlib import Path

from keras_transformer.artifacts.arrays import ArrayFile, write_arrays
from keras_transformer.artifacts.disk import NewFile, new_folder
from keras_transformer.artifacts.errors import ArtifactError
from keras_transformer.artifacts.manifest import MANIFEST_FILE, check_manifest, parse_json, write_manifest

KIND = "checkpoint"
STATE_FILE = "state.json"
WEIGHTS_FILE = "weights.safetensors"
TRAINING_FILE = "training.safetensors"
_MOST_STATE = 2**25  # bytes: the history of 60,000 epochs
_NAME = re.compile(r"step-(0|[1-9]\d{0,17})")
# The name of a checkpoint that is being replaced by two renames, between the first and the second; see disk.py.
_SET_ASIDE = re.compile(r"\.step-(0|[1-9]\d{0,17})-.+-old")


def write_step(folder, step, weights, training, state):
    """Writes folder/step-N as a whole; one that is there already is replaced.

    Args:
        folder: where checkpoints lie; made if it is missing.
        step: N.
        weights: {name: NumPy array}.
        training: {name: NumPy array}.
        state: dict that JSON can hold.

    Returns:
        Path of the checkpoint.

    Example:

    >>> import tempfile
    >>> import numpy as np
    >>> from keras_transformer.artifacts import latest_step, read_state, write_step
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_step(folder, 3, {"a": np.zeros(2)}, {}, {"epoch": 1})
    ...     latest_step(folder) == path, read_state(path)
    (True, {'epoch': 1})
    """
    folder = Path(folder)
    path = folder / f"step-{step}"
    remove_unfinished(folder)
    known = {}
    with new_folder(path, MANIFEST_FILE, complete=lambda new: write_manifest(new, KIND, known)) as new:
        known[WEIGHTS_FILE] = write_arrays(new / WEIGHTS_FILE, weights)
        known[TRAINING_FILE] = write_arrays(new / TRAINING_FILE, training)
        content = (json.dumps(state, indent=1, allow_nan=False) + "\n").encode()
        _checked_state(len(content), lambda: content, new / STATE_FILE)  # what could not be read again is not written
        with NewFile(new / STATE_FILE) as file:
            file.write(content)
        known[STATE_FILE] = file.size, file.sha256
    return path


def remove_unfinished(folder):
    """Removes what a kill has left of checkpoints that were being written or removed. The folder must have no other writer."""
    kept = list_steps(folder)
    for path in Path(folder).glob(".step-*"):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def remove_step(path):
    """Removes a checkpoint: under another name, so that a kill leaves no half of one."""
    path = Path(path)
    old = path.with_name(f".{path.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    os.rename(path, old)
    shutil.rmtree(old, ignore_errors=True)


def prune_steps(folder, keep, best=0, merit=None):
    """Removes all checkpoints except the newest and the best; with ``best`` it also keeps those whose state cannot be read.

    Args:
        folder: where checkpoints lie.
        keep: how many of the newest remain.
        best: how many of the best remain beside them.
        merit: a function from a checkpoint's state to a number, the higher the better, or None for one that does not count.
    """
    steps = list_steps(folder)
    kept = set(steps[-keep:])
    if best:
        merits = []
        for path in steps:
            try:
                value = merit(read_state(path))
            except ArtifactError:  # damaged: no reason to end training, nor to remove what someone may want to look at
                kept.add(path)
                continue
            if value is not None:
                merits.append((value, path))
        kept |= {path for _, path in sorted(merits, key=lambda pair: pair[0], reverse=True)[:best]}
    for path in steps:
        if path not in kept:
            remove_step(path)


def list_steps(folder):
    """Paths of the checkpoints in a folder, the oldest first; one that was set aside stands in for its successor."""
    found = {}
    for pattern, name in ((".step-*-old", _SET_ASIDE), ("step-*", _NAME)):
        found |= {int(match[1]): path for path in Path(folder).glob(pattern) if (match := name.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def latest_step(folder):
    """Path of the newest checkpoint in a folder, or None."""
    steps = list_steps(folder)
    return steps[-1] if steps else None


def open_step(path):
    """(weights, training, state) of a checkpoint: two ArrayFiles and a dict, every byte compared with the manifest.

    Raises:
        ArtifactError: it is not as it was written; the newest of the folder that is, is named.
    """
    try:
        return _open(Path(path))
    except ArtifactError as error:
        raise ArtifactError(error.path, error.reason, _advice(Path(path))) from None


def _open(path):
    files = check_manifest(path, KIND)
    missing = {WEIGHTS_FILE, TRAINING_FILE, STATE_FILE} - set(files)
    if missing:
        raise ArtifactError(path, f"corrupt or incomplete: the manifest lists no {', '.join(sorted(missing))}")
    return ArrayFile(path / WEIGHTS_FILE), ArrayFile(path / TRAINING_FILE), read_state(path)


def _advice(path):
    for other in reversed(list_steps(path.parent)):
        if other == path:
            continue
        try:
            _open(other)
        except ArtifactError:
            continue
        return f"The last good one is {other.name}: remove {path.name} to go on from there."
    return "No other checkpoint is whole: begin in a new folder."


def read_state(path):
    """The dict that write_step was given as ``state``."""
    path = Path(path) / STATE_FILE
    try:
        return _checked_state(path.stat().st_size, path.read_bytes, path)
    except OSError as error:
        raise ArtifactError(path, f"corrupt or incomplete: {error.strerror}") from None


def _checked_state(size, content, path):
    if size > _MOST_STATE:
        raise ArtifactError(path, f"its size, {size} bytes, is none of a state")
    state = parse_json(content(), path)
    if not isinstance(state, dict):
        raise ArtifactError(path, "it tells no state")
    return state
