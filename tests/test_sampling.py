import numpy as np
import pytest
from test_search import PAD, SOURCE, TableModel, log_softmax, tiny_model

from keras_transformer.decoding import Rules, Sampling

LOGITS = np.array([[3.0, 0, 3, 1, 2, 0.5, 1.5, -1]])  # pad and bos are likely, and not to be drawn
ALLOWED = [1, 3, 4, 5, 6, 7]


def expected_tokens(uniforms, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """What each uniform number draws, by the docstring's words, in float64."""
    log_probabilities = log_softmax(LOGITS[0])[ALLOWED] / temperature
    order = np.argsort(-log_probabilities, kind="stable") if top_k or top_p < 1 else np.arange(len(ALLOWED))
    order = order[: top_k or None]
    p = np.exp(log_probabilities[order]) / np.exp(log_probabilities[order]).sum()
    p = np.where(np.cumsum(p) - p < top_p, p, 0)
    p = np.where(p >= min_p * p.max(), p, 0)
    bounds = np.cumsum(p) / p.sum()
    return np.array(ALLOWED)[order][np.searchsorted(bounds, uniforms, side="right")]


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.6}, {"temperature": 1.5, "top_k": 5, "top_p": 0.9, "min_p": 0.3}],
)
def test_draws_are_those_of_the_numbers_from_the_host(options):
    """So they are equal on all backends; and over many draws the frequencies are the probabilities."""
    search = Sampling(TableModel(LOGITS), samples=2000, seed=5, max_length=1, **options)
    ids, scores = search(np.array([[5, 3]]))
    uniforms = np.random.Generator(np.random.Philox(key=5, counter=[0, 0, 0, 0])).random((2000, 1), "float32")[:, 0]
    expected = expected_tokens(uniforms, **options)
    assert (ids[0, :, 0] != expected).sum() <= 1  # a number may lie within rounding of a bound
    np.testing.assert_allclose(scores[0], log_softmax(LOGITS[0])[ids[0, :, 0]], atol=1e-5)


def test_a_sentence_draws_by_its_key_whatever_the_batch():
    """Its order, and its padding: without max_length the longest source says how many numbers are drawn."""
    search = Sampling(tiny_model(), samples=2, temperature=3.0, seed=3, rules=Rules(length_ratio=(1, 1)))
    ids, scores = search(SOURCE)
    assert ids.shape == (3, 2, 6) and len({tuple(row) for row in ids.reshape(6, 6).tolist()}) > 2
    padded = np.pad(SOURCE[[2, 0, 1]], ((0, 0), (0, 4)))
    other_ids, other_scores = search(padded, keys=[2, 0, 1])
    np.testing.assert_array_equal(other_ids[:, :, :6], ids[[2, 0, 1]])
    np.testing.assert_allclose(other_scores, scores[[2, 0, 1]], rtol=1e-5)
    assert not np.array_equal(search(SOURCE, keys=[7, 8, 9])[0], ids)
    for keys in ([1, 2], [1, 2, -1], [0.5, 1, 2]):
        with pytest.raises(ValueError, match="keys must be 3 integers from 0, one a row"):
            search(SOURCE, keys=keys)


def test_samples_obey_the_rules_and_end():
    search = Sampling(TableModel(LOGITS), samples=50, rules=Rules(min_length=2, banned=(4,)))
    ids, _ = search(np.array([[5, 3]]))
    for row in ids[0]:
        tokens = row[row != PAD].tolist()
        assert 4 not in tokens and 3 not in tokens[:2]
        assert (tokens[-1] == 3 and 3 not in tokens[:-1]) or len(tokens) == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be an integer from 1"),
        ({"temperature": 0}, "temperature must be a number from 0.001"),
        ({"top_k": -1}, "top_k must be an integer from 0"),
        ({"top_p": 0}, "top_p must be a number from"),
        ({"min_p": 2}, "min_p must be a number from 0 to 1"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sampling(TableModel(LOGITS), **arguments)
