"""The state of a training run as files, written so that a kill at any moment leaves the last whole one.

A checkpoint is a folder: model.weights.h5 holds the weights and the optimizer's state, state.json where training stood. It is
written under another name, brought to disk, and renamed; the newest is found by its number.
"""

import json
import os
import re
import shutil
from pathlib import Path

from keras_transformer.model_files import WEIGHTS_FILE, new_folder

STATE_FILE = "state.json"
_NAME = re.compile(r"update-(\d+)")


def save_checkpoint(model, folder, state, keep=2):
    """Writes a compiled model and ``state`` as folder/update-N, N being the updates done; older ones are removed but for ``keep``.

    Args:
        model: a compiled and built keras.Model.
        folder: where checkpoints lie; made if it is missing.
        state: dict that JSON can hold.
        keep: how many checkpoints remain.

    Returns:
        Path of the checkpoint.

    Raises:
        ValueError: keep is below 1.

    Example:

    >>> import tempfile
    >>> import keras_transformer as kt
    >>> from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> model.compile()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save_checkpoint(model, folder, {"epoch": 3})
    ...     load_checkpoint(model, latest_checkpoint(folder))
    {'epoch': 3}
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1 checkpoint. Received: keep={keep}.")
    folder = Path(folder)
    model.optimizer.build(model.trainable_variables)
    path = folder / f"update-{int(model.optimizer.iterations)}"
    for unfinished in folder.glob(".update-*"):  # left by a kill
        shutil.rmtree(unfinished, ignore_errors=True)
    with new_folder(path, mark=STATE_FILE) as new:
        model.save_weights(new / WEIGHTS_FILE)
        (new / STATE_FILE).write_text(json.dumps(state) + "\n", encoding="utf-8")
        for file in (new / WEIGHTS_FILE, new / STATE_FILE, new):
            _to_disk(file)
    _to_disk(folder)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def latest_checkpoint(folder):
    """Path of the newest checkpoint in ``folder``, or None."""
    checkpoints = _checkpoints(Path(folder))
    return checkpoints[-1] if checkpoints else None


def load_checkpoint(model, path):
    """Brings a compiled model to where save_checkpoint left it, on any backend, and returns the state.

    Raises:
        ValueError: the checkpoint is not whole, or belongs to another architecture.
    """
    path = Path(path)
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        # An optimizer without variables would drop its state with no more than a warning.
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"The checkpoint {path} cannot be read: {error} Remove it to start from the one before, or give another run folder."
        ) from error
    return state


def _checkpoints(folder):
    """Whole checkpoints, the oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("update-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _to_disk(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
