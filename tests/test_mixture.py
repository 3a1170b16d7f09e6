"""Shares of a mixture, by weight and by temperature; its batches: test_batches.py."""

import keras
import numpy as np
import pytest

from keras_transformer.text import Mixture

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
CORPORA = [(["a"], ["A"]), (["b"], ["B"]), (["c"], ["C"])]


def shares(mixture, sizes):
    pairs = [size * times for size, times in zip(sizes, mixture.repeats(sizes), strict=True)]
    return [number / sum(pairs) for number in pairs]


def test_without_weights_every_pair_occurs_once():
    assert Mixture(CORPORA).repeats([10, 200, 3000]) == [1, 1, 1]


def test_weights_are_shares_of_the_epoch_and_no_pair_is_left_out():
    mixture, sizes = Mixture(CORPORA, weights=[1, 1, 2]), [10, 200, 3000]
    assert shares(mixture, sizes) == pytest.approx([0.25, 0.25, 0.5])
    assert min(mixture.repeats(sizes)) == 1


def test_weights_may_be_an_array():
    assert shares(Mixture(CORPORA, weights=np.array([1, 1, 2])), [10, 200, 3000]) == pytest.approx([0.25, 0.25, 0.5])


@pytest.mark.parametrize("temperature", [1, 2, 5])
def test_temperature_evens_the_sizes_out(temperature):
    sizes = [10, 200, 3000]
    powers = [size ** (1 / temperature) for size in sizes]
    expected = [power / sum(powers) for power in powers]
    assert shares(Mixture(CORPORA, temperature=temperature), sizes) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (([],), "at least one corpus"),
        ((CORPORA, [1, 2]), "a weight for each corpus. Received: 2 for 3"),
        ((CORPORA, [1, 2, 0]), "Weights must be positive"),
        ((CORPORA, [1, 2, float("nan")]), "Weights must be positive"),
        ((CORPORA, None, 0.5), "temperature must be a number from 1"),
    ],
)
def test_impossible_mixtures_are_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        Mixture(*arguments)


def test_an_epoch_out_of_all_proportion_is_refused_with_its_size():
    assert Mixture(CORPORA[:2], weights=[1000, 1]).repeats([100, 100]) == [1000, 1]
    with pytest.raises(
        ValueError, match=r"would have 1,000,000,001 pairs, .*: 200 x 5,000,000, 1 x 1\. At most 201,000 are"
    ):
        Mixture(CORPORA[:2], weights=[1e9, 1]).repeats([200, 1])
    with pytest.raises(ValueError, match="would have inf pairs"):
        Mixture(CORPORA[:2], weights=[float("inf"), 1]).repeats([1, 1])
