"""Optimizers around optimizers: several micro-batches for one update; no update by numbers that are not finite."""

import contextlib

import keras
from keras import ops

from keras_transformer.backend_training import call_if, update_if


class _AroundOptimizer(keras.optimizers.Optimizer):
    """An optimizer that decides when, and on what gradients, another makes its updates; all else is the other's.

    Its variables are its own, then the other's. LossScaleOptimizer goes around it, never within: Keras asks the outermost
    optimizer alone to scale the loss.
    """

    def __init__(self, optimizer, name):
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(f"optimizer must be a keras.optimizers.Optimizer. Received: {optimizer!r}.")
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                f"LossScaleOptimizer would divide gradients that nobody has scaled. Give it {type(self).__name__} as its inner "
                "optimizer."
            )
        if optimizer.loss_scale_factor is not None:
            raise ValueError(
                f"The optimizer would divide gradients that nobody has scaled: loss_scale_factor={optimizer.loss_scale_factor}. "
                f"Make it without, and put a LossScaleOptimizer around {type(self).__name__}."
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = optimizer

    def build(self, variables):
        if self.built:
            return
        self._make_own_variables(variables)
        self.inner_optimizer.build(variables)
        super().build(variables)

    def _make_own_variables(self, variables):
        raise NotImplementedError

    @property
    def _own_variables(self):
        return super().variables

    @property
    def variables(self):
        return self._own_variables + self.inner_optimizer.variables

    @property
    def learning_rate(self):
        """The inner optimizer's, at the updates done so far."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """Updates done so far: neither micro-batches nor steps left out."""
        return self.inner_optimizer.iterations

    def finalize_variable_values(self, variables):
        self.inner_optimizer.finalize_variable_values(variables)

    def get_config(self):
        return {"optimizer": keras.saving.serialize_keras_object(self.inner_optimizer), "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(**config | {"optimizer": optimizer})


@keras.saving.register_keras_serializable(package="keras_transformer")
class AccumulateGradients(_AroundOptimizer):
    """Sums the gradients of ``steps`` micro-batches and lets another optimizer make one update of them.

    It equals one batch of all their tokens: gradients g_i of micro-batches of t_i real tokens join as sum(t_i g_i) / sum(t_i),
    clipping sees the joined gradient, and the schedule counts updates, so that the rate at micro-step i is the formula at
    floor(i / steps) + 1. Keras's own ``gradient_accumulation_steps`` weighs micro-batches alike and lets the schedule count
    micro-batches. kt.Transformer tells the optimizer the tokens of a batch; in other models micro-batches count alike.

    Micro-batches left over at the end of an epoch go on into the next.

    Args:
        optimizer: the keras.optimizers.Optimizer that makes the updates.
        steps: micro-batches an update.
        name: name of the optimizer.

    Raises:
        ValueError: steps is no integer from 1, or ``optimizer`` is no Optimizer, accumulates by itself, or scales the loss.

    Example:

    >>> import keras
    >>> import keras_transformer as kt
    >>> optimizer = kt.AccumulateGradients(keras.optimizers.Adam(1e-3, global_clipnorm=1.0), steps=4)
    >>> optimizer.steps
    4

    Reference: Ott et al. 2018, "Scaling Neural Machine Translation", section 3.
    """

    def __init__(self, optimizer, steps, name="accumulate_gradients"):
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be an integer from 1. Received: steps={steps!r}.")
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise ValueError(
                "The optimizer already accumulates: gradient_accumulation_steps="
                f"{optimizer.gradient_accumulation_steps}. Make it without, and give that number as steps."
            )
        super().__init__(optimizer, name)
        self.steps = steps
        self._batch_tokens = None

    def _make_own_variables(self, variables):
        self._sums = self.add_optimizer_variables(variables, "gradient_sum")
        self._tokens = self.add_variable(shape=(), dtype="float32", initializer="zeros", name="tokens")
        self._count = self.add_variable(shape=(), dtype="int32", initializer="zeros", name="count")

    @contextlib.contextmanager
    def weigh(self, tokens):
        """While open, the micro-batch applied counts as ``tokens`` real tokens, a float32 scalar."""
        self._batch_tokens = tokens
        try:
            yield
        finally:
            self._batch_tokens = None

    def apply(self, grads, trainable_variables=None):
        """Adds the micro-batch; after the last of ``steps`` the inner optimizer updates the variables."""
        if not self.built:
            self.build(trainable_variables)
        self._add(grads)

        def update():
            self.inner_optimizer.apply(self._joined(), trainable_variables)
            for variable in (*self._sums, self._tokens, self._count):
                variable.assign(ops.zeros(variable.shape, variable.dtype))

        call_if(ops.equal(self._count, self.steps), update)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """As ``apply``, for JAX: returns the new trainable and optimizer variables."""
        own = len(self._own_variables)
        with keras.StatelessScope(state_mapping=list(zip(self.variables, optimizer_variables, strict=True))) as scope:
            self._add(grads)
            joined = self._joined()
        added = [scope.get_current_value(variable) for variable in self.variables]

        def update():
            new_trainable, new_inner = self.inner_optimizer.stateless_apply(added[own:], joined, trainable_variables)
            emptied = [
                ops.zeros_like(value) if self._is_accumulator(variable) else value
                for variable, value in zip(self.variables[:own], added[:own], strict=True)
            ]
            return list(new_trainable), emptied + list(new_inner)

        count = added[[variable is self._count for variable in self.variables].index(True)]
        return ops.cond(ops.equal(count, self.steps), update, lambda: (list(trainable_variables), added))

    def _add(self, grads):
        tokens = ops.ones(()) if self._batch_tokens is None else self._batch_tokens
        for gradient_sum, gradient in zip(self._sums, grads, strict=True):
            if gradient is not None:
                gradient_sum.assign_add(tokens * ops.cast(gradient, gradient_sum.dtype))
        self._tokens.assign_add(tokens)
        self._count.assign_add(1)

    def _joined(self):
        """The gradient of all micro-batches so far as one batch; 0 where they hold padding alone."""
        tokens = ops.convert_to_tensor(self._tokens)
        tokens = ops.where(tokens > 0, tokens, 1.0)
        return [ops.convert_to_tensor(gradient_sum) / tokens for gradient_sum in self._sums]

    def _is_accumulator(self, variable):
        return any(variable is one for one in (*self._sums, self._tokens, self._count))

    def get_config(self):
        return super().get_config() | {"steps": self.steps}


@keras.saving.register_keras_serializable(package="keras_transformer")
class SkipNonFinite(_AroundOptimizer):
    """Leaves out every update whose gradient is NaN or infinite, and counts them, before another optimizer sees it.

    One such gradient would make all weights NaN for good. The counts are kept on the device, so that no step waits for the host.
    callbacks.FiniteGuard reads them now and then, logs them, and ends a training that leaves out every update. In kt.Transformer a
    loss that is not finite counts like a gradient that is not. A gradient whose norm is beyond float32 (1.8e19) counts too.

    ``gradient_norm`` is the norm, before clipping, of the last gradient that was not left out.

    Args:
        optimizer: the keras.optimizers.Optimizer that makes the updates.
        name: name of the optimizer.

    Raises:
        ValueError: ``optimizer`` is no Optimizer, or it scales the loss: a LossScaleOptimizer goes around this one.

    Example:

    >>> import keras
    >>> import keras_transformer as kt
    >>> optimizer = kt.SkipNonFinite(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
    >>> float(optimizer.inner_optimizer.global_clipnorm)
    1.0
    """

    def __init__(self, optimizer, name="skip_non_finite"):
        super().__init__(optimizer, name)

    def _make_own_variables(self, variables):
        def counter(name, dtype="int32"):
            return self.add_variable(shape=(), dtype=dtype, initializer="zeros", name=name)

        self.batches = counter("batches")  # gradients seen
        self.skipped = counter("skipped")  # of those, left out
        self.in_a_row = counter("in_a_row")  # left out since the last that was not
        self.longest = counter("longest")  # the most left out in a row
        self.longest_begin = counter("longest_begin")  # the number, from 1, of the first of those
        self.first_bad = counter("first_bad")  # in the last left out: place of the first variable with a bad gradient
        self.gradient_norm = counter("gradient_norm", "float32")

    def apply(self, grads, trainable_variables=None):
        """Lets the inner optimizer update the variables, if all of ``grads`` are finite."""
        if not self.built:
            self.build(trainable_variables)
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        finite = self._count(grads)

        def update():
            self.inner_optimizer.apply(grads, trainable_variables)

        update_if(finite, update, [*variables, *self.inner_optimizer.variables])

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """As ``apply``, for JAX: returns the new trainable and optimizer variables."""
        own = self._own_variables
        with keras.StatelessScope(state_mapping=list(zip(own, optimizer_variables[: len(own)], strict=True))) as scope:
            finite = self._count(grads)
        # LossScaleOptimizer hands on its variables themselves, which no branch of its own may give back.
        inner = [ops.convert_to_tensor(value) for value in optimizer_variables[len(own) :]]
        trainable = [ops.convert_to_tensor(value) for value in trainable_variables]
        updated = self.inner_optimizer.stateless_apply(inner, grads, trainable)
        # Chosen number by number, which XLA does on the way: a branch would copy all of them, and on a GPU wait for the host.
        new_trainable, new_inner = (
            [ops.where(finite, new, old) for new, old in zip(news, olds, strict=True)]
            for news, olds in zip(updated, (trainable, inner), strict=True)
        )
        return new_trainable, [scope.get_current_value(variable) for variable in own] + new_inner

    def _count(self, grads):
        """Counts the batch; returns whether its gradient is finite, a scalar."""
        squares = [ops.zeros(()) if g is None else ops.sum(ops.square(ops.cast(g, "float32"))) for g in grads]
        squares = ops.stack(squares)  # one for each variable
        norm = ops.sqrt(ops.sum(squares))
        finite = ops.isfinite(norm)
        bad = 1 - ops.cast(finite, "int32")
        self.batches.assign_add(1)
        self.skipped.assign_add(bad)
        in_a_row = bad * (ops.convert_to_tensor(self.in_a_row) + 1)
        longest = ops.convert_to_tensor(self.longest)
        begin = ops.convert_to_tensor(self.batches) - in_a_row + 1
        self.longest_begin.assign(ops.where(in_a_row > longest, begin, ops.convert_to_tensor(self.longest_begin)))
        self.longest.assign(ops.maximum(in_a_row, longest))
        self.in_a_row.assign(in_a_row)
        first_bad = ops.cast(ops.argmax(ops.cast(ops.logical_not(ops.isfinite(squares)), "int32")), "int32")
        self.first_bad.assign(ops.where(finite, ops.convert_to_tensor(self.first_bad), first_bad))
        self.gradient_norm.assign(ops.where(finite, norm, ops.convert_to_tensor(self.gradient_norm)))
        return finite


def find_optimizer(optimizer, kind):
    """The optimizer of that class that ``optimizer`` is or has among its inner optimizers, or None."""
    while optimizer is not None and not isinstance(optimizer, kind):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return optimizer


@contextlib.contextmanager
def weigh_micro_batch(optimizer, tokens):
    """While open, an AccumulateGradients in ``optimizer``, or inside its wrappers, knows how many tokens the batch has."""
    optimizer = find_optimizer(optimizer, AccumulateGradients)
    with contextlib.nullcontext() if optimizer is None else optimizer.weigh(tokens):
        yield
