"""Checkpoints while training goes on."""

import time

import keras

from keras_transformer.checkpoints import save_checkpoint


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch and within long ones; its state tells the next epoch: one broken off is begun anew.

    Args:
        folder: where checkpoints go; see checkpoints.save_checkpoint.
        keep: how many remain.
        minutes: between two within an epoch; None for none.

    Attributes:
        epoch: the next epoch, as the last checkpoint says.

    Raises:
        ValueError: minutes is not positive.
    """

    def __init__(self, folder, keep=2, minutes=10):
        super().__init__()
        if minutes is not None and not minutes > 0:
            raise ValueError(
                f"minutes must be positive, or None for no checkpoint within an epoch. Received: {minutes!r}."
            )
        self.folder = folder
        self.keep = keep
        self.minutes = minutes

    def on_train_begin(self, logs=None):
        self._steps_per_execution = self.model.steps_per_execution
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._batches = 0
        self._batches_ended = False

    def on_train_batch_begin(self, batch, logs=None):
        if batch and self.minutes is not None and time.monotonic() - self._saved >= 60 * self.minutes:
            self.save()
        self._batches = batch + self._steps_per_execution

    def on_test_begin(self, logs=None):
        self._batches_ended = True

    def on_epoch_end(self, epoch, logs=None):
        self._batches_ended = True
        self.save()

    def save(self):
        """Writes a checkpoint now. Within ``fit`` only from the hooks of a callback, where nothing is half done."""
        whole = self._batches_ended and self._batches >= (self.params.get("steps") or 0)
        self.epoch = self._epoch + 1 if whole else self._epoch
        save_checkpoint(self.model, self.folder, {"epoch": self.epoch}, self.keep)
        self._saved = time.monotonic()
