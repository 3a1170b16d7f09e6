"""A model's training state, saved and loaded."""

from pathlib import Path

from keras_transformer.artifacts import ArtifactError, latest_step, list_steps, open_step, prune_steps, write_step
from keras_transformer.checkpoints.state import capture, first_non_finite, restore


class NonFiniteError(ValueError):
    """Training has come to numbers that are NaN or infinite."""


def save_checkpoint(model, folder, state, step=None, keep=2):
    """Writes a compiled model and ``state`` as folder/step-N; older ones are removed but for ``keep``.

    Args:
        model: a compiled and built keras.Model.
        folder: where checkpoints lie; made if it is missing.
        state: dict that JSON can hold.
        step: N; None for the updates that the optimizer has done.
        keep: how many checkpoints remain.

    Returns:
        Path of the checkpoint.

    Raises:
        ValueError: keep is below 1.
        NonFiniteError: a ValueError: a weight, or a variable of the optimizer, is not finite. Nothing has been written.

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
    weights, training = capture(model)
    check_finite(weights, training, folder)
    path = write_step(folder, int(model.optimizer.iterations) if step is None else step, weights, training, state)
    prune_steps(folder, keep)
    return path


def check_finite(weights, training, folder):
    """Raises NonFiniteError if captured arrays, but for metrics, hold NaN or infinity."""
    optimizer = {name: array for name, array in training.items() if name.startswith("optimizer/")}
    bad = first_non_finite(weights) or first_non_finite(optimizer)
    if bad is not None:
        last = latest_step(folder)
        kept = f"{last} is as it was" if last else "there is none so far"
        raise NonFiniteError(
            f"No checkpoint is written: {bad} holds numbers that are not finite. The last checkpoint is kept: {kept}. Go on from "
            "it with a smaller learning rate, clip gradients (global_clipnorm=1.0), wrap the optimizer in kt.SkipNonFinite, or "
            "look at the data of the last batches."
        )


def latest_checkpoint(folder):
    """Path of the newest checkpoint in ``folder``, or None.

    Raises:
        ArtifactError: there are only checkpoints of a format that this release does not read.
    """
    path = latest_step(folder)
    if path is None:
        earlier = sorted(Path(folder).glob("update-*"))
        if earlier:
            raise ArtifactError(
                earlier[-1], "it is a checkpoint of an earlier release, without a manifest", "Begin in a new folder."
            )
    return path


def list_checkpoints(folder):
    """Paths of the checkpoints in ``folder``, the oldest first."""
    return list_steps(folder)


def load_checkpoint(model, path):
    """Brings a compiled model to where a checkpoint stands, on any backend, and returns the state.

    Metrics stay empty: Keras empties them when ``fit`` begins an epoch; callbacks.Resume fills them again.

    Raises:
        ArtifactError: a ValueError: the checkpoint is not whole (the last good one is named), belongs to another architecture or
            optimizer, or holds numbers that are not finite. The model is then as it was.
    """
    weights, training, state = open_step(path)
    restore(model, weights, training)
    return state
