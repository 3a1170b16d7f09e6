"""A model of a few weights and a batch for it, for the tests of what is around them."""

import numpy as np

import keras_transformer as kt

V = 13
SIZES = {"d_model": 8, "num_heads": 2, "num_layers": 1, "seed": 3}


def make_model(**kwargs):
    return kt.Transformer(V, **SIZES | kwargs)


def make_data(rows=7, length=6, seed=0):
    """Sources, targets that begin with bos and labels that end with eos, of several lengths."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, V, (rows, length), dtype="int32")
    ends = generator.integers(1, length, rows)
    labels[np.arange(length) == ends[:, None]] = 3
    labels[np.arange(length) > ends[:, None]] = 0
    target = np.concatenate([np.full((rows, 1), 2, "int32"), labels[:, :-1]], axis=1)
    target[labels == 0] = 0
    source = labels[:, ::-1].copy()
    source = np.stack([np.concatenate([row[row != 0], row[row == 0]]) for row in source])
    return {"source": source, "target": target}, labels


INPUTS, LABELS = make_data()
