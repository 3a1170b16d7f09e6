"""The captured steps of PyTorch. Elsewhere loops are compiled, which all other tests of searches show."""

import keras
import numpy as np
import pytest
from test_samplers import Random
from test_search import MODEL, PAD, SOURCE, TableModel, tiny_model

from keras_transformer import backend_decoding
from keras_transformer.backend_decoding import next_size
from keras_transformer.decoding import (
    BeamSearch,
    ConstrainedBeamSearch,
    GreedySearch,
    Rules,
    SamplerSearch,
    Sampling,
    SpeculativeSearch,
)
from keras_transformer.decoding import loop as loop_module

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="captures are PyTorch's")

RULES = Rules(min_length=2, no_repeat_ngram=2, repetition_penalty=1.2, banned=(4, (5, 6)), coverage_penalty=0.2)
SEARCHES = {
    "greedy": lambda: GreedySearch(MODEL),
    "beam under rules": lambda: BeamSearch(MODEL, 3, rules=RULES),
    "constrained": lambda: ConstrainedBeamSearch(MODEL, 3),
    "sampling": lambda: Sampling(MODEL, samples=2, top_p=0.9),
    "speculative": lambda: SpeculativeSearch(MODEL, tiny_model(seed=5), num_draft=2),
}


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(backend_decoding, "_STEPS_BEFORE_CAPTURE", 0)


def test_sizes_are_few_and_waste_at_most_a_third():
    sizes = sorted({next_size(count, smallest=8) for count in range(1, 2000)})
    assert sizes[:8] == [8, 12, 16, 24, 32, 48, 64, 96]
    assert len(sizes) == 17  # two for each doubling of 8 to 2048
    for count in range(9, 2000):
        assert count <= next_size(count, smallest=8) < count * 1.5
    assert [next_size(count, smallest=16) for count in (1, 17)] == [16, 24]


@pytest.mark.parametrize("kind", SEARCHES)
def test_captured_steps_find_the_same(kind, monkeypatch):
    """While sentences leave the batch and the cache grows."""
    for name, value in (("_ROOM", 8), ("_SHRINK", 2), ("_SMALLEST", 2)):
        monkeypatch.setattr(loop_module, name, value)
    source = np.random.default_rng(0).integers(4, 7, (6, 6), dtype="int32")
    source[np.arange(6) > 2, 2:] = PAD
    expected_ids, expected_scores = SEARCHES[kind]()(source)
    monkeypatch.setattr(backend_decoding, "_STEPS_BEFORE_CAPTURE", 0)
    captured = []
    monkeypatch.setattr(
        backend_decoding, "next_size", lambda count, smallest: captured.append(count) or -(-count // 4) * 4
    )
    search = SEARCHES[kind]()
    for _ in range(2):
        ids, scores = search(source)
        np.testing.assert_array_equal(ids, expected_ids)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    assert captured


def test_weights_that_change_are_used(at_once):
    model = tiny_model()
    search = GreedySearch(model)
    before, _ = search(SOURCE)
    model.set_weights([w[::-1] for w in model.get_weights()])
    after, _ = search(SOURCE)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(after, GreedySearch(model)(SOURCE)[0])


def test_a_step_that_looks_at_a_number_stays_as_it_is(at_once):
    """A sampler's generator is seeded by a number: captured, every step would draw the same."""
    logits = np.full((1, 8), -1e4)
    logits[0, 4:] = 0
    model = TableModel(logits)
    model.variables = (keras.Variable(np.zeros(1)),)
    ids, _ = SamplerSearch(model, Random(seed=3), rules=Rules(length_ratio=(0, 20)))(np.full((10, 2), 5))
    assert (ids[:, 0, 1:] != ids[:, 0, :-1]).mean() > 0.5
