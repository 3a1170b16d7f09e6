"""Watches for numbers that are not finite, and ends a training that has nothing else."""

import keras
import numpy as np
from keras import ops

from keras_transformer.callbacks.resume import resumed_state
from keras_transformer.checkpoints import NonFiniteError
from keras_transformer.optimizers import SkipNonFinite, find_optimizer

_LEAST_SCALE = 2.0**-10  # halved 25 times from where LossScaleOptimizer begins: overflow is not what is wrong then


class FiniteGuard(keras.callbacks.Callback):
    """Logs the steps left out, the gradient's norm and the loss scale, and ends training when there is nothing but bad steps.

    kt.SkipNonFinite around the optimizer leaves out steps with a gradient or loss that is not finite and counts them on the
    device. This reads the counts every few batches, so that no step waits for the host; no harm is done meanwhile. With
    another optimizer it looks at the loss alone, and ends training as soon as that is not finite: the weights are then lost.

    An epoch's logs get ``skipped_steps`` (of the epoch), ``gradient_norm`` (of the last batch) and, where the loss is scaled,
    ``loss_scale``. A loss scale leaves out steps by itself, of which SkipNonFinite never hears: these are the batches that it has
    not seen. They are counted from one look to the next, and their gradients are lost: the first bad weight cannot be told.

    Args:
        patience: how many steps left out in a row end training.
        every: batches from one reading of the counts to the next.
        data: what is trained on, if it has ``lines(epoch, batch)``, as kt.Batches; kt.Transformer tells it by itself.

    Raises:
        ValueError: an argument is impossible.
        NonFiniteError: a ValueError, in ``fit``: ``patience`` steps in a row were left out. It names the first of them, the lines
            of its batch and the first weight with a bad gradient.

    Example:

        model.compile(kt.SkipNonFinite(keras.optimizers.Adam(1e-3)))
        model.fit(train, callbacks=[kt.callbacks.FiniteGuard(patience=10)])
    """

    def __init__(self, patience=10, every=50, data=None):
        super().__init__()
        for name, value in (("patience", patience), ("every", every)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={value!r}.")
        self.patience = patience
        self.every = every
        self.data = data
        self._takes_data = data is None

    def set_data(self, data):
        """Called by kt.Transformer.fit with what it trains on; None if Keras shuffles it: its lines cannot be told then."""
        if self._takes_data:
            self.data = data

    def on_train_begin(self, logs=None):
        optimizer = self.model.optimizer
        self._skips = find_optimizer(optimizer, SkipNonFinite)
        self._scaling = find_optimizer(optimizer, keras.optimizers.LossScaleOptimizer)
        if self._skips is not None and self._skips.built:
            self._skips.in_a_row.assign(0)
            self._skips.longest.assign(0)
        self._steps_per_execution = self.model.steps_per_execution
        self._only_read = (resumed_state(self.model) or {"position": 0})["position"]  # batches of the first epoch
        self._lost = 0  # batches in a row, up to the last look, that SkipNonFinite has not seen

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._skipped, self._seen = self._number("skipped"), self._number("batches")
        self._looked = self._only_read, self._seen

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        if batch and batch % self.every == 0:
            self._look(batch)

    def on_test_begin(self, logs=None):
        if hasattr(self, "_batch"):
            self._look(self._done())

    def on_epoch_end(self, epoch, logs=None):
        self._look(self._done(), logs)
        if self._skips is not None and logs is not None:
            unseen = self._done() - self._only_read - (self._number("batches") - self._seen)
            logs["skipped_steps"] = (
                self._number("skipped") - self._skipped + (unseen if self._scaling is not None else 0)
            )
            logs["gradient_norm"] = float(ops.convert_to_numpy(self._skips.gradient_norm))
        if self._scaling is not None and self._scaling.built and logs is not None:
            logs["loss_scale"] = float(ops.convert_to_numpy(self._scaling.dynamic_scale))
        self._only_read = 0

    def _done(self):
        """Batches of the epoch that are done when the last one begun is."""
        done = self._batch + self._steps_per_execution
        return min(done, self.params.get("steps") or done)

    def _number(self, name):
        if self._skips is None or not self._skips.built:
            return 0
        self.model  # noqa: B018 on JAX this brings what the device has counted into the variables
        return int(ops.convert_to_numpy(getattr(self._skips, name)))

    def _look(self, batch, logs=None):
        """``batch`` batches of the epoch are done."""
        if self._skips is not None and self._number("longest") >= self.patience:
            raise NonFiniteError(self._told(batch))
        if self._scaling is not None and self._scaling.built:
            self._count_lost(batch)
            scale = float(ops.convert_to_numpy(self._scaling.dynamic_scale))
            if scale < _LEAST_SCALE or self._lost >= self.patience:
                epoch, first = self._lost_begin if self._lost else (self._epoch, batch - 1)
                raise NonFiniteError(
                    f"The loss scale has fallen to {scale:.3g}: the gradients of {max(self._lost, 1)} steps in a row, from batch "
                    f"{first} of epoch {epoch + 1} on, are not finite, whatever the scale. The weights are as they were. "
                    f"{self._lines(epoch, first)}{_ADVICE}"
                )
        elif self._skips is None:
            loss = (self.model.get_metrics_result() if logs is None else logs).get("loss", 0.0)
            if not np.isfinite(ops.convert_to_numpy(loss)):
                raise NonFiniteError(
                    f"The loss is not finite by batch {batch} of epoch {self._epoch + 1}, and the weights are lost. First "
                    f"bad weight: "
                    f"{self._first_bad_weight()}. Wrap the optimizer in kt.SkipNonFinite, which leaves out such steps. {_ADVICE}"
                )

    def _count_lost(self, batch):
        """Whether the loss scale has let no batch through since the last look."""
        begin, seen = self._looked
        if self._skips is None or batch <= begin:
            return
        self._looked = batch, self._number("batches")
        if self._looked[1] != seen:
            self._lost = 0
            return
        if not self._lost:
            self._lost_begin = self._epoch, begin
        self._lost += batch - begin

    def _told(self, batch):
        step, count = self._number("longest_begin"), self._number("longest")
        first_bad = self._number("first_bad")
        index = batch - (self._number("batches") - step) - 1
        weight = self.model.trainable_variables[first_bad].path
        return (
            f"The gradients of {count} steps in a row, from step {step} on, are not finite. These steps were left out: "
            f"the weights are as "
            f"they were. {self._lines(self._epoch, index)}First weight with a bad gradient: {weight}. {_ADVICE}"
        )

    def _lines(self, epoch, index):
        if index < 0 or not hasattr(self.data, "lines"):
            return ""
        lines = self.data.lines(epoch, index)
        more = f" and {len(lines) - 20} more" if len(lines) > 20 else ""
        shown = ", ".join(map(str, lines[:20]))
        return f"The batch of the first, number {index} of epoch {epoch + 1}, holds lines {shown}{more}. "

    def _first_bad_weight(self):
        for weight in self.model.weights:
            if not np.isfinite(ops.convert_to_numpy(ops.cast(weight, "float32"))).all():
                return weight.path
        return "none"


_ADVICE = (
    "Try a smaller learning rate or a longer warmup, clip gradients (global_clipnorm=1.0), look at the data of that batch, or "
    "train in float32 or bfloat16 in place of float16; then go on from the last checkpoint."
)
