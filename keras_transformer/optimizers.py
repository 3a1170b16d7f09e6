"""AccumulateGradients: several micro-batches, one update; named beside keras.optimizers."""

import contextlib

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_transformer")
class AccumulateGradients(keras.optimizers.Optimizer):
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
        ValueError: steps is no integer from 1, or ``optimizer`` accumulates by itself.

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
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(f"optimizer must be a keras.optimizers.Optimizer. Received: {optimizer!r}.")
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise ValueError(
                "The optimizer already accumulates: gradient_accumulation_steps="
                f"{optimizer.gradient_accumulation_steps}. Make it without, and give that number as steps."
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = optimizer
        self.steps = steps
        self._batch_tokens = None

    def build(self, variables):
        if self.built:
            return
        self._sums = self.add_optimizer_variables(variables, "gradient_sum")
        self._tokens = self.add_variable(shape=(), dtype="float32", initializer="zeros", name="tokens")
        self._count = self.add_variable(shape=(), dtype="int32", initializer="zeros", name="count")
        self.inner_optimizer.build(variables)
        super().build(variables)

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
                variable.assign(ops.zeros_like(variable))

        ops.cond(ops.equal(self._count, self.steps), update, lambda: None)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """As ``apply``, for JAX: returns the new trainable and optimizer variables."""
        own = len(super().variables)
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

    @property
    def variables(self):
        return super().variables + self.inner_optimizer.variables

    @property
    def learning_rate(self):
        """The inner optimizer's, at the updates done so far."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        """Updates done so far, not micro-batches."""
        return self.inner_optimizer.iterations

    def finalize_variable_values(self, variables):
        self.inner_optimizer.finalize_variable_values(variables)

    def get_config(self):
        return {
            "optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "steps": self.steps,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        optimizer = keras.saving.deserialize_keras_object(config["optimizer"], custom_objects=custom_objects)
        return cls(optimizer, config["steps"], config["name"])


@contextlib.contextmanager
def weigh_micro_batch(optimizer, tokens):
    """While open, an AccumulateGradients in ``optimizer``, or inside its wrappers, knows how many tokens the batch has."""
    while optimizer is not None and not isinstance(optimizer, AccumulateGradients):
        optimizer = getattr(optimizer, "inner_optimizer", None)
    with contextlib.nullcontext() if optimizer is None else optimizer.weigh(tokens):
        yield
