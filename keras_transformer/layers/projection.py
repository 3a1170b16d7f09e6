"""The matrix product under every sub-layer: a Dense layer that flattens its leading axes first."""

import keras
from keras import ops

from keras_transformer.backend import matrix_product


@keras.saving.register_keras_serializable(package="keras_transformer")
class Projection(keras.layers.Dense):
    """A Dense layer run as one 2-D matrix product, whatever the rank of its input.

    (..., D) is flattened to (N, D) before the product, which spares XLA the transposes around the weight gradient. Kernel
    (D, units) and bias (units,) are those of keras.layers.Dense, whose arguments it takes; quantisation and LoRA work as there.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import Projection
    >>> tuple(Projection(8)(np.ones((2, 3, 4), "float32")).shape)
    (2, 3, 8)
    """

    def call(self, inputs, training: bool | None = None):
        shape = ops.shape(inputs)
        flat = ops.reshape(inputs, (-1, inputs.shape[-1]))  # (..., D) -> (N, D)
        outputs = matrix_product(flat, ops.convert_to_tensor(self.kernel))
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        outputs = ops.reshape(outputs, (*shape[:-1], self.units))  # (N, units) -> (..., units)
        return outputs if self.activation is None else self.activation(outputs)

    def quantize(self, mode: str | None = None, type_check: bool = True, config=None) -> None:
        """As keras.layers.Dense.quantize, which takes no subclass unless told that it is one."""
        super().quantize(mode, type_check=False, config=config)
