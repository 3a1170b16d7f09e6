"""RecordGradients: an optimizer that changes no weight and keeps the gradients it was given.

What ``fit`` hands to an optimizer can so be looked at on any backend, through the model's own training step.
"""

import keras
from keras import ops


class RecordGradients(keras.optimizers.Optimizer):
    """Keeps the last gradient of every weight, as it came and as clipping leaves it. Weights stay as they are.

    Args:
        name: name of the optimizer.
        kwargs: ``clipnorm``, ``global_clipnorm`` or ``clipvalue``, as keras.optimizers.Optimizer.

    Example:

    >>> import keras, numpy as np
    >>> from keras_transformer.testing.recording import RecordGradients
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> model.compile(RecordGradients(global_clipnorm=1.0), loss="mse")
    >>> _ = model.train_on_batch(np.ones((1, 2)), np.zeros((1, 1)))
    >>> model.optimizer.gradients[0].ravel().tolist()  # of (w + w + b)^2 where it is 4
    [4.0, 4.0]
    """

    def __init__(self, name="record_gradients", **kwargs):
        super().__init__(learning_rate=0.0, name=name, **kwargs)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._gradients = self.add_optimizer_variables(variables, "gradient")
        self._clipped = self.add_optimizer_variables(variables, "clipped_gradient")

    def apply(self, grads, trainable_variables=None):
        """Keeps ``grads``; a weight without any gets zeros."""
        variables = self._trainable_variables if trainable_variables is None else trainable_variables
        if not self.built:
            self.build(variables)
        grads = [
            ops.zeros(variable.shape, dtype=kept.dtype) if gradient is None else gradient
            for gradient, variable, kept in zip(grads, variables, self._gradients, strict=True)
        ]
        for kept, gradient in zip(self._gradients, grads, strict=True):
            # Duplicate rows that TensorFlow gives by themselves are summed here, but go on to clipping as they came.
            kept.assign(ops.convert_to_tensor(gradient))
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        self._clipped[self._get_variable_index(variable)].assign(ops.convert_to_tensor(gradient))

    @property
    def gradients(self):
        """The last gradients as NumPy arrays, in the order of the trainable weights."""
        return [ops.convert_to_numpy(gradient) for gradient in self._gradients]

    @property
    def clipped_gradients(self):
        """The same after clipping: what another optimizer would make its update of."""
        return [ops.convert_to_numpy(gradient) for gradient in self._clipped]
