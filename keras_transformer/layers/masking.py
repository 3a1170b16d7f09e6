"""Attention masks, computed from the ids. First of the layers: everything that attends takes one of these.

True means "may attend", Keras's convention. It is the opposite of the ``masked_fill(mask, -inf)`` snippet of most
PyTorch lectures, where True means "forbidden". Masks are always passed by hand: Keras's implicit masks get lost at the
residual additions (Vaswani et al. 2017, section 3.2.3, has the reason for both masks).
"""

from keras import ops


def padding_mask(ids, pad_id: int = 0):
    """Which key positions hold a token.

    Args:
        ids: (B, S) integer ids.
        pad_id: the id that fills up short rows.

    Returns:
        (B, 1, 1, S) boolean, broadcastable to attention scores (B, H, T, S); True = may attend.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import padding_mask
    >>> np.asarray(padding_mask(np.array([[5, 6, 0]])))[0, 0, 0].tolist()
    [True, True, False]
    """
    return ops.not_equal(ops.convert_to_tensor(ids), pad_id)[:, None, None, :]


def causal_mask(length):
    """Which earlier positions each position of a sequence may see: itself and all before it.

    Args:
        length: T, a Python int or an integer scalar.

    Returns:
        (1, 1, T, T) boolean; entry (0, 0, i, j) is True for j <= i.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import causal_mask
    >>> np.asarray(causal_mask(2))[0, 0].tolist()
    [[True, False], [True, True]]
    """
    positions = ops.arange(length, dtype="int32")
    return (positions[None, :] <= positions[:, None])[None, None]


def combine_masks(*masks):
    """The logical and of all masks that are not None; None when all are.

    Args:
        masks: boolean tensors broadcastable to (B, H, T, S), or None.

    Returns:
        One boolean mask or None.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import causal_mask, combine_masks, padding_mask
    >>> ids = np.array([[5, 6, 0]])
    >>> tuple(combine_masks(causal_mask(3), padding_mask(ids), None).shape)
    (1, 1, 3, 3)
    """
    combined = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else ops.logical_and(combined, mask)
    return combined


def segment_mask(query_segments, key_segments):
    """Which keys belong to the segment of each query, where several sequences share a line.

    Args:
        query_segments: (B, T) integers: the number of the segment at each position, 0 at padding.
        key_segments: (B, S) likewise.

    Returns:
        (B, 1, T, S) boolean; True = may attend. Padding attends to nothing.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import segment_mask
    >>> np.asarray(segment_mask(np.array([[1, 2, 0]]), np.array([[1, 1, 2]])))[0, 0].tolist()
    [[True, True, False], [False, False, True], [False, False, False]]

    Reference: Raffel et al. 2020, section 3.1.1 (packing).
    """
    queries = ops.convert_to_tensor(query_segments)[:, None, :, None]
    keys = ops.convert_to_tensor(key_segments)[:, None, None, :]
    return ops.logical_and(ops.equal(queries, keys), ops.not_equal(queries, 0))


def segment_positions(segments):
    """The place of each position in its segment: 0, 1, 2 and so on, from 0 again in the next.

    Args:
        segments: (B, T) integers, those of a segment side by side.

    Returns:
        (B, T) integers.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import segment_positions
    >>> np.asarray(segment_positions(np.array([[1, 1, 2, 2, 2]]))).tolist()
    [[0, 1, 0, 1, 2]]
    """
    segments = ops.convert_to_tensor(segments)
    same = ops.equal(segments[:, :, None], segments[:, None, :])  # (B, T, T)
    earlier = ops.logical_and(same, causal_mask(ops.shape(segments)[1])[0])
    return ops.sum(ops.cast(earlier, "int32"), axis=-1) - 1


def with_head_axis(mask):
    """A mask as attention takes it, on four axes: (T, S) or (B, T, S), as in keras.layers.MultiHeadAttention, or four already.

    Args:
        mask: boolean, or None.

    Returns:
        A boolean tensor broadcastable to (B, H, T, S), or None.

    Raises:
        ValueError: the mask has one axis, or more than four.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers.masking import with_head_axis
    >>> tuple(with_head_axis(np.ones((2, 3, 5), bool)).shape)
    (2, 1, 3, 5)
    """
    if mask is None:
        return None
    mask = ops.convert_to_tensor(mask)
    axes = len(mask.shape)
    if axes not in (2, 3, 4):
        raise ValueError(
            f"An attention mask is (T, S), (B, T, S) or broadcastable to (B, H, T, S). Received: shape {tuple(mask.shape)}. "
            "For a row of keys (B, S) give mask[:, None, None, :]; see padding_mask."
        )
    return mask if axes == 4 else ops.expand_dims(mask, 1) if axes == 3 else mask[None, None]
