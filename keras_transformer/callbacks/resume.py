"""Going on at the very batch."""

import weakref
from pathlib import Path

import keras

from keras_transformer.artifacts import ArtifactError, open_step
from keras_transformer.backend_training import skip_steps
from keras_transformer.checkpoints import latest_checkpoint, restore

_STATE = {"epoch", "position", "step", "updates", "history"}
_RESUMED = (
    weakref.WeakKeyDictionary()
)  # model -> its last ``fit`` that went on, weakly, and the state of that checkpoint


def resumed_state(model):
    """State of the checkpoint that Resume has brought ``model`` to in the ``fit`` under way, or None."""
    history, state = _RESUMED.get(model, (lambda: None, None))
    return state if history() is this_fit(model) else None


def this_fit(model):
    """What tells one ``fit`` from the next, which leaves out nothing of what one that was broken off has left."""
    return getattr(model, "history", None) or model


def fingerprint(data):
    """What tells training data with ``fingerprint()``, as kt.Batches, from others; None for other data."""
    return data.fingerprint() if hasattr(data, "fingerprint") else None


class Resume(keras.callbacks.Callback):
    """Lets ``fit`` go on where the newest checkpoint of a run stands, at the very batch; without one it begins as always.

    Weights, optimizer (its moments, the schedule's step, the loss scale, gradients accumulated so far), seeds of dropout, metrics
    and the place in the data come back: on the same backend the weights become, bit for bit, what they would have become. Batches
    of the epoch that are done are read once more without training on them, so the data must give the same batches in the same
    order again. kt.Batches does, by seed and epoch, and is recognised; arrays do with ``shuffle=False``, and only their number of
    batches is compared; ``steps_per_epoch`` must not cut epochs otherwise than the data do.

    It must stand before Checkpoints and everything else that looks at the model.

    Args:
        run: a run folder, or the folder of its checkpoints.
        data: the training data, if it has ``set_epoch``, as kt.Batches; kt.Transformer tells it by itself.

    Attributes:
        state: of the checkpoint: {"epoch", "position", "step", "updates", "history", ...}; None where there was none.

    Raises:
        ArtifactError: a ValueError, in ``fit``: the newest checkpoint is not whole (the last good one is named) or belongs to
            another model. The model is then as it was.
        ValueError: in ``fit``: the checkpoint stands in mid-epoch of other data, as far as ``data`` can tell, or ``fit`` begins
            another epoch.

    Example:

        callbacks = [kt.callbacks.Resume("run/checkpoints"), kt.callbacks.Checkpoints("run/checkpoints")]
        model.fit(train, epochs=20, callbacks=callbacks)
    """

    def __init__(self, run, data=None):
        super().__init__()
        self.run = Path(run)
        self.data = data
        self.state = None
        self._restore_metrics = None

    def set_data(self, data):
        """Called by kt.Transformer.fit with what it trains on."""
        if self.data is None:
            self.data = data

    def on_train_begin(self, logs=None):
        self.state = self._restore_metrics = None
        checkpoints = self.run / "checkpoints"
        path = latest_checkpoint(checkpoints if checkpoints.is_dir() else self.run)
        if path is None:
            return
        model = self.model
        weights, training, state = open_step(path)
        if not state.keys() >= _STATE:
            raise ArtifactError(
                path, "it does not tell where training stood", "Expected what callbacks.Checkpoints writes."
            )
        self._check_data(path, state)
        self._restore_metrics = restore(model, weights, training)
        self.state = state
        begun = this_fit(model)
        _RESUMED[model] = weakref.ref(begun), state
        model._initial_epoch = state["epoch"]  # as Keras's own BackupAndRestore has it
        if state["position"]:
            logs = dict.fromkeys(model.get_metrics_result(), 0.0)
            model.train_function = skip_steps(
                model.train_function,
                state["position"],
                logs,
                model.steps_per_execution,
                active=lambda: this_fit(model) is begun,
            )

    def _check_data(self, path, state):
        """In mid-epoch the batches that are done are told by their number alone."""
        if state["position"] and state.get("data") and fingerprint(self.data) not in (None, state["data"]):
            raise ValueError(
                f"{path} stands in the middle of an epoch of other data: the pairs have changed, or batch_tokens, the seed or "
                "another argument of Batches. Give what it was trained on, or remove the checkpoint to go on from the one before."
            )
        before, now = state.get("batches"), self.params.get("steps")
        if state["position"] and fingerprint(self.data) is None and None not in (before, now) and before != now:
            raise ValueError(
                f"{path} stands in the middle of an epoch of {before} batches. Received: data of {now}. Give the data and the "
                "batch_size it was trained with, or remove the checkpoint to go on from the one before."
            )

    def on_epoch_begin(self, epoch, logs=None):
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)  # the order of an epoch depends on nothing that was served before it
        if self._restore_metrics is None:
            return
        model = self.model
        if epoch != self.state["epoch"]:
            raise ValueError(
                f"fit begins epoch {epoch}, the checkpoint stands in epoch {self.state['epoch']}. "
                f"Give fit initial_epoch={self.state['epoch']}."
            )
        model._initial_epoch = None
        if self.state["position"]:
            if hasattr(self.data, "trained_on"):
                self.data.trained_on(self.state["position"])  # the batches that are only read
            self._restore_metrics()
        self._restore_metrics = None
