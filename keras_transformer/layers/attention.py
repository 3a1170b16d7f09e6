"""Multi-head attention: SelfAttention and CrossAttention, for training and for cached decoding.

Vaswani et al. 2017, section 3.2. The two differ in what is projected together, and so in their weights:

    SelfAttention    query_key_value  kernel (D, 3 D), bias (3 D,)     columns: queries | keys | values
    CrossAttention   query            kernel (D, D),   bias (D,)
                     key_value        kernel (D, 2 D), bias (2 D,)     columns: keys | values
    both             output           kernel (D, D),   bias (D,)

Within each block of D columns, head h owns columns h K to (h + 1) K. This layout is part of the file format.
"""

import keras
from keras import ops

from keras_transformer.backend import fused_attention, write_slice, written_part
from keras_transformer.initializers import SeedStream, XavierUniform
from keras_transformer.layers.blockwise import blockwise_attention, masked_softmax
from keras_transformer.layers.masking import causal_mask, combine_masks, with_head_axis
from keras_transformer.layers.projection import Projection
from keras_transformer.layers.seeded_dropout import seeded_dropout
from keras_transformer.layers.widths import check_width

# Query, key and value kernels are drawn as PyTorch and fairseq do, sqrt(2) below Xavier's limit: post-LN learns faster from
# flatter first attention (preset tiny on Multi30k, validation BLEU after 6 epochs: 11.0; 6.5 with a gain of 1).
_GAIN = 2**-0.5

# T x S from which weights are not kept but computed again in the backward pass, block by block (see blockwise.py).
_LONG = 512 * 512


