import keras
import numpy as np
import pytest
from layer_contract import as_numpy
from numpy_oracle import softmax

import keras_transformer as kt
from keras_transformer.metrics import TokenLoss

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(6, 4, 5)).astype("float32") * 2.0
LABELS = GENERATOR.integers(1, 5, size=(6, 4)) * (np.arange(4) < np.array([4, 1, 2, 3, 1, 4])[:, None])
WEIGHTS = GENERATOR.uniform(size=(6, 4)).astype("float32")


def expected(kind, weights):
    weights = weights * (LABELS != 0)
    if kind is kt.TokenAccuracy:
        return ((LOGITS.argmax(-1) == LABELS) * weights).sum() / weights.sum()
    log_p = np.log(np.take_along_axis(softmax(LOGITS.astype("float64")), LABELS[..., None], axis=-1))[..., 0]
    return np.exp(-(log_p * weights).sum() / weights.sum())


def result(metric):
    return float(as_numpy(metric.result()))


KINDS = [kt.TokenAccuracy, kt.Perplexity]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("cuts", [[], [1], [2, 3], [1, 2, 3, 4, 5]])
def test_unequal_batches_give_the_same_as_one_big_batch(kind, weights, cuts):
    metric = kind()
    for rows in np.split(np.arange(6), cuts):
        metric.update_state(LABELS[rows], LOGITS[rows], sample_weight=None if weights is None else weights[rows])
    np.testing.assert_allclose(result(metric), expected(kind, 1.0 if weights is None else weights), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_state_forgets(kind):
    metric = kind()
    metric.update_state(LABELS, -LOGITS)
    metric.reset_state()
    metric.update_state(LABELS, LOGITS)
    np.testing.assert_allclose(result(metric), expected(kind, 1.0), rtol=1e-6)


@pytest.mark.parametrize(("kind", "value"), [(kt.TokenAccuracy, 0.0), (kt.Perplexity, 1.0)])
def test_without_a_token_the_result_is_finite(kind, value):
    metric = kind()
    assert result(metric) == value
    metric.update_state(np.zeros((6, 4), int), LOGITS)
    assert result(metric) == value


@pytest.mark.parametrize("kind", KINDS)
def test_another_pad_id(kind):
    metric = kind(pad_id=9)
    metric.update_state(
        np.where(LABELS == 0, 9, LABELS), np.pad(LOGITS, ((0, 0), (0, 0), (0, 5)), constant_values=-1e9)
    )
    np.testing.assert_allclose(result(metric), expected(kind, 1.0), rtol=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, TokenLoss])
def test_config_round_trip(kind):
    metric = kind(pad_id=7, name="mine")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert isinstance(copy, kind)
    assert copy.get_config() == metric.get_config()
    assert (copy.pad_id, copy.name) == (7, "mine")


def test_names_in_the_logs():
    assert (kt.TokenAccuracy().name, kt.Perplexity().name) == ("token_accuracy", "perplexity")


def test_perplexity_is_the_loss_without_smoothing():
    metric = kt.Perplexity()
    metric.update_state(LABELS, LOGITS)
    loss = as_numpy(kt.SmoothedCrossentropy(0.0)(LABELS, LOGITS))
    np.testing.assert_allclose(result(metric), np.exp(loss), rtol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_in_an_ordinary_keras_model_evaluate_is_the_same_at_any_batch_size(weighted):
    """The model hands its input on, so that NumPy knows its logits."""
    model = keras.Sequential([keras.Input((4, 5)), keras.layers.Dense(5, kernel_initializer="identity")])
    metrics = [kt.TokenAccuracy(), kt.Perplexity()]
    model.compile("adam", loss=kt.SmoothedCrossentropy(), **{"weighted_metrics" if weighted else "metrics": metrics})
    for batch_size in (1, 4, 6):
        logs = model.evaluate(
            LOGITS,
            LABELS,
            batch_size=batch_size,
            sample_weight=WEIGHTS if weighted else None,
            return_dict=True,
            verbose=0,
        )
        for kind, name in zip(KINDS, ("token_accuracy", "perplexity"), strict=True):
            np.testing.assert_allclose(logs[name], expected(kind, WEIGHTS if weighted else 1.0), rtol=1e-5)


def test_an_ordinary_keras_model_with_them_saves_and_loads(tmp_path):
    model = keras.Sequential([keras.Input((4, 5)), keras.layers.Dense(5)])
    model.compile("adam", loss=kt.SmoothedCrossentropy(0.2), metrics=[kt.TokenAccuracy(), kt.Perplexity()])
    model.fit(LOGITS, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    one, other = (m.evaluate(LOGITS, LABELS, return_dict=True, verbose=0) for m in (model, copy))
    assert set(one) == {"loss", "token_accuracy", "perplexity"}
    for name in one:
        np.testing.assert_allclose(other[name], one[name], rtol=1e-5)
