"""The decoder: masked self-attention, attention to the encoder's output, feed-forward network, stacked.

Training sees all target positions at once, cached decoding one at a time. Both run the same body (DecoderLayer.run);
they differ only in where attention takes its keys and values from. Vaswani et al. 2017, section 3.1.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_transformer.backend import write_slice
from keras_transformer.layers.attention import CrossAttention, SelfAttention
from keras_transformer.layers.masking import causal_mask, combine_masks
from keras_transformer.layers.stack import Stack, TransformerLayer


@keras.saving.register_keras_serializable(package="keras_transformer")
class DecoderLayer(TransformerLayer):
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
        return self.run(
            x,
            lambda y: self.self_attention(y, attention_mask=mask, training=training),
            lambda y: self.cross_attention(y, encoder_output, attention_mask=encoder_mask, training=training),
            training,
        )

    def run(self, x, attend_to_self: Callable, attend_to_encoder: Callable, training: bool | None = False):
        """The layer around two attentions, functions (B, T, D) -> (B, T, D) that may read keys and values kept elsewhere."""
        # 1. self-attention
        x = self.self_attention_residual(x, sublayer=attend_to_self, training=training)
        # 2. attention to the encoder's output
        x = self.cross_attention_residual(x, sublayer=attend_to_encoder, training=training)
        # 3. feed-forward
        return self.feed_forward_residual(
            x, sublayer=lambda y: self.feed_forward(y, training=training), training=training
        )

    def with_scores(self, x, encoder_output, encoder_mask=None) -> tuple:
        """What ``call`` gives without dropout, and the attention weights: to itself (B, H, T, T), to the encoder (B, H, T, S)."""
        mask, scores = causal_mask(ops.shape(x)[1]), []

        def attend_to_self(y):
            scores.append(self.self_attention.attention_scores(y, mask))
            return self.self_attention(y, attention_mask=mask)

        def attend_to_encoder(y):
            scores.append(self.cross_attention.attention_scores(y, encoder_output, encoder_mask))
            return self.cross_attention(y, encoder_output, attention_mask=encoder_mask)

        return self.run(x, attend_to_self, attend_to_encoder), *scores

    def compute_output_shape(self, x_shape: tuple, encoder_output_shape: tuple) -> tuple:
        return x_shape

    def init_cache(self, encoder_output, beam_size: int, max_length) -> dict:
        """What decoding keeps: {"self": zeros for keys and values to come, "encoder": those of encoder_output (B, S, D)}."""
        return {
            "self": self.self_attention.init_cache(ops.shape(encoder_output)[0], beam_size, max_length),
            "encoder": self.cross_attention.init_cache(encoder_output),
        }

    def step(self, x, cache: dict, step, visible, encoder_mask=None) -> tuple:
        """x (B W, T, D) at position ``step``. Returns ((B W, T, D), the cache with these positions filled in).

        A cache with an entry "scores" gets this step's attention to the encoder's output there, (B, H, W T, S).
        """
        updated = dict(cache)

        def attend_to_self(y):
            attended, updated["self"] = self.self_attention.step(y, cache["self"], step, visible)
            return attended

        def attend_to_encoder(y):
            if "scores" in cache:
                scores = self.cross_attention.step_scores(y, cache["encoder"], encoder_mask)
                updated["scores"] = ops.reshape(scores, ops.shape(cache["scores"]))  # says W where a graph has lost it
            return self.cross_attention.step(y, cache["encoder"], attention_mask=encoder_mask)

        return self.run(x, attend_to_self, attend_to_encoder), updated


@keras.saving.register_keras_serializable(package="keras_transformer")
class Decoder(Stack):
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
        return self.finish(x)

    def compute_output_shape(self, x_shape: tuple, encoder_output_shape: tuple) -> tuple:
        return x_shape

    def with_scores(self, x, encoder_output, encoder_mask=None) -> tuple:
        """What ``call`` gives without dropout, and two lists of each layer's weights, (B, H, T, T) and (B, H, T, S)."""
        to_self, to_encoder = [], []
        for layer in self.layers:
            x, self_scores, encoder_scores = layer.with_scores(x, encoder_output, encoder_mask)
            to_self.append(self_scores)
            to_encoder.append(encoder_scores)
        return self.finish(x), to_self, to_encoder

    def init_cache(self, encoder_output, beam_size: int = 1, max_length=128) -> dict:
        """What cached decoding keeps for W = beam_size hypotheses a sentence and at most L = max_length positions.

        {"layers": a cache for each layer, "slots": (B, W, L)}. A hypothesis does not carry its keys and values along when the
        beam is reordered: they stay where they were written, and ``slots`` says in which of the W slots of a position its
        ancestor wrote, -1 where there is none yet. Every entry has the sentences on its first axis.
        """
        layers = [layer.init_cache(encoder_output, beam_size, max_length) for layer in self.layers]
        slots = ops.full((ops.shape(encoder_output)[0], beam_size, max_length), -1, dtype="int32")
        return {"layers": layers, "slots": slots}

    def step(self, x, cache: dict, step, encoder_mask=None) -> tuple:
        """The next position of every hypothesis: x (B W, T, D) -> ((B W, T, D), updated cache).

        T is 1, but with one hypothesis a sentence it may be more: then each position sees those before it.
        """
        slots, length = cache["slots"], x.shape[1]
        batch, width = ops.shape(slots)[0], slots.shape[1]
        if width > 1:
            own = ops.broadcast_to(ops.arange(width, dtype="int32")[None, :, None], (batch, width, length))
            slots = write_slice(slots, own, step, axis=2)
        visible = _visible_slots(slots, step, length)
        updated = []
        for layer, layer_cache in zip(self.layers, cache["layers"], strict=True):
            x, layer_cache = layer.step(x, layer_cache, step, visible, encoder_mask)
            updated.append(layer_cache)
        return self.finish(x), {"layers": updated, "slots": slots}

    def reorder_cache(self, cache, parents) -> dict:
        """The cache after hypothesis w of each sentence has become a child of parents[:, w], (B, W). Copies no key or value."""
        return cache | {"slots": ops.take_along_axis(cache["slots"], parents[:, :, None], axis=1)}

    def grow_cache(self, cache, max_length) -> dict:
        """The cache with room for ``max_length`` positions."""
        width, more = cache["slots"].shape[1], max_length - ops.shape(cache["slots"])[2]
        layers = [
            layer
            | {
                "self": {
                    "key": _longer(layer["self"]["key"], more * width, axis=3),
                    "value": _longer(layer["self"]["value"], more * width, axis=2),
                }
            }
            for layer in cache["layers"]
        ]
        return {"layers": layers, "slots": _longer(cache["slots"], more, axis=2, fill=-1)}


def _longer(x, more, axis, fill=0):
    shape = [more if index == axis else size for index, size in enumerate(ops.shape(x))]
    return ops.concatenate([x, ops.full(shape, fill, dtype=x.dtype)], axis=axis)


def _visible_slots(slots, step, length):
    """Which of the L W slots each of W T queries descends from: slots (B, W, L) -> (B or 1, 1, W T, L W) boolean."""
    batch, width, positions = ops.shape(slots)[0], slots.shape[1], ops.shape(slots)[2]
    # Query t stands at step + t and sees nothing behind it. Something may stand there: what was drafted and not accepted.
    places = ops.repeat(ops.arange(positions, dtype="int32"), width)  # (L W,)
    seen = places <= step + ops.arange(length, dtype="int32")[:, None]  # (T, L W)
    if width == 1:
        return seen[None, None]
    visible = slots[..., None] == ops.arange(width, dtype="int32")  # (B, W, L, W)
    return ops.logical_and(ops.reshape(visible, (batch, 1, width, positions * width)), seen)