class _MultiHeadAttention(keras.layers.Layer):
    """What both kinds share: arguments, scores, weighted sum, output projection."""

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(
                f"d_model must be divisible by num_heads. Received: d_model={d_model}, num_heads={num_heads}. "
                f"Choose num_heads among the divisors of d_model."
            )
        self.d_model = d_model
        self.num_heads = num_heads
        self.dropout = dropout
        self.seed = seed
        self._seeds = SeedStream(seed)

    def _projection(self, blocks: int, name: str, gain: float = 1.0) -> Projection:
        return Projection(
            blocks * self.d_model,
            kernel_initializer=XavierUniform(seed=self._seeds.next(), blocks=blocks, gain=gain),
            dtype=self.dtype_policy,
            name=name,
        )

    def _split(self, x, blocks: int):
        """(B, T, blocks D) -> a list of ``blocks`` tensors (B, H, T, K)."""
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        x = ops.reshape(x, (batch, length, blocks, self.num_heads, self.d_model // self.num_heads))
        x = ops.transpose(x, (2, 0, 3, 1, 4))  # (blocks, B, H, T, K)
        # Not x[block]: the gradient of a slice fills a tensor of zeros for each block, which on TensorFlow took 0.38 of
        # the 0.93 s of a profiled step (preset tiny, V = 500).
        return ops.unstack(x, blocks)

    def _merge(self, x):
        """(B, H, T, K) -> (B, T, D)"""
        batch, length = ops.shape(x)[0], ops.shape(x)[2]
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, self.d_model))

    def _weights(self, query, key, mask):
        """softmax(Q K^T / sqrt(K)) in float32: (B, H, T, S). A fully masked row is uniform here; attend zeroes it."""
        return masked_softmax(ops.matmul(query * query.shape[-1] ** -0.5, ops.transpose(key, (0, 1, 3, 2))), mask)

    def attend(self, query, key, value, mask=None, training=False):
        """Weighted sum of value (B, H, S, K) for each query (B, H, T, K), through the output projection: (B, T, D).

        The second half of ``call``, after ``project``; public for code that keeps keys and values of its own. mask: boolean,
        broadcastable to (B, H, T, S), True = may attend.
        """
        some = None
        if mask is not None:
            some = _any_key(mask)  # (B, 1, T, 1)
            # A fully masked row is opened here and zeroed below, so that no kernel meets it and makes NaN of it.
            mask = ops.logical_or(mask, ops.logical_not(some))
        attended = self._weighted_sum(query, key, value, mask, training)  # (B, H, T, K)
        return self.output_projection(self._merge(_masked_rows_to_zero(attended, some)))

    def _weighted_sum(self, query, key, value, mask, training):
        """softmax(Q K^T / sqrt(K)) V with dropout, (B, H, T, K), in the way that suits backend and length."""
        rate = self.dropout if training else 0.0
        scale = query.shape[-1] ** -0.5
        fused = fused_attention(query, key, value, mask, scale, rate)
        if fused is not None:
            return fused

        def plain():
            weights = ops.cast(self._weights(query, key, mask), value.dtype)
            return ops.matmul(self._weight_dropout(weights, training=training), value)

        def in_blocks():
            seed = self._weight_dropout.seed_generator.next() if rate else None
            return blockwise_attention(query, key, value, mask, scale, rate, seed)

        size = ops.shape(query)[2] * ops.shape(key)[2]
        if ops.is_tensor(size):  # TensorFlow, lengths left open
            return ops.cond(size > _LONG, in_blocks, plain)
        # A length that is a symbol, as when JAX exports, cannot be compared.
        return in_blocks() if isinstance(size, int) and size > _LONG else plain()

    def get_config(self) -> dict:
        return super().get_config() | {
            "d_model": self.d_model,
            "num_heads": self.num_heads,
            "dropout": self.dropout,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_transformer")
class SelfAttention(_MultiHeadAttention):
    """Multi-head attention of a sequence to itself.

    softmax(Q K^T / sqrt(K)) V for each of H heads, concatenated and projected. Scores are scaled before a float32
    softmax; a row whose keys are all masked gives zeros. The backend's fused kernel is used where it has one and no
    attention dropout is active.

    Args:
        d_model: D, width of input and output.
        num_heads: H; the head width K is d_model / num_heads.
        dropout: share of attention weights dropped in training.
        seed: seed of the initial weights and of dropout; None draws one.

    Call arguments:
        x: (B, T, D).
        attention_mask: boolean (T, T), (B, T, T) or broadcastable to (B, H, T, T), True = may attend; None attends everywhere.
        use_causal_mask: whether each position attends to itself and earlier ones alone, as in keras.layers.MultiHeadAttention.

    Returns:
        (B, T, D).

    Raises:
        ValueError: num_heads does not divide d_model, the input has another width, or the mask has one axis or floats.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import SelfAttention, causal_mask
    >>> tuple(SelfAttention(8, num_heads=2)(np.ones((1, 3, 8), "float32"), attention_mask=causal_mask(3)).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, seed: int | None = None, **kwargs):
        super().__init__(d_model, num_heads, dropout, seed, **kwargs)
        self.query_key_value = self._projection(3, "query_key_value", gain=_GAIN)
        self.output_projection = self._projection(1, "output")
        self._weight_dropout = seeded_dropout(dropout, self._seeds, self.dtype_policy)

    def build(self, x_shape: tuple) -> None:
        check_width(self, "x", x_shape)
        self.query_key_value.build(x_shape)
        self.output_projection.build((*x_shape[:-1], self.d_model))

    def call(self, x, attention_mask=None, use_causal_mask: bool = False, training: bool | None = None):
        query, key, value = self.project(x)
        mask = with_head_axis(attention_mask)
        if use_causal_mask:
            mask = combine_masks(causal_mask(ops.shape(x)[1]), mask)
        return self.attend(query, key, value, mask, training)

    def compute_output_shape(self, x_shape: tuple) -> tuple:
        return x_shape

    def project(self, x) -> list:
        """Queries, keys and values of x (B, T, D), each (B, H, T, K)."""
        return self._split(self.query_key_value(x), 3)

    def attention_scores(self, x, attention_mask=None):
        """Attention weights (B, H, T, T) in float32, without dropout; rows sum to 1 (to 0 where all is masked)."""
        query, key, _ = self.project(x)
        attention_mask = with_head_axis(attention_mask)
        return _masked_rows_to_zero(self._weights(query, key, attention_mask), attention_mask)

    def init_cache(self, batch_size, beam_size: int, max_length) -> dict:
        """Zeros for the keys and values of W hypotheses a sentence: {"key": (B, H, K, L W), "value": (B, H, L W, K)}.

        Position l of slot w stands at l W + w. Keys are stored transposed, as the product of a step needs them.
        """
        width, length = self.d_model // self.num_heads, max_length * beam_size
        key, value = (batch_size, self.num_heads, width, length), (batch_size, self.num_heads, length, width)
        return {"key": ops.zeros(key, dtype=self.compute_dtype), "value": ops.zeros(value, dtype=self.compute_dtype)}

    def step(self, x, cache: dict, step, visible) -> tuple:
        """The next position of every hypothesis, written into the cache at position ``step``.

        Args: x (B W, T, D), T = 1 unless W = 1; cache as of init_cache; step an integer scalar, the first of the T positions;
        visible (B, 1, W T, L W) boolean, which slots each hypothesis descends from. Returns ((B W, T, D), the new cache).
        """
        batch, rows, length = ops.shape(cache["key"])[0], ops.shape(x)[0], ops.shape(x)[1]
        width = rows // batch
        side_by_side = ops.reshape(self.query_key_value(x), (batch, width * length, 3 * self.d_model))
        query, key, value = self._split(side_by_side, 3)  # each (B, H, W T, K)
        start = step * width
        cache = {
            "key": write_slice(cache["key"], ops.transpose(key, (0, 1, 3, 2)), start, axis=3),
            "value": write_slice(cache["value"], value, start, axis=2),
        }
        end = start + length * width
        written = {
            "key": written_part(cache["key"], end, axis=3, width=width),
            "value": written_part(cache["value"], end, axis=2, width=width),
        }
        visible = written_part(visible, end, axis=3, width=width)
        attended = _attend_step(query * query.shape[-1] ** -0.5, written, visible)
        return ops.reshape(self.output_projection(self._merge(attended)), (rows, length, self.d_model)), cache


@keras.saving.register_keras_serializable(package="keras_transformer")
class CrossAttention(_MultiHeadAttention):
    """Multi-head attention of a sequence to the encoder's output.

    As SelfAttention, with keys and values projected from ``encoder_output``.

    Args:
        d_model: D, width of input and output.
        num_heads: H; the head width K is d_model / num_heads.
        dropout: share of attention weights dropped in training.
        seed: seed of the initial weights and of dropout; None draws one.

    Call arguments:
        x: (B, T, D).
        encoder_output: (B, S, D).
        attention_mask: boolean (T, S), (B, T, S) or broadcastable to (B, H, T, S), True = may attend; None attends everywhere.

    Returns:
        (B, T, D).

    Raises:
        ValueError: num_heads does not divide d_model, the input has another width, or the mask has one axis or floats.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import CrossAttention
    >>> x, encoder_output = np.ones((1, 3, 8), "float32"), np.ones((1, 5, 8), "float32")
    >>> tuple(CrossAttention(8, num_heads=2)(x, encoder_output).shape)
    (1, 3, 8)

    Reference: Vaswani et al. 2017, section 3.2.3.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0, seed: int | None = None, **kwargs):
        super().__init__(d_model, num_heads, dropout, seed, **kwargs)
        self.query = self._projection(1, "query", gain=_GAIN)
        self.key_value = self._projection(2, "key_value", gain=_GAIN)
        self.output_projection = self._projection(1, "output")
        self._weight_dropout = seeded_dropout(dropout, self._seeds, self.dtype_policy)

    def build(self, x_shape: tuple, encoder_output_shape: tuple) -> None:
        check_width(self, "x", x_shape)
        check_width(self, "encoder_output", encoder_output_shape)
        self.query.build(x_shape)
        self.key_value.build(encoder_output_shape)
        self.output_projection.build((*x_shape[:-1], self.d_model))

    def call(self, x, encoder_output, attention_mask=None, training: bool | None = None):
        query, (key, value) = self.project(x), self.project_encoder(encoder_output)
        return self.attend(query, key, value, with_head_axis(attention_mask), training)

    def compute_output_shape(self, x_shape: tuple, encoder_output_shape: tuple) -> tuple:
        return x_shape

    def project(self, x):
        """Queries of x (B, T, D): (B, H, T, K)."""
        return self._split(self.query(x), 1)[0]

    def project_encoder(self, encoder_output) -> list:
        """Keys and values of the encoder's output (B, S, D), each (B, H, S, K)."""
        return self._split(self.key_value(encoder_output), 2)

    def attention_scores(self, x, encoder_output, attention_mask=None):
        """Attention weights (B, H, T, S) in float32, without dropout; rows sum to 1 (to 0 where all is masked)."""
        query, (key, _) = self.project(x), self.project_encoder(encoder_output)
        attention_mask = with_head_axis(attention_mask)
        return _masked_rows_to_zero(self._weights(query, key, attention_mask), attention_mask)

    def init_cache(self, encoder_output) -> dict:
        """Keys and values of the encoder's output, projected once: {"key": (B, H, K, S), "value": (B, H, S, K)}."""
        key, value = self.project_encoder(encoder_output)
        return {"key": ops.transpose(key, (0, 1, 3, 2)), "value": value}

    def step(self, x, cache: dict, attention_mask=None):
        """One decoding step of W hypotheses a sentence: x (B W, T, D), cache of B sentences; returns (B W, T, D).

        The hypotheses of a sentence are laid side by side as query positions, so that the cache is neither copied nor
        reordered when the beam is.
        """
        rows, length, attention_mask = ops.shape(x)[0], ops.shape(x)[1], with_head_axis(attention_mask)
        attended = _attend_step(self._step_query(x, cache), cache, attention_mask)
        attended = _masked_rows_to_zero(attended, None if attention_mask is None else _any_key(attention_mask))
        return ops.reshape(self.output_projection(self._merge(attended)), (rows, length, self.d_model))

    def step_scores(self, x, cache: dict, attention_mask=None):
        """The attention weights of ``step``, (B, H, W T, S) in float32."""
        attention_mask = with_head_axis(attention_mask)
        scores = ops.matmul(self._step_query(x, cache), cache["key"])
        return _masked_rows_to_zero(masked_softmax(scores, attention_mask), attention_mask)

    def _step_query(self, x, cache):
        batch = ops.shape(cache["key"])[0]
        side_by_side = ops.reshape(x, (batch, -1, self.d_model))  # (B, W T, D)
        query = self.project(side_by_side)
        return query * query.shape[-1] ** -0.5


def _attend_step(query, cache, mask):
    """Weighted sum of the cached values for few queries (B, H, N, K), scaled before: (B, H, N, K)."""
    weights = masked_softmax(ops.matmul(query, cache["key"]), mask)
    return ops.matmul(ops.cast(weights, query.dtype), cache["value"])


def _any_key(mask):
    return ops.any(mask, axis=-1, keepdims=True)


def _masked_rows_to_zero(weights, mask):
    return weights if mask is None else ops.where(mask, weights, ops.zeros((), dtype=weights.dtype))
