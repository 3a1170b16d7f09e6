import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy
from numpy_oracle import softmax, value_and_gradient, value_and_gradients

import keras_transformer as kt
from keras_transformer.losses import projected_token_statistics, token_statistics

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(size=(3, 4, 5)).astype("float32") * 3.0
LABELS = np.array([[1, 2, 3, 4], [4, 4, 0, 0], [2, 0, 0, 0]])


def targets(labels, e, size):
    """The smoothed distributions, written out: (1 - e) one-hot + e / V."""
    return (1.0 - e) * np.eye(size)[labels] + e / size


def cross_entropy(logits, labels, e, weights):
    """Sum over tokens of -target . log softmax, divided by the sum of weights; float64."""
    log_p = np.log(softmax(logits.astype("float64")))
    return (-(targets(labels, e, logits.shape[-1]) * log_p).sum(-1) * weights).sum() / weights.sum()


def test_smoothed_targets_of_five_classes_are_092_and_002():
    np.testing.assert_allclose(targets(np.array([1]), 0.1, 5), [[0.02, 0.92, 0.02, 0.02, 0.02]])
    log_p = np.log(softmax(LOGITS[0, :1].astype("float64")))[0]
    expected = -(0.92 * log_p[1] + 0.02 * (log_p[0] + log_p[2] + log_p[3] + log_p[4]))
    loss = kt.SmoothedCrossentropy(0.1)(LABELS[:1, :1], LOGITS[:1, :1])
    np.testing.assert_allclose(as_numpy(loss), expected, rtol=1e-6)


@pytest.mark.parametrize("e", [0.0, 0.1, 0.5])
def test_loss_agrees_with_the_one_hot_computation_and_leaves_padding_out(e):
    loss = kt.SmoothedCrossentropy(e)(LABELS, LOGITS)
    np.testing.assert_allclose(as_numpy(loss), cross_entropy(LOGITS, LABELS, e, LABELS != 0), rtol=1e-6)


def test_logits_at_padding_play_no_part():
    changed = np.where(LABELS[..., None] == 0, 50.0, LOGITS).astype("float32")
    loss = kt.SmoothedCrossentropy()
    np.testing.assert_array_equal(as_numpy(loss(LABELS, changed)), as_numpy(loss(LABELS, LOGITS)))


def test_another_pad_id():
    loss = kt.SmoothedCrossentropy(0.1, pad_id=4)(LABELS, LOGITS)
    np.testing.assert_allclose(as_numpy(loss), cross_entropy(LOGITS, LABELS, 0.1, LABELS != 4), rtol=1e-6)


def test_sample_weight_weighs_tokens():
    weights = GENERATOR.uniform(size=(3, 4)).astype("float32")
    loss = kt.SmoothedCrossentropy(0.1)(LABELS, LOGITS, sample_weight=weights)
    np.testing.assert_allclose(as_numpy(loss), cross_entropy(LOGITS, LABELS, 0.1, weights * (LABELS != 0)), rtol=1e-6)


def test_gradient_is_softmax_minus_target_a_token():
    _, gradient = value_and_gradient(lambda logits: kt.SmoothedCrossentropy(0.1)(LABELS, logits), LOGITS)
    expected = (softmax(LOGITS.astype("float64")) - targets(LABELS, 0.1, 5)) * (LABELS != 0)[..., None] / 7
    np.testing.assert_allclose(as_numpy(gradient), expected, atol=1e-7)


def test_a_batch_of_padding_gives_zero_and_zero_gradients():
    value, gradient = value_and_gradient(
        lambda logits: kt.SmoothedCrossentropy()(np.zeros((3, 4), int), logits), LOGITS
    )
    assert float(as_numpy(value)) == 0.0
    assert not as_numpy(gradient).any()


def test_zero_weights_give_zero_and_zero_gradients():
    zeros = np.zeros((3, 4), "float32")
    value, gradient = value_and_gradient(lambda logits: kt.SmoothedCrossentropy()(LABELS, logits, zeros), LOGITS)
    assert float(as_numpy(value)) == 0.0
    assert not as_numpy(gradient).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_logits_are_computed_in_float32(dtype):
    """Against float64 on the rounded logits; 16-bit arithmetic would be off by 1e-3 and more."""
    logits = ops.cast(ops.convert_to_tensor(LOGITS * 10), dtype)
    loss = kt.SmoothedCrossentropy(0.1)(LABELS, logits)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    rounded = as_numpy(ops.cast(logits, "float32"))
    np.testing.assert_allclose(as_numpy(loss), cross_entropy(rounded, LABELS, 0.1, LABELS != 0), rtol=1e-6)


def test_float16_sums_do_not_overflow():
    """70 000 tokens of loss log(2): neither their sum nor their number fits float16."""
    logits = ops.cast(ops.zeros((70, 1000, 2)), "float16")
    np.testing.assert_allclose(
        as_numpy(kt.SmoothedCrossentropy()(np.ones((70, 1000), int), logits)), np.log(2), rtol=1e-5
    )


def test_logits_far_apart_stay_finite():
    logits = np.array([[[1e4, -1e4, 0.0]]], "float32")
    loss = kt.SmoothedCrossentropy(0.0)(np.array([[1]]), logits)
    np.testing.assert_allclose(as_numpy(loss), 2e4, rtol=1e-6)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, 1.5])
def test_label_smoothing_out_of_range_is_refused(label_smoothing):
    with pytest.raises(ValueError, match=r"label_smoothing must be a number in \[0, 1\). Received: "):
        kt.SmoothedCrossentropy(label_smoothing)


