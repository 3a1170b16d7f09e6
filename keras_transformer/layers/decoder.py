"""The decoder: masked self-attention, attention to the encoder's output, feed-forward network, stacked.

Training sees all target positions at once, cached decoding one at a time. Both run the same body (DecoderLayer._body);
they differ only in where attention takes its keys and values from. Vaswani et al. 2017, section 3.1.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_transformer.layers.attention import CrossAttention, SelfAttention
from keras_transformer.layers.masking import causal_mask, combine_masks
from keras_transformer.layers.stack import _Stack, _TransformerLayer


@keras.saving.register_keras_serializable(package="keras_transformer")
class DecoderLayer(_TransformerLayer):
    """Causal self-attention, attention to the encoder's output, feed-forward network, each with its residual.

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
        x: (B, T, D).
        encoder_output: (B, S, D).
        encoder_mask: boolean, broadcastable to (B, H, T, S), True = may attend; usually padding_mask(source).
        attention_mask: of self-attention, (B, H, T, T), beside the causal mask; None but for packed sequences.

    Returns:
        (B, T, D).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import DecoderLayer
    >>> x, encoder_output = np.ones((1, 3, 8), "float32"), np.ones((1, 5, 8), "float32")
    >>> tuple(DecoderLayer(8, num_heads=2)(x, encoder_output).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, section 3.1, figure 1 (right).
    """

    def __init__(self, d_model: int, num_heads: int, **kwargs):
        super().__init__(d_model, num_heads, **kwargs)
        self.self_attention = self._attention(SelfAttention, "self_attention")
        self.self_attention_residual = self._residual("self_attention_residual")
        self.cross_attention = self._attention(CrossAttention, "cross_attention")
        self.cross_attention_residual = self._residual("cross_attention_residual")
        self.feed_forward = self._feed_forward()
        self.feed_forward_residual = self._residual("feed_forward_residual")

    def build(self, x_shape: tuple, encoder_output_shape: tuple) -> None:
        self.self_attention.build(x_shape)
        self.self_attention_residual.build(x_shape)
        self.cross_attention.build(x_shape, encoder_output_shape)
        self.cross_attention_residual.build(x_shape)
        self.feed_forward.build(x_shape)
        self.feed_forward_residual.build(x_shape)

    def call(self, x, encoder_output, encoder_mask=None, attention_mask=None, training: bool | None = None):
        mask = combine_masks(causal_mask(ops.shape(x)[1]), attention_mask)
        return self._body(
            x,
            lambda y: self.self_attention(y, attention_mask=mask, training=training),
            lambda y: self.cross_attention(y, encoder_output, attention_mask=encoder_mask, training=training),
            training,
        )

    def _body(self, x, attend_to_self: Callable, attend_to_encoder: Callable, training: bool | None = False):
        # 1. self-attention
        x = self.self_attention_residual(x, sublayer=attend_to_self, training=training)
        # 2. attention to the encoder's output
        x = self.cross_attention_residual(x, sublayer=attend_to_encoder, training=training)
        # 3. feed-forward
        return self.feed_forward_residual(
            x, sublayer=lambda y: self.feed_forward(y, training=training), training=training
        )

    def compute_output_shape(self, x_shape: tuple, encoder_output_shape: tuple) -> tuple:
        return x_shape

    def init_cache(self, encoder_output, beam_size: int, max_length) -> dict:
        """What decoding keeps: {"self": keys and values to come, "encoder": those of encoder_output (B, S, D)}."""
        rows = ops.shape(encoder_output)[0] * beam_size
        return {
            "self": self.self_attention.init_cache(rows, max_length),
            "encoder": self.cross_attention.init_cache(encoder_output),
        }

    def step(self, x, cache: dict, step, encoder_mask=None) -> tuple:
        """x (B W, 1, D) at position ``step``. Returns ((B W, 1, D), the cache with this position filled in)."""
        updated = {"encoder": cache["encoder"]}

        def attend_to_self(y):
            attended, updated["self"] = self.self_attention.step(y, cache["self"], step)
            return attended

        def attend_to_encoder(y):
            return self.cross_attention.step(y, cache["encoder"], attention_mask=encoder_mask)

        return self._body(x, attend_to_self, attend_to_encoder), updated


@keras.saving.register_keras_serializable(package="keras_transformer")
class Decoder(_Stack):
    """A stack of DecoderLayers; pre-LN ends with a final norm.

    Args:
        num_layers: how many.
        d_model, num_heads, seed and all further arguments: as DecoderLayer.
        remat: whether training keeps each layer's input alone and computes the rest again for the gradient: less memory, a third
            more time, the same numbers.

    Call arguments:
        x: (B, T, D).
        encoder_output: (B, S, D).
        encoder_mask: boolean, broadcastable to (B, H, T, S), True = may attend.
        attention_mask: of self-attention, (B, H, T, T), beside the causal mask; None but for packed sequences.

    Returns:
        (B, T, D).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import Decoder
    >>> x, encoder_output = np.ones((1, 3, 8), "float32"), np.ones((1, 5, 8), "float32")
    >>> tuple(Decoder(2, d_model=8, num_heads=2)(x, encoder_output).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, section 3.1.
    """

    _layer_class = DecoderLayer

    def build(self, x_shape: tuple, encoder_output_shape: tuple) -> None:
        self._build(x_shape, encoder_output_shape)

    def call(self, x, encoder_output, encoder_mask=None, attention_mask=None, training: bool | None = None):
        for layer in self.layers:
            x = self._call_layer(
                layer, x, encoder_output, encoder_mask=encoder_mask, attention_mask=attention_mask, training=training
            )
        return self._finish(x)

    def compute_output_shape(self, x_shape: tuple, encoder_output_shape: tuple) -> tuple:
        return x_shape

    def init_cache(self, encoder_output, beam_size: int = 1, max_length=128) -> list[dict]:
        """The caches of all layers for W = beam_size hypotheses a sentence and at most max_length positions."""
        return [layer.init_cache(encoder_output, beam_size, max_length) for layer in self.layers]

    def step(self, x, cache: list[dict], step, encoder_mask=None) -> tuple:
        """One position of every hypothesis: x (B W, 1, D) -> ((B W, 1, D), updated caches)."""
        updated = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            x, layer_cache = layer.step(x, layer_cache, step, encoder_mask)
            updated.append(layer_cache)
        return self._finish(x), updated
