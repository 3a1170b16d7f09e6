"""Ends training when nothing improves any more."""

import math
import warnings

import keras

from keras_transformer.callbacks.checkpoints import is_less_better


class EarlyStopping(keras.callbacks.Callback):
    """Ends training when a value in the logs has not improved for some epochs, also across a training that is resumed.

    Keras's own EarlyStopping forgets the best value and the epochs waited when a process ends. This one reads the history of
    Checkpoints, which every checkpoint holds; it must stand behind Checkpoints. An epoch whose logs do not hold the value, as
    between two of ``Bleu(every=2)``, ends nothing, but counts as one without a better value when the next has one.

    Args:
        checkpoints: the Checkpoints of the same ``fit``.
        monitor: a name in the logs of an epoch, such as "val_bleu".
        patience: epochs without a better value after which training ends.
        mode: "max", "min", or "auto": by the name, if it tells; see callbacks.checkpoints.is_less_better.

    Raises:
        ValueError: patience is no integer from 1, mode is impossible, or "auto" cannot tell from ``monitor`` what is better.

    Warns:
        UserWarning: in ``fit``, once: no epoch so far has had ``monitor`` in its logs.

    Example:

        checkpoints = kt.callbacks.Checkpoints("run/checkpoints", best=1, monitor="val_loss")
        stop = kt.callbacks.EarlyStopping(checkpoints, monitor="val_loss", patience=3)
        model.fit(train, validation_data=valid, epochs=100, callbacks=[checkpoints, stop])
    """

    def __init__(self, checkpoints, monitor="val_loss", patience=5, mode="auto"):
        super().__init__()
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience must be an integer from 1. Received: patience={patience!r}.")
        is_less_better(monitor, mode)  # raises now if it cannot tell
        self.checkpoints = checkpoints
        self.monitor = monitor
        self.patience = patience
        self.mode = mode

    def on_train_begin(self, logs=None):
        self._is_warned = False

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor not in (logs or {}):
            if not self._is_warned and not any(self.monitor in row for row in self.checkpoints.history):
                self._is_warned = True
                warnings.warn(
                    f"The logs of epoch {epoch + 1} hold no {self.monitor!r}, and none before did: as long as that is so "
                    f"EarlyStopping ends nothing. They hold {', '.join(sorted(logs or {})) or 'nothing'}.",
                    stacklevel=2,
                )
            return
        if epochs_since_best(self.checkpoints.history, self.monitor, self.mode) >= self.patience:
            self.model.stop_training = True


def epochs_since_best(history, monitor, mode="auto"):
    """How many epochs of a history, as Checkpoints keeps it, came after the one with the best value of ``monitor``.

    One without a value, because it was not finite, is an epoch too.
    """
    sign = -1 if is_less_better(monitor, mode) else 1
    values = [-math.inf if row.get(monitor) is None else sign * row[monitor] for row in history]
    return len(values) - 1 - values.index(max(values)) if values else 0
