"""What stands around every sub-layer: residual addition, dropout and normalisation, in one of their orders."""

from collections.abc import Callable
from typing import Literal

import keras

from keras_transformer.initializers import SeedStream
from keras_transformer.layers.seeded_dropout import seeded_dropout


@keras.saving.register_keras_serializable(package="keras_transformer")
class Residual(keras.layers.Layer):
    """Adds a sub-layer's output to its input, with dropout and LayerNorm around it. A part of the encoder and decoder layers.

    The sub-layer and its weights belong to the layer that calls this one, so that this is no layer for a functional model.

        norm="post"  residual_dropout_position="branch"   LayerNorm(x + Dropout(f(x)))     the paper
        norm="post"  residual_dropout_position="sum"      LayerNorm(Dropout(x + f(x)))     the lecture's wording
        norm="pre"   residual_dropout_position="branch"   x + Dropout(f(LayerNorm(x)))
        norm="pre"   residual_dropout_position="sum"      Dropout(x + f(LayerNorm(x)))

    Args:
        norm: "post" or "pre".
        dropout: share dropped in training.
        residual_dropout_position: "branch" or "sum".
        epsilon: LayerNorm's, added to the variance.
        seed: seed of dropout; None draws one.

    Call arguments:
        x: (B, T, D).
        sublayer: a callable from (B, T, D) to (B, T, D), given by keyword (Keras takes only tensors by position).

    Returns:
        (B, T, D).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import FeedForward
    >>> from keras_transformer.layers.residual import Residual
    >>> tuple(Residual(norm="pre")(np.ones((1, 3, 8), "float32"), sublayer=FeedForward(8)).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, sections 3.1 and 5.4 (post, branch); Xiong et al. 2020 (pre).
    """

    def __init__(
        self,
        norm: Literal["post", "pre"] = "post",
        dropout: float = 0.0,
        residual_dropout_position: Literal["branch", "sum"] = "branch",
        epsilon: float = 1e-6,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if norm not in ("post", "pre"):
            raise ValueError(f'norm must be "post" or "pre". Received: norm={norm!r}.')
        if residual_dropout_position not in ("branch", "sum"):
            raise ValueError(
                'residual_dropout_position must be "branch" (drop the sub-layer\'s output before the addition, the '
                f'paper) or "sum" (drop after the addition). Received: {residual_dropout_position!r}.'
            )
        self.norm = norm
        self.dropout = dropout
        self.residual_dropout_position = residual_dropout_position
        self.epsilon = epsilon
        self.layer_norm = keras.layers.LayerNormalization(epsilon=epsilon, dtype=self.dtype_policy, name="layer_norm")
        self.seed = seed
        self._residual_dropout = seeded_dropout(dropout, SeedStream(seed), self.dtype_policy)

    def build(self, x_shape: tuple) -> None:
        self.layer_norm.build(x_shape)

    def call(self, x, sublayer: Callable, training: bool | None = None):
        branch = sublayer(self.layer_norm(x) if self.norm == "pre" else x)
        if self.residual_dropout_position == "branch":
            x = x + self._residual_dropout(branch, training=training)
        else:
            x = self._residual_dropout(x + branch, training=training)
        return self.layer_norm(x) if self.norm == "post" else x

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return x_shape

    def get_config(self) -> dict:
        return super().get_config() | {
            "norm": self.norm,
            "dropout": self.dropout,
            "residual_dropout_position": self.residual_dropout_position,
            "epsilon": self.epsilon,
            "seed": self.seed,
        }
