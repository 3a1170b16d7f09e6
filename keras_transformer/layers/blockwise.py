"""Attention in blocks of queries, for long sequences: memory linear in length, on every backend.

Under attention.py, which takes it where the backend has no fused kernel for the case and the (T, S) weights would be large. As
FlashAttention (Dao et al. 2022), it keeps no weights for the backward pass but computes them again, block by block.
"""

from keras import ops

from keras_transformer.backend import dropout, fold_chunks

# Queries of a block: at 4,096 tokens a batch and 4 heads, its weights take 16 MB.
_BLOCK = 256


def masked_softmax(scores, mask):
    """softmax of scores (B, H, T, S) in float32 over the keys that ``mask`` lets through; uniform where it lets none."""
    scores = ops.cast(scores, "float32")
    if mask is not None:
        scores = ops.where(mask, scores, -1e9)  # finite: -inf would make NaN of a fully masked row
    if scores.shape[-1] == 1:
        return ops.ones_like(scores)  # what softmax gives for one key, but Keras takes it for a mistake and warns
    return ops.softmax(scores, axis=-1)


def blockwise_attention(
    query, key, value, mask=None, scale: float = 1.0, dropout_rate: float = 0.0, seed=None, block_size: int = _BLOCK
):
    """softmax(scale Q K^T) V without ever holding all of its weights.

    Args:
        query: (B, H, T, K).
        key, value: (B, H, S, K).
        mask: boolean of four axes, broadcastable to (B, H, T, S), True = may attend; or None.
        scale: factor of the scores.
        dropout_rate: share of weights dropped.
        seed: what keras.random.SeedGenerator.next() gives, for dropout; the backward pass drops the same.
        block_size: queries worked on at a time.

    Returns:
        (B, H, T, K), with gradients by query, key and value.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.blockwise import blockwise_attention
    >>> x = np.ones((1, 2, 5, 4), "float32")
    >>> tuple(blockwise_attention(x, x, x, block_size=2).shape)
    (1, 2, 5, 4)

    Reference: Dao et al. 2022, "FlashAttention", algorithm 1 and appendix B; here over queries alone.
    """
    query, key, value = (ops.convert_to_tensor(x) for x in (query, key, value))
    rows_of_mask = () if mask is None or mask.shape[2] == 1 else (_rows_first(mask),)
    positions = ops.arange(ops.shape(query)[2], dtype="int32")
    dtype = value.dtype

    def weights(queries, key, position, rows):
        """Of a block of queries (B, H, C, K): softmax, and what dropout leaves of it, both (B, H, C, S) float32."""
        block_mask = _rows_last(rows[0]) if rows else mask
        softmax = masked_softmax(ops.matmul(queries * scale, ops.transpose(key, (0, 1, 3, 2))), block_mask)
        if not dropout_rate:
            return softmax, lambda x: x
        # Draws are counted from 0 in the seed's second half: blocks count far above them, within 31 bits. Blocks are alike, and so
        # more than half as long as they may be: no two get one number until it starts anew, beyond 262,144 queries.
        number = ops.mod(position // max(block_size // 2, 1), 2**11)
        shift = ops.stack([ops.zeros_like(position), number * 2**20])
        block_seed = seed + ops.cast(shift, seed.dtype)
        return softmax, lambda x: dropout(x, dropout_rate, block_seed)

    def attend(query, key, value):
        def forward(carry, block):
            queries, position, *rows = block
            softmax, drop = weights(_rows_last(queries), key, position[0], rows)
            attended = ops.matmul(ops.cast(drop(softmax), dtype), value)
            return carry, ops.cast(_rows_first(attended), "float32")

        _, attended = fold_chunks(forward, (), (_rows_first(query), positions, *rows_of_mask), block_size)

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            return backward(query, key, value, upstream)

        return ops.cast(_rows_last(attended), dtype), gradient

    def backward(query, key, value, upstream):
        def step(carry, block):
            by_key, by_value = carry
            queries, by_attended, position, *rows = block
            queries, by_attended = _rows_last(queries), _rows_last(by_attended)
            softmax, drop = weights(queries, key, position[0], rows)
            dropped = ops.cast(drop(softmax), dtype)
            by_value = by_value + ops.cast(ops.matmul(ops.transpose(dropped, (0, 1, 3, 2)), by_attended), "float32")
            by_softmax = drop(ops.cast(ops.matmul(by_attended, ops.transpose(value, (0, 1, 3, 2))), "float32"))
            by_scores = softmax * (by_softmax - ops.sum(softmax * by_softmax, axis=-1, keepdims=True))
            by_scores = ops.cast(by_scores * scale, dtype)
            by_key = by_key + ops.cast(ops.matmul(ops.transpose(by_scores, (0, 1, 3, 2)), queries), "float32")
            by_query = ops.matmul(by_scores, key)
            return (by_key, by_value), ops.cast(_rows_first(by_query), "float32")

        nothing = ops.zeros_like(ops.cast(key, "float32"))
        rows = (_rows_first(query), _rows_first(ops.cast(upstream, dtype)), positions, *rows_of_mask)
        (by_key, by_value), by_query = fold_chunks(step, (nothing, nothing), rows, block_size)
        return ops.cast(_rows_last(by_query), dtype), ops.cast(by_key, dtype), ops.cast(by_value, dtype)

    return ops.custom_gradient(attend)(query, key, value)


def _rows_first(x):
    """(B, H, T, K) -> (T, B, H, K)"""
    return ops.transpose(x, (2, 0, 1, 3))


def _rows_last(x):
    """(T, B, H, K) -> (B, H, T, K)"""
    return ops.transpose(x, (1, 2, 0, 3))
