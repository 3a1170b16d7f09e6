"""The rows of ids that checks feed to a model: random words, the same at each call."""

import contextlib

import numpy as np
from keras import ops

ROWS = 8


def source_and_target(subject, rows=ROWS, lengths=None, seed=0):
    """Rows of words: source (rows, S) ends with eos, target (rows, T) begins with bos; no padding. ``lengths``: other S and T."""
    generator = np.random.default_rng(seed)
    lengths = lengths or (subject.source_length, subject.target_length)
    source, target = (generator.choice(subject.words, (rows, length)).astype("int32") for length in lengths)
    source[:, -1] = subject.eos_id
    target[:, 0] = subject.bos_id
    return source, target


def uneven(subject, source, target, least=0):
    """The same with padding at the end, more or less of it in each row: (source, target, lengths of both, each (rows,))."""
    source, target = source.copy(), target.copy()
    rows = np.arange(len(source))
    removed = [np.minimum((rows + shift) % 4 + least, ids.shape[1] - 2) for shift, ids in ((2, source), (0, target))]
    source_lengths, target_lengths = source.shape[1] - removed[0], target.shape[1] - removed[1]
    source[rows, source_lengths - 1] = subject.eos_id
    source[np.arange(source.shape[1]) >= source_lengths[:, None]] = subject.pad_id
    target[np.arange(target.shape[1]) >= target_lengths[:, None]] = subject.pad_id
    return source, target, source_lengths, target_lengths


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
