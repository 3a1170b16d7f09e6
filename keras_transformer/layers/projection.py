"""The matrix product under every sub-layer: a Dense layer that flattens its leading axes first."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_transformer")
class Projection(keras.layers.Dense):
    """A Dense layer run as one 2-D matrix product, whatever the rank of its input.

    (..., D) is flattened to (N, D) before the product. On JAX that is 1.3 to 2 times faster in a training step than the
    3-D product (no transposes around the weight gradient); on the other backends it is a tie. Kernel (D, units) and
    bias (units,) are those of keras.layers.Dense, whose arguments it takes: quantisation and LoRA work as there.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import Projection
    >>> tuple(Projection(8)(np.ones((2, 3, 4), "float32")).shape)
    (2, 3, 8)
    """

    def call(self, inputs, training=None):
        shape = ops.shape(inputs)
        flat = ops.reshape(inputs, (-1, inputs.shape[-1]))  # (..., D) -> (N, D)
        outputs = super().call(flat, training=training)
        return ops.reshape(outputs, (*shape[:-1], self.units))  # (N, units) -> (..., units)
