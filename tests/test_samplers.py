"""The samplers here stand in for keras-nlp's, whose import takes long; test_keras_nlp.py has those."""

import keras
import numpy as np
import pytest
from keras import ops
from test_search import BOS, MODEL, PAD, SOURCE, TableModel, tokens_of

from keras_transformer.decoding import BeamSearch, GreedySearch, Rules, SamplerSearch, sampler_search


class Sampler:
    """What keras-nlp's base class offers."""

    temperature = 1.0
    variables = ()

    def __call__(self):
        raise AssertionError("its loop is not used")

    def compute_probabilities(self, logits):
        return ops.softmax(logits / self.temperature)

    def get_next_token(self, probabilities):
        raise NotImplementedError


class Greedy(Sampler):
    def get_next_token(self, probabilities):
        return ops.argmax(probabilities, axis=-1)


class Random(Sampler):
    def __init__(self, seed):
        self.generator = keras.random.SeedGenerator(seed)
        self.variables = [self.generator.state]

    def get_next_token(self, probabilities):
        return keras.random.categorical(ops.log(probabilities), 1, seed=self.generator, dtype="int32")[:, 0]


class Contrastive(Sampler):
    def __call__(self):
        pass


class Beam(Contrastive):
    num_beams, return_all_beams = 3, True


def test_greedy_is_greedy_search():
    rules = Rules(banned=(4,))
    ids, scores = SamplerSearch(MODEL, Greedy(), rules=rules)(SOURCE)
    expected_ids, expected_scores = GreedySearch(MODEL, rules=rules)(SOURCE)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


def test_draws_follow_the_probabilities_and_the_seed():
    """Four tokens of probabilities 0.1 to 0.4 at every step: new draws each step and each call, the same for a seed."""
    logits = np.full((1, 8), -1e4)
    logits[0, 4:] = np.log([0.1, 0.2, 0.3, 0.4])
    model, source = TableModel(logits), np.full((40, 2), 5)
    search, again = (SamplerSearch(model, Random(seed=3), rules=Rules(length_ratio=(0, 20))) for _ in range(2))
    (first, scores), (second, _) = search(source), search(source)
    np.testing.assert_array_equal(again(source)[0], first)
    assert (first != second).mean() > 0.5 and (first[:, 0, 1:] != first[:, 0, :-1]).mean() > 0.5
    shares = np.bincount(first.ravel(), minlength=8)[4:] / first.size
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.3, 0.4], atol=0.06)  # 800 draws: four standard deviations
    np.testing.assert_allclose(scores[:, 0], np.log([0.1, 0.2, 0.3, 0.4])[first[:, 0] - 4].sum(axis=1), rtol=1e-5)


def test_a_beam_sampler_is_a_beam_search_without_length_penalty():
    search = sampler_search(Beam(), MODEL, max_length=6)
    assert type(search) is BeamSearch
    ids, scores = search(SOURCE)
    expected_ids, expected_scores = BeamSearch(MODEL, 3, 0.0, max_length=6)(SOURCE)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(scores, expected_scores)
    assert type(sampler_search(Greedy(), MODEL)) is SamplerSearch


def test_what_cannot_work_is_refused():
    hot = Beam()
    hot.temperature = 2.0
    for sampler, message in (
        (Contrastive(), "Contrastive has a loop of its own"),
        (Sampler(), "Sampler does not say how a token is chosen"),
        (hot, "BeamSampler with a temperature"),
        (None, "sampler must be one of keras-nlp. Received: NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler_search(sampler, MODEL)


def test_numbers_that_are_none_raise():
    with pytest.raises(ValueError, match=r"not finite for source rows \[0\]"):
        SamplerSearch(TableModel(np.full((1, 7), np.nan)), Random(seed=1))(np.array([[5, 3]]))


def test_rules_and_limits_hold():
    ids, _ = SamplerSearch(MODEL, Random(seed=1), max_length=5, rules=Rules(min_length=5))(SOURCE)
    assert [len(tokens_of(row[0])) for row in ids] == [5, 5, 5] and not np.isin(ids, [PAD, BOS]).any()
