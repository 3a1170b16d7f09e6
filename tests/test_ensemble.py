import numpy as np
import pytest
from test_search import BOS, MODEL, SOURCE, log_softmax, tiny_model, tokens_of, uncached

from keras_transformer.decoding import BeamSearch, Ensemble, ForcedDecoding, Rules


def test_scores_are_of_the_mean_probability():
    models = [MODEL, tiny_model(seed=7, d_model=16)]
    ensemble = Ensemble(models)
    ids, scores = BeamSearch(ensemble, 2, length_penalty=0.0, max_length=4)(SOURCE)
    target = np.pad(ids[:, 0, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    tables = [log_softmax(uncached(model, SOURCE, target)) for model in models]
    mean = np.log((np.exp(tables[0]) + np.exp(tables[1])) / 2)
    for row, found, score in zip(mean, ids[:, 0], scores[:, 0], strict=True):
        tokens = tokens_of(found)
        np.testing.assert_allclose(score, row[range(len(tokens)), tokens].sum(), atol=1e-5)
    forced = ForcedDecoding(ensemble)(SOURCE, ids[:, 0])
    np.testing.assert_allclose(forced.log_probabilities.sum(axis=1), scores[:, 0], atol=1e-5)


def test_foreign_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"vocabulary_size of \[7, 8\]"):
        Ensemble([MODEL, tiny_model(vocabulary_size=8)])
    with pytest.raises(ValueError, match="coverage_penalty needs the attention of a single Transformer"):
        BeamSearch(Ensemble([MODEL]), 2, rules=Rules(coverage_penalty=0.1))
    with pytest.raises(ValueError, match="at least one model"):
        Ensemble([])
