"""The encoder: self-attention and feed-forward network, stacked (Vaswani et al. 2017, section 3.1)."""

import keras

from keras_transformer.layers.attention import SelfAttention
from keras_transformer.layers.stack import Stack, TransformerLayer


@keras.saving.register_keras_serializable(package="keras_transformer")
class EncoderLayer(TransformerLayer):
    """Self-attention, then the feed-forward network, each with its residual.

    Args:
        d_model: D, width of input and output.
        num_heads: H, a divisor of d_model.
        d_ff: width inside the feed-forward network; None for 4 d_model.
        dropout: share dropped at the residual.
        attention_dropout: share of attention weights dropped; None for ``dropout``.
        activation_dropout: share of feed-forward activations dropped; None for ``dropout``.
        norm: "post" (the paper) or "pre".
        activation: of the feed-forward network.
        epsilon: LayerNorm's.
        residual_dropout_position: "branch" (the paper) or "sum"; see residual.py.
        seed: seed of the initial weights and of dropout; None draws one.

    Call arguments:
        x: (B, S, D).
        attention_mask: boolean, broadcastable to (B, H, S, S), True = may attend; usually padding_mask(source).

    Returns:
        (B, S, D).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import EncoderLayer
    >>> tuple(EncoderLayer(8, num_heads=2)(np.ones((1, 3, 8), "float32")).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, section 3.1, figure 1 (left).
    """

    def __init__(self, d_model: int, num_heads: int, **kwargs):
        super().__init__(d_model, num_heads, **kwargs)
        self.self_attention = self._attention(SelfAttention, "self_attention")
        self.self_attention_residual = self._residual("self_attention_residual")
        self.feed_forward = self._feed_forward()
        self.feed_forward_residual = self._residual("feed_forward_residual")

    def build(self, x_shape: tuple) -> None:
        self.self_attention.build(x_shape)
        self.self_attention_residual.build(x_shape)
        self.feed_forward.build(x_shape)
        self.feed_forward_residual.build(x_shape)

    def call(self, x, attention_mask=None, training: bool | None = None):
        # 1. self-attention
        x = self.self_attention_residual(
            x,
            sublayer=lambda y: self.self_attention(y, attention_mask=attention_mask, training=training),
            training=training,
        )
        # 2. feed-forward
        return self.feed_forward_residual(
            x, sublayer=lambda y: self.feed_forward(y, training=training), training=training
        )

    def with_scores(self, x, attention_mask=None) -> tuple:
        """What ``call`` gives without dropout, and the attention weights, (B, H, S, S) in float32."""
        scores = []

        def attend(y):
            scores.append(self.self_attention.attention_scores(y, attention_mask))
            return self.self_attention(y, attention_mask=attention_mask)

        x = self.self_attention_residual(x, sublayer=attend)
        return self.feed_forward_residual(x, sublayer=self.feed_forward), scores[0]

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return x_shape


@keras.saving.register_keras_serializable(package="keras_transformer")
class Encoder(Stack):
    """A stack of EncoderLayers; pre-LN ends with a final norm.

    Args:
        num_layers: how many.
        d_model, num_heads, seed and all further arguments: as EncoderLayer.
        remat: whether training keeps each layer's input alone and computes the rest again for the gradient: less memory, a third
            more time, the same numbers.

    Call arguments:
        x: (B, S, D).
        attention_mask: boolean, broadcastable to (B, H, S, S), True = may attend.

    Returns:
        (B, S, D).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import Encoder
    >>> tuple(Encoder(2, d_model=8, num_heads=2)(np.ones((1, 3, 8), "float32")).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, section 3.1.
    """

    _layer_class = EncoderLayer

    def build(self, x_shape: tuple) -> None:
        self._build(x_shape)

    def call(self, x, attention_mask=None, training: bool | None = None):
        for layer in self.layers:
            x = self._call_layer(layer, x, attention_mask=attention_mask, training=training)
        return self.finish(x)

    def with_scores(self, x, attention_mask=None) -> tuple:
        """What ``call`` gives without dropout, and a list of each layer's attention weights, (B, H, S, S)."""
        scores = []
        for layer in self.layers:
            x, of_layer = layer.with_scores(x, attention_mask)
            scores.append(of_layer)
        return self.finish(x), scores

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return x_shape