def test_config_round_trip():
    loss = kt.SmoothedCrossentropy(0.2, pad_id=7, name="mine")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(copy, kt.SmoothedCrossentropy)
    assert copy.get_config() == loss.get_config()
    assert (copy.label_smoothing, copy.pad_id, copy.name) == (0.2, 7, "mine")


def test_token_statistics_are_sums_over_real_tokens():
    weights = GENERATOR.uniform(size=(3, 4)).astype("float32")
    statistics = token_statistics(ops.convert_to_tensor(LOGITS), ops.convert_to_tensor(LABELS), 0.1, 0, weights)
    real = weights * (LABELS != 0)
    correct = ((LOGITS.argmax(-1) == LABELS) * real).sum()
    expected = [cross_entropy(LOGITS, LABELS, e, real) * real.sum() for e in (0.1, 0.0)] + [correct, real.sum()]
    np.testing.assert_allclose([float(as_numpy(value)) for value in statistics], expected, rtol=1e-5)
    np.testing.assert_allclose(as_numpy(statistics.mean_loss), expected[0] / expected[3], rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_from_hidden_states_equal_those_from_logits(weighted):
    hidden = GENERATOR.normal(size=(3, 4, 6)).astype("float32")
    table = GENERATOR.normal(size=(5, 6)).astype("float32")
    weights = GENERATOR.uniform(size=(3, 4)).astype("float32") if weighted else None
    one = projected_token_statistics(
        ops.convert_to_tensor(hidden), ops.convert_to_tensor(table), ops.convert_to_tensor(LABELS), 0.1, 0, weights
    )
    other = token_statistics(ops.convert_to_tensor(hidden @ table.T), ops.convert_to_tensor(LABELS), 0.1, 0, weights)
    np.testing.assert_allclose(*([float(as_numpy(value)) for value in both] for both in (one, other)), rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [None, 1, 5, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_by_hidden_states_and_table_are_softmax_minus_target(chunk_size, weighted):
    """Of the mean loss, in float64: by the logits w (softmax - target) / sum(w), by hidden and table their products."""
    hidden = GENERATOR.normal(size=(3, 4, 6)).astype("float32")
    table = GENERATOR.normal(size=(5, 6)).astype("float32")
    weights = GENERATOR.uniform(size=(3, 4)).astype("float32") if weighted else None

    def loss(hidden, table):
        return projected_token_statistics(
            hidden, table, ops.convert_to_tensor(LABELS), 0.1, 0, weights, training=True, chunk_size=chunk_size
        ).mean_loss

    value, (by_hidden, by_table) = value_and_gradients(loss, hidden, table)
    wide, rows = hidden.astype("float64"), table.astype("float64")
    real = (LABELS != 0) * (1.0 if weights is None else weights.astype("float64"))
    by_logits = (softmax(wide @ rows.T) - targets(LABELS, 0.1, 5)) * (real / real.sum())[..., None]
    np.testing.assert_allclose(as_numpy(value), cross_entropy(wide @ rows.T, LABELS, 0.1, real), rtol=1e-5)
    np.testing.assert_allclose(as_numpy(by_hidden), by_logits @ rows, atol=1e-6)
    np.testing.assert_allclose(as_numpy(by_table), np.einsum("btv,btd->vd", by_logits, wide), atol=1e-6)


def test_many_equal_rows_stay_finite_in_float16():
    """30,000 rows that all say one token: the sum over them would pass float16's range in one chunk."""
    hidden = np.ones((1, 30_000, 4), "float16") * 4
    labels = ops.convert_to_tensor(np.ones((1, 30_000), "int32"))

    def loss(hidden, table):
        return projected_token_statistics(hidden, table, labels, training=True).mean_loss

    _, gradients = value_and_gradients(loss, hidden, np.eye(8, 4, dtype="float32"))
    assert all(np.isfinite(as_numpy(gradient)).all() for gradient in gradients)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_weights_of_rows_count_for_all_their_tokens(shape):
    """T equals B here, so that weights of rows could be taken for weights of columns in silence."""
    rows = np.array([0.5, 0.0, 2.0])
    labels, logits = LABELS[:, :3], LOGITS[:, :3]
    loss = kt.SmoothedCrossentropy(0.1)(labels, logits, sample_weight=rows.reshape(shape))
    expected = cross_entropy(logits, labels, 0.1, (labels != 0) * rows[:, None])
    np.testing.assert_allclose(as_numpy(loss), expected, rtol=1e-5)


def test_it_trains_an_ordinary_keras_model():
    """A bigram model: the loss falls towards the entropy of the data, here zero, plus that of the smoothing."""
    ids = np.tile(np.arange(1, 6), (8, 3))
    model = keras.Sequential([keras.layers.Embedding(6, 6), keras.layers.Dense(6)])
    model.compile(keras.optimizers.Adam(0.1), loss=kt.SmoothedCrossentropy(0.1))
    history = model.fit(ids[:, :-1], ids[:, 1:], epochs=60, batch_size=8, verbose=0).history["loss"]
    best = targets(np.array([1]), 0.1, 6)[0]
    assert history[0] > 1.5
    np.testing.assert_allclose(history[-1], -(best * np.log(best)).sum(), atol=0.02)


@pytest.mark.parametrize("reduction", ["sum", "none", None])
def test_another_reduction_is_refused(reduction):
    with pytest.raises(ValueError, match=f"Received: reduction={reduction!r}. Expected: none given"):
        kt.SmoothedCrossentropy(reduction=reduction)
