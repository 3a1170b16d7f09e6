import numpy as np
import pytest
from test_search import SOURCE, tiny_model

from keras_transformer.decoding import GreedySearch, SpeculativeSearch


def spread(model, seed=0):
    """Weights larger than the initial ones, so that tokens differ."""
    generator = np.random.default_rng(seed)
    model.set_weights([w + 0.5 * generator.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    return model


LARGE = spread(tiny_model(vocabulary_size=12, num_layers=2))


@pytest.mark.parametrize("draft", ["another model", "the same model"])
def test_translations_are_the_large_models_greedy_ones(draft):
    draft = LARGE if draft == "the same model" else spread(tiny_model(vocabulary_size=12, seed=4), seed=1)
    search = SpeculativeSearch(LARGE, draft, num_draft=3)
    ids, scores = search(SOURCE)
    expected_ids, expected_scores = GreedySearch(LARGE)(SOURCE)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)
    lengths = (ids[:, 0] != 0).sum(axis=1)
    assert (search.passes <= lengths).all()
    if draft is LARGE:  # all that is drafted is kept: four tokens a pass
        np.testing.assert_array_equal(search.passes, -(-lengths // 4))


def test_foreign_vocabularies_are_refused():
    with pytest.raises(ValueError, match="vocabulary_size of 12 and 7"):
        SpeculativeSearch(LARGE, tiny_model())
    with pytest.raises(ValueError, match="num_draft must be an integer from 1"):
        SpeculativeSearch(LARGE, LARGE, num_draft=0)
