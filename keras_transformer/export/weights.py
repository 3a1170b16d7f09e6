"""The weights of a Transformer as named NumPy arrays: what the converters to foreign formats start from.

A converter takes each array by its path. An array that is left over at the end has no place in the foreign format. Leaving it out
would change the model silently, so that it is an error.
"""

import numpy as np
from keras import ops

from keras_transformer.layers.embedding import sinusoid_rates


class Weights:
    """The float32 weights of ``model``, taken out one by one.

    Args:
        model: a Transformer on any backend.
        target: the name of the foreign format, for messages.

    Raises:
        ValueError: a weight is not a float, for the model was quantised; or it holds NaN or infinity.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.export.weights import Weights
    >>> weights = Weights(kt.Transformer(20, d_model=8, num_heads=2, num_layers=1), "a format")
    >>> weights.take("decoder/layer_0/cross_attention/key_value/kernel").shape
    (8, 16)
    """

    def __init__(self, model, target: str):
        self._target = target
        self._arrays = {}
        for variable in model.weights:
            path = variable.path.split("/", 1)[1]  # behind the model's own name
            array = ops.convert_to_numpy(variable.value)
            if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
                raise ValueError(
                    f"{target} is written from float weights. Received: {path} as {array.dtype}. Export the model as it was "
                    "before quantize(); the foreign format has a quantisation of its own."
                )
            self._arrays[path] = array = array.astype("float32")
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{target} is written from weights that are numbers. Received: {path} with NaN or infinity. Load the last good "
                    "checkpoint."
                )
        self._untaken = set(self._arrays)

    def take(self, path: str) -> np.ndarray:
        """The array at ``path``."""
        if path not in self._arrays:
            raise ValueError(
                f"{self._target} needs the weight {path}, which the model does not have. Only kt.Transformer with its own layers "
                "can be converted."
            )
        self._untaken.discard(path)
        return self._arrays[path]

    def finish(self) -> None:
        """Raises if a weight was not taken."""
        if self._untaken:
            raise ValueError(
                f"{self._target} has no place for the weights {', '.join(sorted(self._untaken)[:5])}. Only kt.Transformer with "
                "its own layers can be converted; merge adapters (LoRA) into the kernels first."
            )


def position_table(length: int, d_model: int) -> np.ndarray:
    """The paper's interleaved sinusoids (length, D), as layers.SinusoidalPositions adds them."""
    angles = np.arange(length, dtype="float32")[:, None] * sinusoid_rates(d_model)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, d_model)
