"""The rows of ids that checks feed to a model: random words, the same at each call."""

import contextlib

import numpy as np
from keras import ops

from keras_transformer.testing.adapter import ROWS


def source_and_target(subject, rows=ROWS, lengths=None, seed=0):
    """Rows of words: source (rows, S) ends with eos, target (rows, T) begins with bos; no padding. ``lengths``: other S and T."""
    generator = np.random.default_rng(seed)
    lengths = lengths or (subject.source_length, subject.target_length)
    source, target = (generator.choice(subject.words, (rows, length)).astype("int32") for length in lengths)
    source[:, -1] = subject.eos_id
    target[:, 0] = subject.bos_id
    return source, target


def some_labels(subject, seed=0):
    """Labels (ROWS, T) of words, which end with eos; no padding."""
    return source_and_target(subject, lengths=(subject.target_length, 1), seed=seed)[0]


def uneven(subject, source, target, fewest=0):
    """The same with ``fewest`` or three ids of padding at the end of a row: (source, target, lengths of both, each (rows,)).

    Which rows have which is a row of no period, so that no mask of another row fits; the first row has most.
    """
    source, target = source.copy(), target.copy()
    rows = np.arange(len(source))
    few = np.array([index.bit_count() % 2 == 1 for index in rows.tolist()])  # Thue and Morse's
    lengths = [ids.shape[1] - np.where(few, fewest, min(3, ids.shape[1] - 2)) for ids in (source, target)]
    source[rows, lengths[0] - 1] = subject.eos_id
    for ids, length in zip((source, target), lengths, strict=True):
        ids[np.arange(ids.shape[1]) >= length[:, None]] = subject.pad_id
    return source, target, *lengths


def with_an_empty_source(subject, seed=0):
    """Rows padded unevenly, the last of which has a source of padding alone."""
    source, target, _, _ = uneven(subject, *source_and_target(subject, seed=seed))
    source[-1] = subject.pad_id
    return source, target


@contextlib.contextmanager
def moved_weights(model, size=0.05):
    """Within, all weights that are trained are a little elsewhere: a branch that begins at zero (ReZero, LoRA) is open there."""
    before = model.get_weights()
    generator = np.random.default_rng(0)
    try:
        for variable in model.trainable_variables:
            values = np.asarray(ops.convert_to_numpy(variable), "float32")
            spread = size * max(float(np.sqrt(np.mean(values**2))), 0.2)
            variable.assign(values + spread * generator.normal(size=values.shape).astype("float32"))
        yield
    finally:
        model.set_weights(before)


def other_words(subject, ids):
    """For each id another word than it."""
    words = subject.words
    first, second = words[0], words[1]
    return np.where(ids == first, second, first)


def repeated(row, rows=ROWS):
    """One row (L,) as (rows, L)."""
    return np.repeat(row[None], rows, axis=0)
