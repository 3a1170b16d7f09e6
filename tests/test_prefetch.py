"""Prefetching asks ahead, in the order of the plan, and begins anew after a jump."""

import collections

import keras
import pytest

from keras_transformer.text.prefetch import Prefetch

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")


class Echo:
    """Workers that answer at once with what they were asked."""

    def __init__(self, number):
        self.pids, self.asked, self.waiting = list(range(number)), [], collections.deque()
        self.closed = False

    outstanding = property(lambda self: len(self.waiting))

    def ask(self, request):
        self.asked.append(request)
        self.waiting.append(request)

    def next(self):
        return self.waiting.popleft()

    def close(self):
        self.closed = True


PLAN = list("abcdefghijklmnopqrst")


@pytest.mark.parametrize("number", [1, 3])
def test_the_next_batches_are_under_way(number):
    workers = Echo(number)
    prefetch = Prefetch(workers)
    for place in range(len(PLAN)):
        assert prefetch.get(PLAN, place, PLAN.__getitem__) == PLAN[place]
        assert len(workers.asked) == min(place + 4 * number, len(PLAN))
    assert workers.asked == PLAN  # each once


def test_after_a_jump_nothing_old_is_served():
    workers = Echo(2)
    prefetch = Prefetch(workers)
    assert [prefetch.get(PLAN, place, PLAN.__getitem__) for place in (0, 1, 10, 11, 3)] == ["a", "b", "k", "l", "d"]
    other = PLAN[::-1]  # the next epoch, at the place that would have come
    assert prefetch.get(other, 4, other.__getitem__) == other[4]


def test_closing_ends_the_workers():
    workers = Echo(1)
    Prefetch(workers).close()
    assert workers.closed
