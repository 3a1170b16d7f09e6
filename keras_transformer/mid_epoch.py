"""``fit`` over a Batches that stands in the middle of an epoch: how far it has come, and how arrays are known again.

Between text and the model. Keras asks a data set once for its length and takes all epochs for as long, so that a shorter first
epoch is a part of its own here, with the callbacks told of one training. Data are read ahead of training on TensorFlow; so
what has been trained on is counted where steps are done, not where batches are asked for.
"""

import contextlib
import hashlib

import keras
import numpy as np
from keras import ops


class ArrayData:
    """What has to be known of the arrays that ``fit`` was given, to go on in the middle of an epoch of them.

    Args:
        arrays: x, y and sample_weight: dicts of arrays, arrays or None.
        numbers: what else decides which rows make a batch: (batch_size, validation_split).
    """

    def __init__(self, arrays, numbers):
        self._arrays = arrays
        self._numbers = numbers

    def __len__(self):
        return self.full_length

    @property
    def full_length(self):
        """Batches of an epoch."""
        batch_size, validation_split = self._numbers
        rows = len(next(value for value in keras.tree.flatten(self._arrays) if value is not None))
        return -(-int(rows * (1 - (validation_split or 0))) // batch_size)

    def fingerprint(self):
        """Hexadecimal digits that two share if all their values, in order, and the numbers are the same."""
        digest = hashlib.sha256(repr(self._numbers).encode())
        for path, value in keras.tree.flatten_with_path(self._arrays):
            if value is None:
                continue
            array = np.ascontiguousarray(ops.convert_to_numpy(value))
            digest.update(repr((path, array.shape, array.dtype.str)).encode())
            digest.update(array.reshape(-1).view("uint8"))
        return digest.hexdigest()[:32]


class Following(keras.callbacks.Callback):
    """Tells a Batches how far training on it has come.

    Args:
        batches: the Batches; training begins where it stands.
    """

    def __init__(self, batches):
        super().__init__()
        self.batches = batches
        self._begin = batches.beginning()

    def on_train_begin(self, logs=None):
        # Keras looks at a batch before, to build what is not built: to a Batches that looks like the beginning of an epoch.
        self.batches.restore(self._begin)
        self.batches.trained_on(0)

    def advance(self, steps):
        self.batches.trained_on(steps)


class OneTraining(keras.callbacks.CallbackList):
    """Callbacks to which several calls of ``fit`` look like one: it begins once, and ends with the call after ``go_on``."""

    _begun = _may_end = False

    def on_train_begin(self, logs=None):
        if self._begun:
            self.model.stop_training = self._stop  # fit has overwritten what a callback may have put there
            return
        self._begun = True
        super().on_train_begin(logs)

    def on_train_end(self, logs=None):
        self._stop, self._logs = self.model.stop_training, logs
        if self._may_end:
            super().on_train_end(logs)

    def go_on(self, steps):
        """Lets the next part be the last; returns whether there is one. ``steps`` is the length of its epochs."""
        self._may_end = True
        self.set_params(self.params | {"steps": steps})
        if self._stop:
            self.on_train_end(self._logs)
        return not self._stop


class Endless(keras.utils.PyDataset):
    """One epoch of a Batches after the other, as ``steps_per_epoch`` wants it from the middle of one."""

    def __init__(self, batches):
        super().__init__()
        self._batches = batches
        self._rest = len(batches)

    num_batches = None

    def example(self, index):
        return self._batches.example(index)

    def __getitem__(self, index):
        if index < self._rest:
            return self._batches[index]
        return self._batches[(index - self._rest) % self._batches.full_length]

    def on_epoch_begin(self):
        self._batches.on_epoch_begin()


def fit_batches(fit, model, batches, wrap, epochs, initial_epoch, steps_per_epoch, callbacks, verbose, **kwargs):
    """Keras's ``fit`` of the model on a Batches, from its position on.

    Args:
        fit: keras.Model.fit of the model.
        wrap: what is put around the data set before Keras gets it.
        kwargs: further arguments of fit.

    Returns:
        keras.callbacks.History.
    """
    position = batches.beginning()["position"]
    following = Following(batches)
    listed = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    callbacks = [following, *keras.tree.flatten(listed or [])]
    kwargs |= {"steps_per_epoch": steps_per_epoch, "verbose": verbose}
    with model.followed_by(following):
        if not position or steps_per_epoch is not None or epochs - initial_epoch < 2:
            data = Endless(batches) if position and steps_per_epoch is not None else batches
            return fit(wrap(data), epochs=epochs, initial_epoch=initial_epoch, callbacks=callbacks, **kwargs)
        lists = {"add_history": True, "add_progbar": verbose != 0, "verbose": verbose, "epochs": epochs}
        callbacks = OneTraining(callbacks, **lists, steps=len(batches), model=model)
        with _not_yet_final(model.optimizer):
            fit(wrap(batches), epochs=initial_epoch + 1, initial_epoch=initial_epoch, callbacks=callbacks, **kwargs)
        if not callbacks.go_on(batches.full_length):
            return model.history
        batches.restore(batches.state())
        batches.trained_on(0)
        return fit(wrap(batches), epochs=epochs, initial_epoch=initial_epoch + 1, callbacks=callbacks, **kwargs)


@contextlib.contextmanager
def _not_yet_final(optimizer):
    """Keeps the end of a ``fit`` from putting averaged weights, if the optimizer has them, in place of those that train on."""
    optimizer.finalize_variable_values = lambda variables: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values
