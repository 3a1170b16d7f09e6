"""How often and in what order an epoch has its pairs."""

import collections

import keras
import numpy as np
import pytest

from keras_transformer.text.dealing import repeated, with_different_start

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
MEMBERS = np.arange(10, 30, dtype="int32")


def bits(epoch=0):
    return np.random.Philox(key=np.array([1, epoch], "uint64"))


def test_without_repeats_each_occurs_once():
    dealt = repeated(MEMBERS, None)
    assert dealt.number == 20 and dealt.of_epoch(bits(), shuffle=False).tolist() == MEMBERS.tolist()
    shuffled = [dealt.of_epoch(bits(epoch), shuffle=True).tolist() for epoch in (0, 0, 1)]
    assert shuffled[0] == shuffled[1] != shuffled[2] and sorted(shuffled[2]) == MEMBERS.tolist()
    assert dealt.total(np.full(20, 3)) == 60


def test_fractions_are_shared_out_and_the_length_of_an_epoch_stays():
    dealt = repeated(MEMBERS, np.array([1.0] * 10 + [2.3] * 10))
    assert dealt.number == 10 + 23 and dealt.total(np.ones(20)) == 33
    more = collections.Counter()
    for epoch in range(30):
        counts = collections.Counter(dealt.of_epoch(bits(epoch), shuffle=True).tolist())
        assert sum(counts.values()) == 33 and set(counts) == set(MEMBERS.tolist())
        assert all(counts[n] == 1 for n in range(10, 20)) and all(counts[n] in (2, 3) for n in range(20, 30))
        more.update(n for n in counts if counts[n] == 3)
    assert set(more) == set(range(20, 30))  # which are rounded up changes


class Shape:
    def __init__(self, source_length, target_length):
        self.source_length, self.target_length = source_length, target_length


@pytest.mark.parametrize(
    ("lengths", "differ"), [([(5, 5), (5, 7), (6, 7)], (0, 1)), ([(5, 5), (5, 8)], (1,)), ([(4, 4), (4, 4)], ())]
)
def test_the_first_two_differ_where_any_do_and_none_is_lost(lengths, differ):
    plan = [(Shape(*lengths[0]), number) for number in range(5)]
    plan += [(Shape(*pair), 5 + number) for number, pair in enumerate(lengths[1:])]
    dealt = with_different_start(plan)
    sizes = [(shape.source_length, shape.target_length) for shape, _ in dealt[:2]]
    assert all(sizes[0][side] != sizes[1][side] for side in differ)
    assert sorted(number for _, number in dealt) == list(range(len(plan)))
