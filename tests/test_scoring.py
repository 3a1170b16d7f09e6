import numpy as np
import pytest
from test_search import BOS, MODEL, PAD, SOURCE, log_softmax, tiny_model, uncached

from keras_transformer.decoding import BeamSearch, ForcedDecoding

LABELS = np.array([[5, 6, 6, 3], [4, 3, 0, 0], [6, 5, 4, 5]], dtype="int32")
FORCED = ForcedDecoding(MODEL)


def test_log_probabilities_are_those_of_the_model_as_trained():
    target = np.pad(LABELS[:, :-1], ((0, 0), (1, 0)), constant_values=BOS)
    table = log_softmax(uncached(MODEL, SOURCE, target))
    expected = np.take_along_axis(table, LABELS[:, :, None], axis=2)[:, :, 0] * (LABELS != PAD)
    forced = FORCED(SOURCE, LABELS)
    np.testing.assert_allclose(forced.log_probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(forced.attention.sum(axis=2), 1, atol=1e-5)
    assert (forced.attention[1, :, 2:] == 0).all()


def test_scores_of_a_search_are_sums_of_forced_decoding():
    ids, scores = BeamSearch(MODEL, 2, length_penalty=0.0, max_length=4)(SOURCE)
    for hypothesis in range(2):
        forced = FORCED(SOURCE, ids[:, hypothesis])
        np.testing.assert_allclose(forced.log_probabilities.sum(axis=1), scores[:, hypothesis], atol=1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_maps_of_all_layers_and_heads(norm):
    model = MODEL if norm == "post" else tiny_model(norm=norm, num_layers=2)
    layers = model.num_layers
    maps = ForcedDecoding(model).maps(SOURCE[:1], LABELS[:1])
    shapes = {"encoder": (layers, 1, 2, 5, 5), "decoder": (layers, 1, 2, 4, 4), "cross": (layers, 1, 2, 4, 5)}
    assert {name: x.shape for name, x in maps.items()} == shapes
    for weights in maps.values():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert (np.triu(maps["decoder"][0, 0, 0], 1) == 0).all()


def test_weights_that_are_not_finite_raise():
    model = tiny_model()
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ValueError, match="logits are not finite"):
        ForcedDecoding(model).maps(SOURCE[:1], LABELS[:1])
    with pytest.raises(ValueError, match="not finite for source rows"):
        ForcedDecoding(model)(SOURCE, LABELS)
