"""FiniteGuard's arguments and words; that numbers gone bad are left out is in tests/reliability/test_numbers.py."""

import keras
import numpy as np
import pytest
from small_model import make_data, make_model

import keras_transformer as kt
from keras_transformer.callbacks import FiniteGuard
from keras_transformer.checkpoints import NonFiniteError

INPUTS, LABELS = make_data(rows=48)


class Rows(keras.utils.PyDataset):
    """Two batches of 24 rows, all bad."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rows = slice(24 * index, 24 * index + 24)
        weights = np.full((24, 6), np.nan, "float32")
        return {name: ids[rows] for name, ids in INPUTS.items()}, LABELS[rows], weights

    def lines(self, epoch, index):
        return list(range(100 * index + 1, 100 * index + 25))


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr("keras_transformer.inputs._check_weights", lambda *_: None)  # the host would refuse them
    model = make_model(dropout=0.0)
    model.compile(kt.SkipNonFinite(keras.optimizers.SGD(0.1)))
    return model


def told(model, guard, **kwargs):
    with pytest.raises(NonFiniteError) as error:
        model.fit(Rows(), callbacks=[guard], verbose=0, **kwargs)
    return str(error.value)


def test_twenty_lines_are_shown_and_the_others_counted(model):
    message = told(model, FiniteGuard(patience=2, every=1), shuffle=False)
    assert "The gradients of 2 steps in a row, from step 1 on, are not finite." in message
    shown = ", ".join(map(str, range(1, 21)))
    assert f"The batch of the first, number 0 of epoch 1, holds lines {shown} and 4 more. " in message


def test_lines_that_cannot_be_known_are_not_told(model):
    """Keras shuffles: the number of a batch is not its place. And a row of bad steps may have begun an epoch before."""
    assert "holds lines" not in told(model, FiniteGuard(patience=2, every=1))
    message = told(model, FiniteGuard(patience=3, every=1), epochs=2, shuffle=False)
    assert "The gradients of 3 steps in a row, from step " in message and "holds lines" not in message


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"every": 0}, {"patience": 1.5}])
def test_arguments_that_cannot_be(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} must be an integer from 1. Received: {name}={value}"):
        FiniteGuard(**arguments)


def test_data_given_by_hand_stay():
    given, taken = FiniteGuard(data="given"), FiniteGuard()
    for guard in (given, taken):
        guard.set_data("first")
        guard.set_data("second")
    assert (given.data, taken.data) == ("given", "second")
