"""Dropout: what it gives, and that its bits are as random as those of a fair coin."""

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy, check_layer
from numpy_oracle import value_and_gradient

from keras_transformer.layers import Dropout

SHAPE = (64, 50, 40)


def kept(layer, shape=SHAPE):
    return as_numpy(layer(np.ones(shape, "float32"), training=True)) > 0


def deviations(count, trials, probability):
    """How many standard deviations counts of successes lie from what a coin of that probability gives."""
    return np.abs(count - trials * probability) / np.sqrt(trials * probability * (1 - probability))


def test_keeps_the_contract():
    x = np.ones((2, 3, 4), "float32")
    check_layer(lambda **kwargs: Dropout(0.5, **kwargs), (x,), [], (2, 3, 4))


@pytest.mark.parametrize("shape", [(7,), (3, 5, 1), (0, 4), (2, 3, 4, 5)])
def test_is_nothing_outside_training_and_at_rate_0(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    np.testing.assert_array_equal(as_numpy(Dropout(0.5, seed=1)(x)), x)
    np.testing.assert_array_equal(as_numpy(Dropout(0.0, seed=1)(x, training=True)), x)
    assert tuple(Dropout(0.5, seed=1)(x, training=True).shape) == shape


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_the_rate_holds_and_the_rest_is_scaled(rate):
    layer = Dropout(rate, seed=3)
    output = np.stack([as_numpy(layer(np.full(SHAPE, 2.0, "float32"), training=True)) for _ in range(10)])
    np.testing.assert_allclose(np.unique(output), [0.0, 2.0 / (1 - rate)], rtol=1e-6)
    assert deviations((output > 0).sum(), output.size, 1 - rate) < 4


def test_gradient_passes_where_elements_are_kept():
    x = np.random.default_rng(0).normal(size=(8, 9)).astype("float32")
    _, gradient = value_and_gradient(lambda x: ops.sum(Dropout(0.25, seed=5)(x, training=True)), x)
    output = as_numpy(Dropout(0.25, seed=5)(x, training=True))
    np.testing.assert_allclose(as_numpy(gradient), np.where(output != 0, 1 / 0.75, 0.0), rtol=1e-6)


def test_seed_and_state_decide():
    one, same, other = Dropout(0.5, seed=1), Dropout(0.5, seed=1), Dropout(0.5, seed=2)
    first = kept(one)
    np.testing.assert_array_equal(first, kept(same))
    for mask in (kept(one), kept(other)):  # the next draw; another layer
        assert deviations((mask == first).sum(), mask.size, 0.5) < 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_elements_are_dropped_independently_along_each_axis(axis):
    """Along each axis, and between neighbours on it, elements are kept independently."""
    masks = np.stack([kept(Dropout(0.5, seed=seed)) for seed in range(4)])
    for counts in (masks, masks == np.roll(masks, 1, axis + 1)):
        counts = np.moveaxis(counts, axis + 1, 0).reshape(SHAPE[axis], -1)
        assert deviations(counts.sum(1), counts.shape[1], 0.5).max() < 5


def test_patterns_of_eight_neighbours_are_equally_frequent():
    patterns = np.packbits(np.concatenate([kept(Dropout(0.5, seed=seed)).reshape(-1) for seed in range(4)]))
    frequencies = np.bincount(patterns, minlength=256)
    expected = patterns.size / 256
    chi_square = ((frequencies - expected) ** 2 / expected).sum()  # 255 degrees of freedom: mean 255, deviation 22.6
    assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6


def test_layers_with_neighbouring_seeds_are_independent_at_every_shift():
    """Also where the index of one is that of the other with some bits flipped."""
    one, other = (kept(Dropout(0.5, seed=seed), (4096,)) for seed in (10, 11))
    agreement = np.array([(one == other[np.arange(4096) ^ shift]).sum() for shift in range(4096)])
    assert deviations(agreement, 4096, 0.5).max() < 6


def test_compute_dtype():
    output = Dropout(0.5, seed=1, dtype="mixed_bfloat16")(np.ones((2, 3), "float32"), training=True)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"


def test_noise_shape_is_kept():
    output = as_numpy(Dropout(0.5, noise_shape=(None, 1), seed=1)(np.ones((50, 8), "float32"), training=True))
    assert (output == output[:, :1]).all()
    assert 0 < (output[:, 0] == 0).sum() < 50


def test_a_rate_of_one_drops_all_as_in_keras():
    assert not as_numpy(Dropout(1.0)(np.ones((2, 3), "float32"), training=True)).any()
