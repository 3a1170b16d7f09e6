"""What encoder and decoder share: the arguments of a layer and the stacking of layers.

The lecture's four places of dropout, and the arguments that set them:

    on the attention weights, after the softmax      attention_dropout
    in the feed-forward network, after activation    activation_dropout
    on token embedding + positions                   dropout (in Transformer)
    at each sub-layer's residual                     dropout, residual_dropout_position
"""

from collections.abc import Callable
from typing import Literal

import keras

from keras_transformer.backend_training import rematerialize
from keras_transformer.initializers import SeedStream
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.residual import Residual


class _TransformerBlock(keras.layers.Layer):
    """The arguments that a layer and a stack of layers share: each an attribute and an entry of the config."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation_dropout: float | None = None,
        norm: Literal["post", "pre"] = "post",
        activation: str | Callable = "relu",
        epsilon: float = 1e-6,
        residual_dropout_position: Literal["branch", "sum"] = "branch",
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.d_model = d_model
        self.num_heads = num_heads
        self.d_ff = 4 * d_model if d_ff is None else d_ff
        self.dropout = dropout
        self.attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.activation_dropout = dropout if activation_dropout is None else activation_dropout
        self.norm = norm
        self.activation = keras.activations.get(activation)
        self.epsilon = epsilon
        self.residual_dropout_position = residual_dropout_position
        self.seed = seed

    def _arguments(self) -> dict:
        """What every layer of a stack is made with, ``seed`` and Keras's own arguments aside."""
        return {
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "d_ff": self.d_ff,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "norm": self.norm,
            "activation": self.activation,
            "epsilon": self.epsilon,
            "residual_dropout_position": self.residual_dropout_position,
        }

    def get_config(self) -> dict:
        plain = {"activation": keras.activations.serialize(self.activation), "seed": self.seed}
        return super().get_config() | self._arguments() | plain


class TransformerLayer(_TransformerBlock):
    """What EncoderLayer and DecoderLayer make their sub-layers with."""

    def __init__(self, d_model: int, num_heads: int, **kwargs):
        super().__init__(d_model, num_heads, **kwargs)
        seeds = SeedStream(self.seed)
        # Weights first, at most three sub-layers have some: a seed gives the weights it gave before dropout was seeded.
        self._weight_seeds = iter([seeds.next() for _ in range(3)])
        self._dropout_seeds = seeds

    def _attention(self, kind: type[keras.layers.Layer], name: str):
        return kind(
            self.d_model,
            self.num_heads,
            dropout=self.attention_dropout,
            seed=next(self._weight_seeds),
            dtype=self.dtype_policy,
            name=name,
        )

    def _feed_forward(self) -> FeedForward:
        return FeedForward(
            self.d_model,
            self.d_ff,
            activation=self.activation,
            dropout=self.activation_dropout,
            seed=next(self._weight_seeds),
            dtype=self.dtype_policy,
            name="feed_forward",
        )

    def _residual(self, name: str) -> Residual:
        return Residual(
            norm=self.norm,
            dropout=self.dropout,
            residual_dropout_position=self.residual_dropout_position,
            epsilon=self.epsilon,
            seed=self._dropout_seeds.next(),
            dtype=self.dtype_policy,
            name=name,
        )


class Stack(_TransformerBlock):
    """``num_layers`` equal layers, and pre-LN's final norm."""

    _layer_class = None

    def __init__(self, num_layers: int, d_model: int, num_heads: int, remat: bool = False, **kwargs):
        super().__init__(d_model, num_heads, **kwargs)
        if num_layers < 1:
            raise ValueError(f"A stack needs at least one layer. Received: num_layers={num_layers}.")
        self.num_layers = num_layers
        self.remat = remat
        seeds = SeedStream(self.seed)
        self.layers = [
            self._layer_class(**self._arguments(), seed=seeds.next(), dtype=self.dtype_policy, name=f"layer_{index}")
            for index in range(num_layers)
        ]
        self.final_norm = None
        if self.norm == "pre":  # its residual sum reaches the end unnormalised
            self.final_norm = keras.layers.LayerNormalization(
                epsilon=self.epsilon, dtype=self.dtype_policy, name="final_norm"
            )

    def _build(self, *shapes):
        for layer in self.layers:
            layer.build(*shapes)
        if self.final_norm is not None:
            self.final_norm.build(shapes[0])

    def _call_layer(self, layer, *tensors, training=None, **masks):
        """In training with ``remat`` only the layer's inputs are kept for the gradient."""
        if self.remat and training:
            return rematerialize(layer, *tensors, training=training, **masks)
        return layer(*tensors, training=training, **masks)

    def finish(self, x):
        """What follows the last layer, (B, T, D): the final norm of pre-LN, nothing with post-LN."""
        return x if self.final_norm is None else self.final_norm(x)

    def get_config(self) -> dict:
        return super().get_config() | {"num_layers": self.num_layers, "remat": self.remat}
