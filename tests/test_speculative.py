import numpy as np
import pytest
from test_search import SOURCE, tiny_model

from keras_transformer.decoding import Ensemble, GreedySearch, SpeculativeSearch


def spread(model, seed=0):
    """Weights larger than the initial ones, so that tokens differ."""
    generator = np.random.default_rng(seed)
    model.set_weights([w + 0.5 * generator.normal(size=w.shape).astype("float32") for w in model.get_weights()])
    return model


LARGE = spread(tiny_model(vocabulary_size=12, num_layers=2))


@pytest.mark.parametrize(("draft", "drafted"), [("another model", 3), ("the same model", 3), ("the same model", 1)])
def test_translations_are_the_large_models_greedy_ones(draft, drafted):
    draft = LARGE if draft == "the same model" else spread(tiny_model(vocabulary_size=12, seed=4), seed=1)
    search = SpeculativeSearch(LARGE, draft, num_draft=drafted)
    ids, scores = search(SOURCE)
    expected_ids, expected_scores = GreedySearch(LARGE)(SOURCE)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)
    lengths = (ids[:, 0] != 0).sum(axis=1)
    assert (search.passes <= lengths).all()
    if draft is LARGE:  # all that is drafted is kept, and one token more a pass
        np.testing.assert_array_equal(search.passes, -(-lengths // (drafted + 1)))


def test_an_ensemble_with_a_draft():
    ensemble = Ensemble([LARGE, tiny_model(vocabulary_size=12, seed=4)])
    ids, _ = SpeculativeSearch(ensemble, LARGE, num_draft=2)(SOURCE[:1])
    np.testing.assert_array_equal(ids, GreedySearch(ensemble)(SOURCE[:1])[0])


def test_logits_that_are_none_raise():
    model = tiny_model()
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ValueError, match=r"not finite for source rows \[0, 1\]"):
        SpeculativeSearch(model, model, num_draft=1, max_length=2)(SOURCE[:2])


def test_what_it_does_not_take_is_refused():
    search = SpeculativeSearch(LARGE, LARGE)
    for arguments, message in (
        ([[[12, 3]]], "source contain the id 12"),
        ([np.zeros((0, 3), "int32")], "needs at least one sentence"),
        ([SOURCE, SOURCE], "forces no prefix. Take a GreedySearch"),
    ):
        with pytest.raises(ValueError, match=message):
            search(*arguments)


def test_foreign_vocabularies_are_refused():
    with pytest.raises(ValueError, match="vocabulary_size of 12 and 7"):
        SpeculativeSearch(LARGE, tiny_model())
    with pytest.raises(ValueError, match="num_draft must be an integer from 1"):
        SpeculativeSearch(LARGE, LARGE, num_draft=0)
