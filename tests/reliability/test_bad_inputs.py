"""Ids and shapes that cannot be: one exception and one text on every backend, before a step."""

import numpy as np
import pytest

import keras_transformer as kt

GOOD = np.array([[5, 6, 3], [7, 8, 3]], "int32")


def wrong(value, dtype="int64"):
    ids = GOOD.astype(dtype)
    ids[1, 2] = value
    return ids


def contain(name, value):
    return (
        f"{name} contain the id {value} at row 1, column 2. Expected ids from 0 to 19 (the vocabulary has 20). Use the "
        f"tokenizer the "
        "model was made for, or make the model with a larger vocabulary_size."
    )


def integers(name, dtype, first):
    return f"{name} must be integers. Received: dtype {dtype}, beginning with {first}. Convert whole numbers with "


def axes(name, shape):
    return f"{name} must have two axes, rows and positions. Received: shape {shape}."


def dictionary(received):
    return f'The input must be a dict {{"source": (B, S), "target": (B, T)}} of integer ids. Received: {received}.'


SAME = "target and labels must have the same shape: labels are the target one position ahead. Received: target {}, labels {}."


def place(name, ids):
    """The three arrays of a batch, that one replaced."""
    arrays = {"source": GOOD, "target": GOOD, "labels": GOOD, name: ids}
    labels = arrays.pop("labels")
    return arrays, labels, None


WEIGHTS = "sample_weight does not fit labels (2, 3). Received: shape {}."
X = {"source": GOOD, "target": GOOD}
OUTSIDE = [(name, value) for name in ("source", "target", "labels") for value in (20, -1, -100, 2**33 + 1)]
CASES = [
    *((place(name, wrong(value)), contain(name, value)) for name, value in OUTSIDE),
    *(
        (place(name, wrong(1.9, "float64")), integers(name, "float64", "5.0"))
        for name in ("source", "target", "labels")
    ),
    *((place(name, GOOD[0]), axes(name, (3,))) for name in ("source", "target")),
    (place("source", GOOD[..., None]), axes("source", (2, 3, 1))),
    (place("source", np.array([["a"]])), integers("source", "<U1", "'a'")),
    (place("source", GOOD > 5), integers("source", "bool", "False")),
    (place("labels", GOOD[:, :2]), SAME.format((2, 3), (2, 2))),
    (place("labels", GOOD[:1]), SAME.format((2, 3), (1, 3))),
    (place("target", GOOD[:, :1]), SAME.format((2, 1), (2, 3))),
    ((GOOD, GOOD, None), dictionary("a ndarray")),
    (({"source": GOOD}, GOOD, None), dictionary("a dict of 'source'")),
    (({"target": GOOD}, GOOD, None), dictionary("a dict of 'target'")),
    (([GOOD, GOOD], GOOD, None), dictionary("a list")),
    ((X, None, None), "There are no labels to learn or to evaluate. Received: y=None."),
    ((X, GOOD, np.ones(3)), WEIGHTS.format((3,))),
    ((X, GOOD, np.ones((2, 2))), WEIGHTS.format((2, 2))),
    ((X, GOOD, np.ones((3, 2))), WEIGHTS.format((3, 2))),
]


@pytest.fixture(scope="module")
def model():
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1)
    model.compile()
    return model


def test_one_text_on_every_backend(model, figure):
    before = model.get_weights()
    for (x, y, sample_weight), message in CASES:
        with pytest.raises(ValueError) as error:
            model.train_on_batch(x, y, sample_weight)
        assert type(error.value) is ValueError
        assert str(error.value).startswith(message)
    assert len(CASES) >= 30
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    figure("ids and shapes that cannot be", len(CASES), "the same exception and text, before a step")
