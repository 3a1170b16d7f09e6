"""Limit: an end in time, without a look at the device for each batch."""

import time
from types import SimpleNamespace

import keras
import pytest
from small_model import INPUTS, LABELS, make_model

import keras_transformer as kt
from keras_transformer.callbacks import Limit


@pytest.fixture
def model():
    """With four batches an epoch."""
    model = make_model(dropout=0.0)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def fit(model, *callbacks, epochs=1):
    return model.fit(INPUTS, LABELS, batch_size=2, epochs=epochs, callbacks=list(callbacks), verbose=0).history


def test_limit_counts_updates_and_not_micro_batches(model):
    model.compile(optimizer=kt.AccumulateGradients(keras.optimizers.SGD(0.1), steps=3))
    batch_count = []
    count = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: batch_count.append(batch))
    fit(model, Limit(updates=2), count, epochs=9)
    assert int(model.optimizer.iterations) == 2
    assert len(batch_count) == 6
    assert model.stop_training is True


def test_limit_looks_seldom_and_in_time():
    """A model of which every third batch makes an update, 100 wanted."""
    looks, limit = [], Limit(updates=100)
    model = SimpleNamespace(stop_training=False, steps_per_execution=1, optimizer=SimpleNamespace(iterations=0))
    limit.set_model(model)
    look = limit._look
    limit._look = lambda: (looks.append(batch), look())
    batch = 0
    limit.on_train_begin()
    while not model.stop_training:
        limit.on_train_batch_begin(batch)
        batch += 1
        model.optimizer.iterations = batch // 3
    assert batch == 300
    assert len(looks) < 25
    limit.on_train_end()
    assert model.stop_training is True


def test_two_limits_hold_both(model):
    fit(model, Limit(updates=2), Limit(minutes=60), epochs=9)
    assert int(model.optimizer.iterations) == 2
    fit(model, Limit(updates=10**6))
    assert model.stop_training is False


def test_time_limit(model):
    class Slow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.05)

    fit(model, Slow(), Limit(minutes=0.1 / 60), epochs=1000)
    assert 1 <= int(model.optimizer.iterations) <= 3


@pytest.mark.parametrize("arguments", [{"minutes": 0}, {"updates": -1}, {"minutes": "1"}])
def test_limits_that_cannot_be(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"{name} must be a positive number, or None. Received: {name}={value!r}"):
        Limit(**arguments)
