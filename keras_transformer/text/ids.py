"""Ids on the host: checked before a backend sees them, and cut down to those of text after one gave them.

What a wrong id does depends on the backend: TensorFlow and PyTorch stop deep inside a step, JAX trains on with NaN,
and -1, 2**33 + 1 or 1.9 pass silently for other words. So one check stands where text becomes batches and where
batches enter a model.
"""

import numpy as np


def check_ids(ids, vocabulary_size: int, name: str = "ids") -> None:
    """Raises unless every id is an integer in [0, vocabulary_size).

    Costs two passes over the array: microseconds for a batch.

    Args:
        ids: integers of any shape, usually (B, S); a NumPy array or anything NumPy reads as one.
        vocabulary_size: V.
        name: what the ids are, for the message.

    Raises:
        ValueError: the ids are not integers, or one lies outside the vocabulary; tells which one
            and where.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.text import check_ids
    >>> check_ids(np.array([[5, 6, 3]]), vocabulary_size=10, name="source")
    """
    try:
        ids = np.asarray(ids)
    except ValueError:
        raise ValueError(
            f"{name} cannot be read as one array. Expected rows of equal length; fill short rows up with pad_id."
        ) from None
    if ids.size == 0:
        return
    if ids.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be integers. Received: dtype {ids.dtype}, beginning with {ids.flat[:1].tolist()[0]!r}. "
            'Convert whole numbers with .astype("int32").'
        )
    if ids.min() >= 0 and ids.max() < vocabulary_size:
        return
    where = np.unravel_index(np.argmax((ids < 0) | (ids >= vocabulary_size)), ids.shape)
    raise ValueError(
        f"{name} contain the id {ids[where]}{_place(where)}. Expected ids from 0 to {vocabulary_size - 1} (the "
        f"vocabulary has {vocabulary_size}). Use the tokenizer the model was made for, or make the model with a "
        "larger vocabulary_size."
    )


def is_batch(ids) -> bool:
    """Whether these are rows of ids, an array (B, T) or a list of rows, and not one row (T,)."""
    if hasattr(ids, "ndim"):
        return ids.ndim == 2
    return isinstance(ids, list | tuple) and len(ids) > 0 and hasattr(ids[0], "__len__")


def text_ids(row, eos_id: int, special_ids) -> list[int]:
    """The ids of a row that stand for text: those before the first eos, without special ones.

    Args:
        row: (T,) integers.
        eos_id: what ends the text.
        special_ids: what is left out of it, such as pad and bos.

    Example:

    >>> from keras_transformer.text.ids import text_ids
    >>> text_ids([2, 7, 8, 3, 9, 0], eos_id=3, special_ids=(0, 2))
    [7, 8]
    """
    row = np.asarray(row)
    ends = np.flatnonzero(row == eos_id)
    row = row[: ends[0]] if ends.size else row
    return row[~np.isin(row, special_ids)].tolist()


def _place(where: tuple) -> str:
    where = tuple(int(index) for index in where)
    if not where:
        return ""
    if len(where) == 2:
        return f" at row {where[0]}, column {where[1]}"
    return f" at position {where[0] if len(where) == 1 else where}"
