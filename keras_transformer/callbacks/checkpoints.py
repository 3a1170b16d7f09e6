"""Checkpoints while training goes on."""

import concurrent.futures
import time
import warnings
import weakref
from pathlib import Path

import keras
from keras import ops

from keras_transformer.artifacts import FolderLock, prune_steps, read_state, write_step
from keras_transformer.callbacks.resume import fingerprint, resumed_state, this_fit
from keras_transformer.checkpoints import capture, capture_metrics, check_finite, latest_checkpoint

# folder -> the Checkpoints that last began to write into it in this process, whose own lock lets it in twice
_WRITERS = weakref.WeakValueDictionary()


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch and within long ones, from which callbacks.Resume goes on at the very batch.

    Training waits while the state is copied to the host and checked; hashing and writing then go on beside it, in a thread. Weights
    that are not finite are never written. Put it behind Resume, and behind what writes into the logs, as Bleu does.

    Args:
        folder: where checkpoints go; see checkpoints.save_checkpoint.
        keep: how many of the newest remain.
        minutes: between two within an epoch; None for none.
        steps: batches between two within an epoch; None for none.
        best: how many of the best by ``monitor`` remain beside the newest.
        monitor: a name in the logs of an epoch, such as "val_bleu".
        mode: "max", "min", or "auto": by the name, if it tells; see is_less_better.

    Attributes:
        epoch: the epoch, from 0, that the last checkpoint goes on in.
        position: its batches that are done.
        step: batches trained on in all.
        history: list of {"epoch": from 1, name: value of the logs, ...}, also of what was before a resume.
        blocked: seconds that training has waited for checkpoints.

    Raises:
        ValueError: an argument is impossible, or "auto" cannot tell from ``monitor`` what is better; or, in ``fit``, the folder
            holds checkpoints of another training, or another Checkpoints of the same ``fit`` writes there.
        OSError: in ``fit``, when the next checkpoint is due or training ends: one could not be written; those before are whole.
        FolderInUse: a ValueError, in ``fit``: another process trains into the folder.
        NonFiniteError: a ValueError, in ``fit``: weights are not finite.

    Example:

        resume = kt.callbacks.Resume("run/checkpoints")
        checkpoints = kt.callbacks.Checkpoints("run/checkpoints", best=3, monitor="val_loss")
        model.fit(train, validation_data=valid, epochs=20, callbacks=[resume, checkpoints])
    """

    def __init__(self, folder, keep=2, minutes=10, steps=None, best=0, monitor="val_loss", mode="auto"):
        super().__init__()
        if minutes is not None and not minutes > 0:
            raise ValueError(
                f"minutes must be positive, or None for no checkpoint within an epoch. Received: {minutes!r}."
            )
        for name, value, least in (("keep", keep, 1), ("best", best, 0), ("steps", 1 if steps is None else steps, 1)):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer from {least}. Received: {name}={value!r}.")
        if best or mode != "auto":
            is_less_better(monitor, mode)  # raises now if it cannot tell
        self.folder = folder
        self.keep = keep
        self.minutes = minutes
        self.steps = steps
        self.best = best
        self.monitor = monitor
        self.mode = mode
        self.history = []
        self.step = 0
        self.epoch = self.position = 0
        self.blocked = 0.0
        self._writer = None
        self._writing = None
        self._lock = None
        self._data = self._fingerprint = None

    def set_data(self, data):
        """Called by kt.Transformer.fit with what it trains on, which a checkpoint in mid-epoch belongs to; None if shuffled."""
        self._data = data

    def on_train_begin(self, logs=None):
        self._lock = self._lock or FolderLock(self.folder).__enter__()
        try:
            self._begin()
        except BaseException:
            self.release()
            raise

    def _begin(self):
        self._be_the_only_writer()
        self._steps_per_execution = self.model.steps_per_execution
        self._saved = time.monotonic()
        self._fingerprint = fingerprint(self._data)
        state = self._state_before()
        self.history = list(state["history"])
        self.epoch, self.position, self.step = state["epoch"], state["position"], state["step"]
        self._saved_step = self.step
        self._metrics = None
        self._epoch_begin = self.step - self.position  # the step at which the epoch being done began
        self._resumed = self.position  # batches of the first epoch that are only read

    def _be_the_only_writer(self):
        """In this process; the lock is for others."""
        folder, self._fit = Path(self.folder).resolve(), this_fit(self.model)
        other = _WRITERS.get(folder)
        if other is not None and other is not self:
            if other._fit is self._fit:
                raise ValueError(
                    f"Two Checkpoints write into {self.folder}. Give each a folder of its own, or leave one out."
                )
            other.release()  # of a ``fit`` that an error has ended: what it still writes must not come among ours
        _WRITERS[folder] = self
        self._is_warned = False

    def _state_before(self):
        """Of the checkpoint that this training goes on from; the folder may hold no other's."""
        nothing = {"epoch": 0, "position": 0, "step": 0, "history": []}
        state = resumed_state(self.model)
        latest = latest_checkpoint(self.folder)
        if state is not None or latest is None:
            return state or nothing
        state = read_state(latest)
        if state.get("position") == 0 and state.get("updates") == self._updates():
            return state  # ``fit`` called once more
        raise ValueError(
            f"{self.folder} holds checkpoints of a training that this one does not go on from. Put "
            f"callbacks.Resume({str(self.folder)!r}) "
            "before Checkpoints, or give another folder."
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._current = epoch
        self._done = self._resumed
        self._underway = 0
        self._metrics = None

    def on_train_batch_begin(self, batch, logs=None):
        if batch < self._resumed:
            return
        self._done = batch
        if self._epoch_begin + batch > self._saved_step and self._is_due():
            self.save()
        self._underway = self._steps_per_execution

    def _is_due(self):
        if self.steps is not None and self._epoch_begin + self._done - self._saved_step >= self.steps:
            return True
        return self.minutes is not None and time.monotonic() - self._saved >= 60 * self.minutes

    def on_test_begin(self, logs=None):
        self._finish_batch()
        # Validation empties the metrics: a signal in the midst of it must not lose those of the epoch.
        self._metrics = capture_metrics(self.model)

    def on_epoch_end(self, epoch, logs=None):
        row = {name: float(ops.convert_to_numpy(value)) for name, value in (logs or {}).items()}
        row = {name: value for name, value in row.items() if value == value and abs(value) != float("inf")}
        self.history = [other for other in self.history if other["epoch"] <= epoch] + [{"epoch": epoch + 1} | row]
        if self.best and self.monitor not in (logs or {}) and not self._is_warned:
            self._is_warned = True
            warnings.warn(
                f"best={self.best} keeps no checkpoint of epoch {epoch + 1}: its logs hold no {self.monitor!r}. They hold "
                f"{', '.join(sorted(logs or {})) or 'nothing'}. Give Checkpoints one of these as monitor, or fit validation data.",
                stacklevel=2,
            )
        self._finish_batch()
        steps = self.params.get("steps")
        if not steps or self._done >= steps:
            self._epoch_begin += self._done
            self._current, self._done, self._resumed, self._metrics = epoch + 1, 0, 0, None
        self.save()

    def _finish_batch(self):
        """The batch that was last begun is done, which only what comes after it tells."""
        self._done += self._underway
        self._underway = 0
        self._done = min(self._done, self.params.get("steps") or self._done)  # of steps_per_execution fewer may be left

    def on_train_end(self, logs=None):
        try:
            self.wait()
        finally:
            self.release()

    def release(self):
        """Unlocks the folder once what is being written is on disk; to be called after a ``fit`` that an error has ended."""
        if self._writing is not None:
            concurrent.futures.wait([self._writing])
        if self._lock is not None:
            self._lock.__exit__()
            self._lock = None

    def step_at(self, batch):
        """Batches trained on in all when ``batch`` of this epoch are done."""
        return self._epoch_begin + batch

    def save(self):
        """Takes a checkpoint now; ``wait`` returns when it is on disk.

        In ``fit`` only from hooks of a callback, where nothing is half done.
        """
        begin = time.monotonic()
        self.wait()
        self.epoch, self.position, self.step = self._current, self._done, self._epoch_begin + self._done
        weights, training = capture(self.model)
        training |= self._metrics or {}
        check_finite(weights, training, self.folder)
        self._writer = self._writer or concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing = self._writer.submit(self._write, self.step, weights, training, self._state())
        self._saved, self._saved_step = time.monotonic(), self.step
        self.blocked += time.monotonic() - begin

    def _state(self):
        return {
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "updates": self._updates(),
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "history": self.history,
            "data": self._fingerprint,
            "batches": self.params.get("steps"),
        }

    def _write(self, step, weights, training, state):
        write_step(self.folder, step, weights, training, state)
        prune_steps(self.folder, self.keep, self.best, lambda state: merit(state, self.monitor, self.mode))

    def wait(self):
        """Returns when all that was saved is on disk; raises what writing it raised."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except OSError as error:
            last = latest_checkpoint(self.folder)
            kept = f"{last.name}, the one before, is as it was" if last else "there is none before"
            raise OSError(
                error.errno,
                f"The checkpoint of step {self.step} could not be written into {self.folder}: {error.strerror or error}; {kept}. "
                "Make room, or see to the folder's permissions; training then goes on from there",
            ) from error

    def _updates(self):
        return int(ops.convert_to_numpy(self.model.optimizer.iterations))


def merit(state, monitor, mode="auto"):
    """How good a checkpoint's epoch was by a value of its logs, the higher the better.

    Args:
        state: of the checkpoint.
        monitor: the value's name.
        mode: as Checkpoints's.

    Returns:
        float, or None: the checkpoint does not stand at the end of an epoch whose logs hold that name.
    """
    if state.get("position") != 0 or not state.get("history"):
        return None
    value = state["history"][-1].get(monitor)
    if value is None:
        return None
    return -value if is_less_better(monitor, mode) else value


_LESS = ("loss", "perplexity", "error", "entropy", "divergence")
_MORE = ("accuracy", "bleu", "precision", "recall", "score")
_LESS_WHOLE = {"ter", "wer", "cer", "mse", "mae", "mape", "msle", "rmse"}
_MORE_WHOLE = {"chrf", "acc", "auc", "f1", "exact_match"}


def is_less_better(monitor, mode="auto"):
    """Whether a smaller value of that name in the logs is the better one.

    With mode "auto" the name tells: of losses, perplexities, errors, entropies, TER, WER, MSE and the like it is, of accuracies,
    scores, BLEU, chrF, precision, recall, AUC and F1 it is not.

    Raises:
        ValueError: mode is none of "max", "min" and "auto", or the name does not tell.

    Example:

    >>> from keras_transformer.callbacks.checkpoints import is_less_better
    >>> is_less_better("val_loss"), is_less_better("val_bleu")
    (True, False)
    """
    if mode not in ("auto", "max", "min"):
        raise ValueError(f'mode must be "max", "min" or "auto". Received: mode={mode!r}.')
    if mode != "auto":
        return mode == "min"
    name = monitor.lower().removeprefix("val_")
    less = name in _LESS_WHOLE or any(word in name for word in _LESS)
    if less == (name in _MORE_WHOLE or any(word in name for word in _MORE)):
        raise ValueError(
            f'The name {monitor!r} does not tell whether more or less of it is better. Received: mode="auto". Give "max" or "min".'
        )
    return less
