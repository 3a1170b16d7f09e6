"""The learning rate in the logs."""

import keras
from keras import ops


class LearningRate(keras.callbacks.Callback):
    """Writes ``learning_rate``, the rate of the last update, into the logs; under a schedule Keras does not log it.

    Example:

        model.fit(train, callbacks=[kt.callbacks.LearningRate()]).history["learning_rate"]
    """

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = last_rate(self.model.optimizer)


def last_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The rate of the last update; an optimizer itself tells that of the next."""
    iterations = optimizer.iterations
    # A quotient where Keras accumulates gradients, whose schedule then counts micro-batches.
    if not isinstance(iterations, keras.Variable):
        return float(ops.convert_to_numpy(optimizer.learning_rate))
    last = max(int(ops.convert_to_numpy(iterations)) - 1, 0)
    with keras.StatelessScope(state_mapping=[(iterations, ops.convert_to_tensor(last, iterations.dtype))]):
        return float(ops.convert_to_numpy(optimizer.learning_rate))
