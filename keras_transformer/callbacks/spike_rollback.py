"""Goes back to a checkpoint when the loss jumps."""

import collections
import statistics

import keras
from keras import ops

from keras_transformer.artifacts import list_steps, open_step, read_state
from keras_transformer.checkpoints import restore


class SpikeRollback(keras.callbacks.Callback):
    """Brings weights and optimizer back to the last checkpoint before the loss jumped; the batches since then are left out.

    Every ``every`` batches the mean loss of these batches is compared with the median of such means. If it is beyond ``factor``
    times the median, the newest checkpoint older than these batches is loaded, and training goes on with the next batch. The data
    are not rewound: the batches between that checkpoint and the spike are skipped. Needs Checkpoints before this, best with
    ``steps`` (without, the last checkpoint is as old as its ``minutes`` or the epoch), and a model that counts its loss in a metric
    ``loss``, as kt.Transformer and every compiled model do. A training that is resumed begins with no means: until there are
    ``window`` again it sees no spike, so that it may differ from one that never stopped.

    Args:
        checkpoints: the Checkpoints of the same ``fit``.
        factor: of the median, beyond which a mean loss is a spike.
        every: batches from one comparison to the next.
        window: how many means the median is of; there are no spikes before.
        most: how often training goes back at most; a further spike is left alone.

    Attributes:
        rollbacks: list of {"step": where the spike was seen, "to": the step gone back to, "loss", "median"}.

    Raises:
        ValueError: an argument is impossible.

    Example:

        checkpoints = kt.callbacks.Checkpoints("run/checkpoints", steps=500, keep=3)
        model.fit(train, callbacks=[checkpoints, kt.callbacks.SpikeRollback(checkpoints, factor=2.0)])

    Reference: Chowdhery et al. 2022, "PaLM", section 5.1: restart some 100 steps before the spike, skip 200 to 500 batches.
    """

    def __init__(self, checkpoints, factor=2.0, every=50, window=10, most=5):
        super().__init__()
        if not factor > 1:
            raise ValueError(f"factor must be beyond 1. Received: factor={factor!r}.")
        for name, value in (("every", every), ("window", window), ("most", most)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={value!r}.")
        self.checkpoints = checkpoints
        self.factor = factor
        self.every = every
        self.window = window
        self.most = most
        self.rollbacks = []
        self._means = collections.deque(maxlen=window)

    def on_epoch_begin(self, epoch, logs=None):
        self._last = 0, 0.0

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0 or batch % self.every:
            return
        mean = self._mean_since_last(batch)
        if len(self._means) == self.window:
            median = statistics.median(self._means)
            if not mean <= self.factor * median and len(self.rollbacks) < self.most:
                self._go_back(batch, mean, median)
                return
        self._means.append(mean)

    def _mean_since_last(self, batch):
        """Mean loss of the batches since the last look, from the mean of the epoch so far."""
        last, total = self._last
        now = float(ops.convert_to_numpy(self.model.get_metrics_result()["loss"])) * batch
        self._last = batch, now
        return (now - total) / (batch - last)

    def _go_back(self, batch, mean, median):
        self.checkpoints.wait()
        step = self.checkpoints.step_at(batch)
        good = [path for path in list_steps(self.checkpoints.folder) if read_state(path)["step"] <= step - self.every]
        if not good:
            return
        weights, training, state = open_step(good[-1])
        restore(self.model, weights, training)
        self.rollbacks.append({"step": step, "to": state["step"], "loss": mean, "median": median})
