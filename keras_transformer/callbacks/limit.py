"""Ends training after a time or a number of updates."""

import numbers
import time
from collections.abc import Callable

import keras
from keras import ops


class Limit(keras.callbacks.Callback):
    """Ends training after a time or a number of updates, within an epoch if need be; what follows an epoch still runs.

    An update is one of the optimizer's: a micro-batch of AccumulateGradients is none before the last, and neither is a step that
    loss scaling leaves out. They are counted on the device, which the host asks only when the batches since the last time could
    have reached the limit. Under ``steps_per_execution`` training ends with the execution that reaches it.

    Args:
        minutes: of training from now on, compilation and validation included; None for no such limit.
        updates: that the optimizer has done in all; None for no such limit.

    Raises:
        ValueError: a limit is not positive.

    Example:

        model.fit(train, epochs=100, callbacks=[kt.callbacks.Limit(minutes=30)])
    """

    def __init__(self, minutes: float | None = None, updates: int | None = None):
        super().__init__()
        for name, value in {"minutes": minutes, "updates": updates}.items():
            if value is not None and not (isinstance(value, numbers.Real) and value > 0):
                raise ValueError(f"{name} must be a positive number, or None. Received: {name}={value!r}.")
        self.minutes = minutes
        self.updates = updates

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._begin = time.monotonic()
        self._steps_per_execution = self.model.steps_per_execution
        self._look()
        others = self.model.stop_training
        self.model.stop_training = _Question(lambda: bool(others) or self._is_reached())

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        self._batches += self._steps_per_execution

    def on_train_end(self, logs: dict | None = None) -> None:
        self.model.stop_training = bool(self.model.stop_training)

    def _is_reached(self) -> bool:
        if self.minutes is not None and time.monotonic() - self._begin >= 60 * self.minutes:
            return True
        if self.updates is None:
            return False
        if self._batches and self._updates + self._batches >= self.updates:
            self._look()
        return self._updates >= self.updates

    def _look(self):
        self._updates = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        self._batches = 0


class _Question:
    """A truth that is found out when it is asked for.

    As ``model.stop_training``, which ``fit`` asks for in its own thread after each batch: the only place where a callback without
    on_train_batch_end can end training at once.
    """

    def __init__(self, answer: Callable[[], bool]):
        self._answer = answer

    def __bool__(self) -> bool:
        return self._answer()
