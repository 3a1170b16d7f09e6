"""Resumes a training at the very batch where its newest checkpoint stands."""

import warnings
import weakref
from pathlib import Path

import keras
from keras import ops

from keras_transformer.artifacts import ArtifactError, open_step
from keras_transformer.backend_training import skip_steps
from keras_transformer.checkpoints import latest_checkpoint, restore

_STATE = {"epoch", "position", "step", "updates", "history"}
# model -> (weak reference to the last ``fit`` of it that went on from a checkpoint, the state of that checkpoint)
_RESUMED = weakref.WeakKeyDictionary()


def resumed_state(model):
    """State of the checkpoint that Resume has brought ``model`` to in the ``fit`` under way, or None."""
    history, state = _RESUMED.get(model, (lambda: None, None))
    return state if history() is this_fit(model) else None


def this_fit(model):
    """An object that every ``fit`` has anew, so that what a broken ``fit`` has left is not taken for the next one's."""
    return getattr(model, "history", None) or model


def fingerprint(data):
    """The fingerprint of training data that have one, as kt.Batches; None where their order cannot be known."""
    return data.fingerprint() if hasattr(data, "fingerprint") else None


class Resume(keras.callbacks.Callback):
    """Lets ``fit`` go on where the newest checkpoint of a run stands, at the very batch; without one it begins as always.

    Weights, optimizer (its moments, the schedule's step, the loss scale, gradients accumulated so far), seeds of dropout, metrics
    and the place in the data come back: on the same backend the weights become, bit for bit, what they would have become. Batches
    of the epoch that are done are read once more without training on them, so the data must give the same batches in the same
    order again. kt.Batches does, by seed and epoch, and arrays and a keras.utils.PyDataset do with ``shuffle=False``, which is not
    the default. kt.Batches, and arrays that a kt.Transformer is trained on with ``shuffle=False``, are recognised, and others
    refused; of what cannot be recognised the number of batches is compared, and a warning says so.

    The learning rate is the checkpoint's too, unless a schedule or a callback gives it. Resume must stand before Checkpoints and
    everything else that looks at the model.

    Args:
        run: a run folder, or the folder of its checkpoints.
        data: the training data, if it has ``set_epoch``, as kt.Batches; kt.Transformer tells it by itself.

    Attributes:
        state: of the checkpoint: {"epoch", "position", "step", "updates", "history", ...}; None where there was none.

    Raises:
        ArtifactError: a ValueError, in ``fit``: the newest checkpoint is not whole (the last good one is named) or belongs to
            another model. The model is then as it was.
        ValueError: in ``fit``: the checkpoint stands in mid-epoch of other data, as far as can be told, or within an execution of
            ``steps_per_execution``; ``steps_per_epoch`` cuts the epochs of a kt.Batches; or ``fit`` begins another epoch.

    Warns:
        UserWarning: in ``fit``: it cannot be told whether the data give the same batches again, or the checkpoint's learning rate
            takes the place of another.

    Example:

        callbacks = [kt.callbacks.Resume("run/checkpoints"), kt.callbacks.Checkpoints("run/checkpoints")]
        model.fit(train, epochs=20, callbacks=callbacks)
    """

    def __init__(self, run, data=None):
        super().__init__()
        self.run = Path(run)
        self.data = data
        self._takes_data = data is None
        self.state = None
        self._restore_metrics = None

    def set_data(self, data):
        """Called by kt.Transformer.fit with what it trains on; None if Keras shuffles it."""
        if self._takes_data:
            self.data = data

    def on_train_begin(self, logs=None):
        self.state = self._restore_metrics = None
        self._check_epochs()
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
        self._check_execution(path, state)
        rates = _learning_rates(model.optimizer)
        self._restore_metrics = restore(model, weights, training)
        _tell_of_rates(rates, _learning_rates(model.optimizer))
        self.state = state
        begun = this_fit(model)
        _RESUMED[model] = weakref.ref(begun), state
        # As Keras's own BackupAndRestore has it, but for this ``fit`` alone, however it ends.
        model._initial_epoch = _FirstEpoch(state["epoch"], lambda: this_fit(model) is begun)
        if state["position"]:
            logs = dict.fromkeys(model.get_metrics_result(), 0.0)
            model.train_function = skip_steps(
                model.train_function,
                state["position"],
                logs,
                model.steps_per_execution,
                active=lambda: this_fit(model) is begun,
            )

    def _check_epochs(self):
        steps, length = self.params.get("steps"), getattr(self.data, "full_length", None)
        if length is None and isinstance(self.data, keras.utils.PyDataset):
            length = len(self.data)
        if None not in (steps, length) and steps not in (length, len(self.data)):
            raise ValueError(
                f"steps_per_epoch cuts the epochs of the data, which have {length} batches. Received: steps_per_epoch={steps}. "
                "Training could not go on at the right batch. Leave it out; Checkpoints(steps=...) writes within an epoch too."
            )

    def _check_data(self, path, state):
        """In mid-epoch the batches that are done are told by their number alone."""
        before, now = state.get("data"), fingerprint(self.data)
        if state["position"] and None not in (before, now) and before != now:
            raise ValueError(
                f"{path} stands in the middle of an epoch of other data: the pairs have changed, or batch_tokens, the seed or "
                "another argument of Batches; or the values of arrays, or batch_size. Give what it was trained on, or remove the "
                "checkpoint to go on from the one before."
            )
        if state["position"] and None in (before, now):
            self._check_length(path, state.get("batches"), self.params.get("steps"))
        begins_anew = state["step"] and hasattr(self.data, "__next__")  # a generator knows of no epochs
        if begins_anew or (state["position"] and None in (before, now)):
            warnings.warn(
                f"Resume cannot tell whether the data give the batches again that {path} was trained on, in the same order. If "
                "they do not, rows come twice and others never. Arrays and a PyDataset do with fit(..., shuffle=False), kt.Batches "
                "by its seed; a generator begins anew.",
                stacklevel=2,
            )

    def _check_length(self, path, before, now):
        if None not in (before, now) and before != now:
            raise ValueError(
                f"{path} stands in the middle of an epoch of {before} batches. Received: data of {now}. Give the data and the "
                "batch_size it was trained with, or remove the checkpoint to go on from the one before."
            )

    def _check_execution(self, path, state):
        steps = self.model.steps_per_execution
        if state["position"] % steps:
            raise ValueError(
                f"{path} stands after {state['position']} batches of an epoch, within an execution of several. Received: "
                f"steps_per_execution={steps}. Compile with the number it was trained with, or 1."
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


class _FirstEpoch:
    """The epoch that one ``fit`` begins with, in place of ``initial_epoch``; in any other it counts as None."""

    def __init__(self, epoch, holds):
        self._epoch = epoch
        self._holds = holds

    def __bool__(self):
        return bool(self._epoch) and self._holds()

    def __index__(self):
        return self._epoch


def _learning_rates(optimizer):
    """Those that are variables, as they are without a schedule."""
    return [float(ops.convert_to_numpy(each)) for each in optimizer.variables if each.name == "learning_rate"]


def _tell_of_rates(made, restored):
    for own, other in zip(made, restored, strict=False):
        if own != other != 0.0:  # that of an optimizer around another is 0, and nobody's
            warnings.warn(
                f"The learning rate goes on as the checkpoint has it, {other:.6g}. Received: an optimizer of {own:.6g}, which "
                "counts no more. To go on with that, put keras.callbacks.LearningRateScheduler(lambda epoch: "
                f"{own:.6g}) behind Resume.",
                stacklevel=3,
            )
