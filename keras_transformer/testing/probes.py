"""The rows of ids that checks feed to a model: random words, the same at each call."""

import numpy as np

ROWS, LENGTH = 8, 8


def source_and_target(subject, rows=ROWS, length=LENGTH, seed=0):
    """Rows of words: source (rows, length) ends with eos, target (rows, length) begins with bos; no padding."""
    generator = np.random.default_rng(seed)
    source, target = generator.choice(subject.words, (2, rows, length)).astype("int32")
    source[:, -1] = subject.eos_id
    target[:, 0] = subject.bos_id
    return source, target


def other_words(subject, ids):
    """For each id another word than it."""
    words = subject.words
    first, second = words[0], words[1]
    return np.where(ids == first, second, first)


def repeated(row, rows=ROWS):
    """One row (L,) as (rows, L)."""
    return np.repeat(row[None], rows, axis=0)
