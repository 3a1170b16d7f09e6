"""Initial weights that are equal on every backend: drawn with NumPy, from a seed.

Keras's own initialisers draw from the backend's generator, so that one seed gives three different models. Glorot and Bengio 2010
(Xavier uniform); Vaswani et al. 2017, section 3.4 (embedding tables).
"""

import random

import keras
import numpy as np
from keras import ops


class SeedStream:
    """Seeds for the parts of a thing, from the seed of the whole.

    Args:
        seed: int; None draws one from Python's generator, which keras.utils.set_random_seed seeds on every backend.

    Example:

    >>> from keras_transformer.initializers import SeedStream
    >>> SeedStream(1).next() == SeedStream(1).next()
    True
    """

    def __init__(self, seed: int | None = None):
        self._sequence = np.random.SeedSequence(_drawn(seed))

    def next(self) -> int:
        """The next seed, an int below 2**32."""
        return int(self._sequence.spawn(1)[0].generate_state(1)[0])


@keras.saving.register_keras_serializable(package="keras_transformer")
class XavierUniform(keras.initializers.Initializer):
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)), for kernels (fan_in, blocks x fan_out).

    Args:
        seed: int; None draws one.
        blocks: how many projections stand side by side in the last axis; each counts alone.
        gain: factor of the limit.

    Example:

    >>> from keras_transformer.initializers import XavierUniform
    >>> tuple(XavierUniform(seed=0, blocks=3)((4, 12)).shape)
    (4, 12)

    Reference: Glorot and Bengio 2010, equation 16.
    """

    def __init__(self, seed: int | None = None, blocks: int = 1, gain: float = 1.0):
        self.seed = _drawn(seed)
        self.blocks = blocks
        self.gain = gain

    def __call__(self, shape: tuple, dtype: str | None = None):
        if len(shape) != 2 or shape[1] % self.blocks:
            raise ValueError(
                f"XavierUniform is for kernels (in, out) with out divisible by blocks. Received: shape={tuple(shape)}, "
                f"blocks={self.blocks}."
            )
        limit = self.gain * np.sqrt(6.0 / (shape[0] + shape[1] // self.blocks))
        values = np.random.Generator(np.random.PCG64(self.seed)).uniform(-limit, limit, shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype=dtype)

    def get_config(self) -> dict:
        return {"seed": self.seed, "blocks": self.blocks, "gain": self.gain}


@keras.saving.register_keras_serializable(package="keras_transformer")
class ScaledNormal(keras.initializers.Initializer):
    """Normal with mean 0 and the given standard deviation.

    Args:
        stddev: standard deviation; embedding tables take d_model ** -0.5.
        seed: int; None draws one.

    Example:

    >>> from keras_transformer.initializers import ScaledNormal
    >>> tuple(ScaledNormal(0.5, seed=0)((4, 2)).shape)
    (4, 2)

    Reference: Vaswani et al. 2017, section 3.4.
    """

    def __init__(self, stddev: float, seed: int | None = None):
        self.stddev = stddev
        self.seed = _drawn(seed)

    def __call__(self, shape: tuple, dtype: str | None = None):
        values = np.random.Generator(np.random.PCG64(self.seed)).normal(0.0, self.stddev, shape)
        return ops.convert_to_tensor(values.astype("float32"), dtype=dtype)

    def get_config(self) -> dict:
        return {"stddev": self.stddev, "seed": self.seed}


def _drawn(seed: int | None) -> int:
    return random.randint(0, 2**31 - 1) if seed is None else seed
