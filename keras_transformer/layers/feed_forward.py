"""The position-wise feed-forward network (Vaswani et al. 2017, section 3.3)."""

from collections.abc import Callable

import keras

from keras_transformer.initializers import SeedStream, XavierUniform
from keras_transformer.layers.projection import Projection
from keras_transformer.layers.seeded_dropout import seeded_dropout
from keras_transformer.layers.widths import check_width


@keras.saving.register_keras_serializable(package="keras_transformer")
class FeedForward(keras.layers.Layer):
    """activation(x W1 + b1) W2 + b2, the same at every position.

    Args:
        d_model: D, width of input and output.
        d_ff: width between the two products; None for 4 d_model.
        activation: name or callable; the paper's is "relu".
        dropout: share of activations dropped in training (the paper has none here; many recipes do).
        seed: seed of the initial weights and of dropout; None draws one.

    Call arguments:
        x: (B, T, D).

    Returns:
        (B, T, D).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import FeedForward
    >>> tuple(FeedForward(8)(np.ones((1, 3, 8), "float32")).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, equation 2.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        activation: str | Callable = "relu",
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.d_model = d_model
        self.d_ff = 4 * d_model if d_ff is None else d_ff
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.seed = seed
        seeds = SeedStream(seed)
        self.inner = self._projection(self.d_ff, seeds.next(), "inner")
        self.outer = self._projection(d_model, seeds.next(), "outer")
        self._activation_dropout = seeded_dropout(dropout, seeds, self.dtype_policy)

    def _projection(self, units: int, seed: int, name: str) -> Projection:
        return Projection(units, kernel_initializer=XavierUniform(seed=seed), dtype=self.dtype_policy, name=name)

    def build(self, x_shape: tuple) -> None:
        check_width(self, "x", x_shape)
        self.inner.build(x_shape)
        self.outer.build((*x_shape[:-1], self.d_ff))

    def call(self, x, training: bool | None = None):
        x = self.activation(self.inner(x))  # (B, T, d_ff)
        x = self._activation_dropout(x, training=training)
        return self.outer(x)

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return x_shape

    def get_config(self) -> dict:
        return super().get_config() | {
            "d_model": self.d_model,
            "d_ff": self.d_ff,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "seed": self.seed,
        }
