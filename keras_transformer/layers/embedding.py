"""Ids to vectors and back: token embedding, tied output projection, sinusoidal positions.

Vaswani et al. 2017, section 3.4 (shared table, times sqrt(d_model)) and 3.5 (positions).
"""

import keras
import numpy as np
from keras import ops

from keras_transformer.backend import gather_rows, product_with_rows
from keras_transformer.initializers import ScaledNormal, XavierUniform


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenEmbedding(keras.layers.Layer):
    """Looks up token vectors, scaled by sqrt(d_model); the same table can project back to logits.

    The table (V, D) starts as normal(0, d_model^-0.5), so that scaled inputs have unit variance and tied logits do too.
    Its gradient is dense on every backend: duplicate tokens are summed before the optimizer squares them.

    Args:
        vocabulary_size: V.
        d_model: D.
        seed: seed of the table; None draws one from Python's generator (keras.utils.set_random_seed).

    Call arguments:
        ids: (B, T) integers in [0, V).

    Returns:
        (B, T, D) in the compute dtype.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import TokenEmbedding
    >>> embedding = TokenEmbedding(vocabulary_size=10, d_model=4, seed=0)
    >>> x = embedding(np.array([[1, 2, 3]]))
    >>> tuple(x.shape), tuple(embedding.logits(x).shape)
    ((1, 3, 4), (1, 3, 10))

    Reference: Vaswani et al. 2017, section 3.4; Press and Wolf 2017 for the tied output.
    """

    def __init__(self, vocabulary_size: int, d_model: int, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False  # bfloat16 knows no id 257
        _check_positive(vocabulary_size=vocabulary_size, d_model=d_model)
        self.vocabulary_size = vocabulary_size
        self.d_model = d_model
        self.seed = seed
        self._initializer = ScaledNormal(d_model**-0.5, seed=seed)

    def build(self, ids_shape: tuple | None = None) -> None:
        # autocast=False: rows are summed in float32 in the gradient, also under 16-bit policies.
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.vocabulary_size, self.d_model),
            initializer=self._initializer,
            autocast=False,
        )

    def call(self, ids):
        # As keras.layers.Embedding: no backend takes all kinds of numbers, and Keras exports by a signature of floats.
        if keras.backend.standardize_dtype(ids.dtype) not in ("int32", "int64"):
            ids = ops.cast(ids, "int32")
        rows = gather_rows(self.embeddings, ids)
        return ops.cast(rows * self.d_model**0.5, self.compute_dtype)

    def logits(self, x):
        """(..., D) -> (..., V): the product with the transposed table, as one 2-D product, in the compute dtype."""
        return _project_to_vocabulary(x, self.embeddings, self.compute_dtype)

    def compute_output_shape(self, ids_shape: tuple) -> tuple:
        return (*ids_shape, self.d_model)

    def get_config(self) -> dict:
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "d_model": self.d_model,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_transformer")
class OutputProjection(keras.layers.Layer):
    """Hidden states to logits through a table of its own, for models that do not tie it to the embedding.

    The kernel is (V, D), the layout of an embedding table, so that tied and untied models are scored by one routine.

    Args:
        vocabulary_size: V.
        d_model: D.
        seed: seed of the kernel (Xavier uniform); None draws one.

    Call arguments:
        x: (B, T, D).

    Returns:
        (B, T, V) in the compute dtype.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import OutputProjection
    >>> tuple(OutputProjection(10, d_model=4)(np.ones((1, 3, 4), "float32")).shape)
    (1, 3, 10)

    Reference: Vaswani et al. 2017, section 3.4.
    """

    def __init__(self, vocabulary_size: int, d_model: int, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        _check_positive(vocabulary_size=vocabulary_size, d_model=d_model)
        self.vocabulary_size = vocabulary_size
        self.d_model = d_model
        self.seed = seed
        self._initializer = XavierUniform(seed=seed)

    def build(self, x_shape: tuple | None = None) -> None:
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.vocabulary_size, self.d_model),
            initializer=self._initializer,
            autocast=False,
        )

    def call(self, x):
        return self.logits(x)

    def logits(self, x):
        """(..., D) -> (..., V) in the compute dtype."""
        return _project_to_vocabulary(x, self.kernel, self.compute_dtype)

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return (*x_shape[:-1], self.vocabulary_size)

    def get_config(self) -> dict:
        return super().get_config() | {
            "vocabulary_size": self.vocabulary_size,
            "d_model": self.d_model,
            "seed": self.seed,
        }


def _project_to_vocabulary(x, table, dtype: str):
    """Scores (..., V) of hidden states x (..., D) against the rows of table (V, D), computed in ``dtype``."""
    table = ops.cast(table, dtype)
    flat = ops.reshape(ops.cast(x, dtype), (-1, table.shape[-1]))  # (..., D) -> (N, D)
    logits = product_with_rows(flat, table)  # (N, V)
    return ops.reshape(logits, (*ops.shape(x)[:-1], table.shape[0]))


@keras.saving.register_keras_serializable(package="keras_transformer")
class SinusoidalPositions(keras.layers.Layer):
    """Adds the paper's sinusoids to its input, for sequences of any length.

    position p, channel 2i: sin(p / 10000^(2i/D)); channel 2i + 1: cos of the same angle (interleaved, as in the paper).
    Angles, sines and the addition are float32 under every policy: in bfloat16 positions beyond 256 collapse.

    Call arguments:
        x: (B, T, D), D even.
        start: position of the first column, an int or an integer scalar (cached decoding passes its step).
        positions: (B, T) integers where several sequences share a line; None for columns counted from ``start``.

    Returns:
        (B, T, D) in the compute dtype.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import SinusoidalPositions
    >>> np.asarray(SinusoidalPositions()(np.zeros((1, 2, 2), "float32")))[0, 0].tolist()
    [0.0, 1.0]

    Reference: Vaswani et al. 2017, section 3.5.
    """

    def build(self, x_shape: tuple) -> None:
        width = x_shape[-1]
        if width is None or width % 2:
            raise ValueError(
                f"SinusoidalPositions needs an even, known width: it pairs a sine with a cosine. Received input "
                f"of shape {x_shape}. Choose an even d_model."
            )
        self._rates = sinusoid_rates(width)

    def call(self, x, start=0, positions=None):
        length, width = ops.shape(x)[1], x.shape[-1]
        if positions is None:
            positions = ops.arange(length, dtype="int32") + start  # (T,), or (B, T) as given
        angles = ops.cast(positions, "float32")[..., None] * ops.convert_to_tensor(self._rates)  # (T, D / 2)
        waves = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (T, D / 2, 2)
        waves = ops.reshape(waves, (*ops.shape(positions), width))
        return ops.cast(ops.cast(x, "float32") + waves, self.compute_dtype)

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return x_shape


def sinusoid_rates(d_model: int) -> np.ndarray:
    """Radians a position of each sine and cosine of SinusoidalPositions, (D / 2,) float32.

    Example:

    >>> from keras_transformer.layers.embedding import sinusoid_rates
    >>> [round(float(rate), 4) for rate in sinusoid_rates(4)]
    [1.0, 0.01]
    """
    return (10000.0 ** -(np.arange(0, d_model, 2, dtype="float64") / d_model)).astype("float32")


def _check_positive(**sizes):
    for name, size in sizes.items():
        if not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"{name} must be a positive integer. Received: {name}={size!r}.")
