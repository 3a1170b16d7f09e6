"""What encoder and decoder share: the arguments of a layer and the stacking of layers.

The lecture's four places of dropout, and the arguments that set them:

    on the attention weights, after the softmax      attention_dropout
    in the feed-forward network, after activation    activation_dropout
    on token embedding + positions                   dropout (in Transformer)
    at each sub-layer's residual                     dropout, residual_dropout_position
"""

import keras

from keras_transformer.initializers import SeedStream
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.residual import Residual


class _TransformerLayer(keras.layers.Layer):
    """The arguments of EncoderLayer and DecoderLayer, and the sub-layers made from them."""

    def __init__(
        self,
        d_model,
        num_heads,
        d_ff=None,
        dropout=0.1,
        attention_dropout=None,
        activation_dropout=None,
        norm="post",
        activation="relu",
        epsilon=1e-6,
        residual_dropout_position="branch",
        seed=None,
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
        self._seeds = SeedStream(seed)

    def _attention(self, kind, name):
        return kind(
            self.d_model,
            self.num_heads,
            dropout=self.attention_dropout,
            seed=self._seeds.next(),
            dtype=self.dtype_policy,
            name=name,
        )

    def _feed_forward(self):
        return FeedForward(
            self.d_model,
            self.d_ff,
            activation=self.activation,
            dropout=self.activation_dropout,
            seed=self._seeds.next(),
            dtype=self.dtype_policy,
            name="feed_forward",
        )

    def _residual(self, name):
        return Residual(
            norm=self.norm,
            dropout=self.dropout,
            residual_dropout_position=self.residual_dropout_position,
            epsilon=self.epsilon,
            dtype=self.dtype_policy,
            name=name,
        )

    def compute_output_shape(self, x_shape, *_):
        return x_shape

    def get_config(self):
        return super().get_config() | {
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "d_ff": self.d_ff,
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            "norm": self.norm,
            "activation": keras.activations.serialize(self.activation),
            "epsilon": self.epsilon,
            "residual_dropout_position": self.residual_dropout_position,
            "seed": self.seed,
        }


class _Stack(keras.layers.Layer):
    """``num_layers`` equal layers, and pre-LN's final norm; the layer's arguments are passed through."""

    _layer_class = None

    def __init__(
        self, num_layers, d_model, num_heads, seed=None, name=None, dtype=None, trainable=True, **layer_arguments
    ):
        super().__init__(name=name, dtype=dtype, trainable=trainable)
        if num_layers < 1:
            raise ValueError(f"A stack needs at least one layer. Received: num_layers={num_layers}.")
        self.num_layers = num_layers
        self.d_model = d_model
        self.num_heads = num_heads
        self.seed = seed
        self._layer_arguments = layer_arguments
        seeds = SeedStream(seed)
        self.layers = [
            self._layer_class(
                d_model,
                num_heads,
                seed=seeds.next(),
                dtype=self.dtype_policy,
                name=f"layer_{index}",
                **layer_arguments,
            )
            for index in range(num_layers)
        ]
        self.final_norm = None
        if self.layers[0].norm == "pre":  # its residual sum reaches the end unnormalised
            self.final_norm = keras.layers.LayerNormalization(
                epsilon=self.layers[0].epsilon, dtype=self.dtype_policy, name="final_norm"
            )

    def _build(self, *shapes):
        for layer in self.layers:
            layer.build(*shapes)
        if self.final_norm is not None:
            self.final_norm.build(shapes[0])

    def _finish(self, x):
        return x if self.final_norm is None else self.final_norm(x)

    def compute_output_shape(self, x_shape, *_):
        return x_shape

    def get_config(self):
        return super().get_config() | {
            "num_layers": self.num_layers,
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "seed": self.seed,
            **self._layer_arguments,
        }
