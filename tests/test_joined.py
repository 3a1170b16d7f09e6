"""Rows and texts of several corpora are numbered through, wherever each keeps its own."""

import pickle

import keras
import numpy as np
import pytest

from keras_transformer.text.joined import JoinedRows, JoinedTexts
from keras_transformer.text.rows import Rows, Texts

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
ROWS = [[5, 3], [6, 6, 3], [7, 3], [8, 8, 8, 3], [3], [9, 3]]


def joined():
    return JoinedRows([Rows.of(ROWS[:2]), Rows.of(ROWS[2:3]), Rows.of(ROWS[3:])], [2, 1, 3])


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 1, 5], [2]])
def test_rows_in_any_order_from_any_corpus(numbers):
    for rows in (joined(), pickle.loads(pickle.dumps(joined()))):
        ids, begins, lengths = rows.take(np.array(numbers))
        assert [ids[b : b + n].tolist() for b, n in zip(begins, lengths, strict=True)] == [ROWS[n] for n in numbers]
        assert len(ids) == sum(len(ROWS[n]) for n in numbers)  # no more than was asked for
    assert joined().lengths.tolist() == list(map(len, ROWS))


def test_lines_of_two_corpora_are_never_the_same():
    texts = JoinedTexts([Texts(["a", "ä"], [1, 4]), Texts(["b"], [4])], [2, 1])
    assert [texts.text(n) for n in range(3)] == ["a", "ä", "b"]
    assert [texts.line(n) for n in range(3)] == [1, 4, 2**40 + 4]
