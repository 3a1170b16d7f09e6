"""LearningRate: the rate of the last update, by the schedule's formula."""

import keras
import pytest
from small_training import fit, make_training

from keras_transformer.callbacks import LearningRate


def test_learning_rate_of_the_schedule():
    model, batches = make_training()
    history = fit(model, batches, [LearningRate()], epochs=2)
    updates = [len(batches), 2 * len(batches)]
    expected = [8**-0.5 * min(n**-0.5, n * 10**-1.5) for n in updates]
    assert history["learning_rate"] == pytest.approx(expected, rel=1e-5)
    assert int(model.optimizer.iterations) == updates[-1]


@pytest.mark.parametrize("steps", [None, 2])
def test_learning_rate_without_schedule_and_where_keras_accumulates(steps):
    model, batches = make_training()
    model.compile(optimizer=keras.optimizers.SGD(0.25, gradient_accumulation_steps=steps))
    assert fit(model, batches, [LearningRate()])["learning_rate"] == [0.25]
