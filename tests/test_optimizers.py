"""Optimizers around optimizers; above all, k micro-batches make the update that one batch of all their tokens makes.

What SkipNonFinite leaves out is in tests/reliability/test_numbers.py.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

GENERATOR = np.random.default_rng(5)
SOURCE = GENERATOR.integers(4, 20, (6, 5), dtype="int32")
TARGET = GENERATOR.integers(4, 20, (6, 7), dtype="int32")
LABELS = GENERATOR.integers(4, 20, (6, 7), dtype="int32")
LABELS[0, 2:] = LABELS[3, 1:] = LABELS[4, 5:] = 0  # micro-batches with unlike numbers of tokens


def make_model(optimizer, **kwargs):
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=3, **kwargs)
    model.compile(optimizer=optimizer)
    return model


def batch(rows):
    return {"source": SOURCE[rows], "target": TARGET[rows]}, LABELS[rows]


def fit(model, *batches):
    for x, y in batches:
        model.train_on_batch(x, y)
    return [ops.convert_to_numpy(weight) for weight in model.trainable_weights]


def sgd():
    return keras.optimizers.SGD(0.5, global_clipnorm=0.1)


MICRO_BATCHES = (batch(slice(0, 1)), batch(slice(1, 4)), batch(slice(4, 6)))


def test_equals_one_batch_of_all_tokens():
    whole = fit(make_model(sgd()), batch(slice(0, 6)))
    joined = fit(make_model(kt.AccumulateGradients(sgd(), steps=3)), *MICRO_BATCHES)
    for one, other in zip(whole, joined, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_nothing_moves_before_the_last_micro_batch():
    model = make_model(kt.AccumulateGradients(sgd(), steps=3))
    before = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    for one, other in zip(before, fit(model, *MICRO_BATCHES[:2]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(model.optimizer.iterations) == 0
    after = fit(model, MICRO_BATCHES[2])
    assert int(model.optimizer.iterations) == 1
    assert any(np.abs(one - other).max() > 0 for one, other in zip(before, after, strict=True))


def test_second_update_starts_from_nothing():
    once = make_model(sgd())
    twice = fit(once, batch(slice(0, 6)), batch(slice(0, 6)))
    joined = fit(make_model(kt.AccumulateGradients(sgd(), steps=3)), *MICRO_BATCHES, *MICRO_BATCHES)
    for one, other in zip(twice, joined, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


def test_schedule_counts_updates():
    schedule = kt.WarmupInverseSqrt(d_model=8, warmup_steps=4)
    model = make_model(kt.AccumulateGradients(keras.optimizers.SGD(schedule), steps=2))
    for micro_step in range(5):
        n = micro_step // 2 + 1
        expected = 8**-0.5 * min(n**-0.5, n * 4**-1.5)
        assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(expected, rel=1e-6)
        model.train_on_batch(*batch(slice(0, 2)))


@pytest.mark.parametrize("wrap", [lambda inner: inner, kt.SkipNonFinite])
def test_a_loop_without_fit_gets_the_same_updates(wrap):
    schedule = kt.WarmupInverseSqrt(d_model=8, warmup_steps=2)
    optimizer = wrap(kt.AccumulateGradients(keras.optimizers.SGD(schedule), steps=2))
    variable, moved = keras.Variable(np.zeros(3, "float32")), 0.0
    for step in range(7):
        optimizer.apply_gradients([(ops.convert_to_tensor([1.0, 2.0, 3.0]) * (1 + step % 2), variable)])
        if step % 2:
            moved += 1.5 * float(schedule(step // 2))
        np.testing.assert_allclose(ops.convert_to_numpy(variable), [-moved, -2 * moved, -3 * moved], rtol=1e-6)


def test_padding_alone_moves_nothing():
    model = make_model(kt.AccumulateGradients(sgd(), steps=2))
    before = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    x, y = batch(slice(0, 2))
    for one, other in zip(before, fit(model, (x, 0 * y), (x, 0 * y)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_under_loss_scaling():
    whole = fit(make_model(keras.optimizers.LossScaleOptimizer(sgd())), batch(slice(0, 6)))
    scaled = keras.optimizers.LossScaleOptimizer(kt.AccumulateGradients(sgd(), steps=3))
    for one, other in zip(whole, fit(make_model(scaled), *MICRO_BATCHES), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_survives_saving(tmp_path):
    model = make_model(kt.AccumulateGradients(keras.optimizers.Adam(1e-2), steps=3))
    fit(model, *MICRO_BATCHES[:2])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.steps == 3
    for one, other in zip(fit(model, MICRO_BATCHES[2]), fit(loaded, MICRO_BATCHES[2]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_in_a_foreign_model_micro_batches_count_alike():
    x, y = np.array([[1.0], [2.0], [3.0], [4.0]], "float32"), np.array([[1.0], [1.0], [0.0], [2.0]], "float32")

    def make(optimizer):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
        model.compile(optimizer, loss="mse")
        return model

    whole = fit(make(keras.optimizers.SGD(0.1)), (x, y))
    joined = fit(make(kt.AccumulateGradients(keras.optimizers.SGD(0.1), steps=2)), (x[:2], y[:2]), (x[2:], y[2:]))
    for one, other in zip(whole, joined, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "steps", "message"),
    [
        (keras.optimizers.SGD(), 0, "steps=0"),
        (keras.optimizers.SGD(), 1.5, r"steps=1\.5"),
        ("adam", 2, "'adam'"),
        (keras.optimizers.SGD(gradient_accumulation_steps=4), 2, "already accumulates"),
    ],
)
def test_impossible_arguments(optimizer, steps, message):
    with pytest.raises(ValueError, match=message):
        kt.AccumulateGradients(optimizer, steps)


@pytest.mark.parametrize("around", [kt.SkipNonFinite, lambda optimizer: kt.AccumulateGradients(optimizer, 2)])
@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), "that nobody has scaled. Give it "),
        (
            keras.optimizers.SGD(loss_scale_factor=8.0),
            r"that nobody has scaled: loss_scale_factor=8.0. Make it without",
        ),
        ("adam", "must be a keras.optimizers.Optimizer. Received: 'adam'"),
    ],
)
def test_an_optimizer_that_scales_the_loss_goes_around_and_not_within(around, optimizer, message):
    with pytest.raises(ValueError, match=message):
        around(optimizer)


def test_what_is_around_an_optimizer_is_saved_with_it():
    optimizer = kt.SkipNonFinite(kt.AccumulateGradients(keras.optimizers.Adam(0.5), 3, name="sums"), name="skips")
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert (type(loaded), loaded.name) == (kt.SkipNonFinite, "skips")
    inner = loaded.inner_optimizer
    assert (type(inner), inner.name, inner.steps) == (kt.AccumulateGradients, "sums", 3)
    loaded.learning_rate = 0.25
    assert float(ops.convert_to_numpy(inner.inner_optimizer.learning_rate)) == 0.25


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_clipping_holds_under_loss_scaling_and_accumulation(clip):
    """SGD by hand: each gradient (clipnorm), or all together (global_clipnorm), cut down to the limit."""
    model = make_model(keras.optimizers.SGD(0.5))
    before = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    gradients = [(b - a) / 0.5 for b, a in zip(before, fit(model, batch(slice(0, 6))), strict=True)]
    norms = [np.sqrt((g.astype("float64") ** 2).sum()) for g in gradients]
    if clip == "global_clipnorm":
        norms = [np.sqrt(np.square(norms).sum())] * len(norms)
    limit = float(0.8 * np.median(norms))
    assert any(norm > limit for norm in norms)
    expected = [b - 0.5 * g * min(1, limit / max(n, 1e-12)) for b, g, n in zip(before, gradients, norms, strict=True)]
    optimizer = kt.AccumulateGradients(keras.optimizers.SGD(0.5, **{clip: limit}), steps=3)
    clipped = fit(make_model(keras.optimizers.LossScaleOptimizer(optimizer)), *MICRO_BATCHES)
    for one, other in zip(expected, clipped, strict=True):
        np.testing.assert_allclose(other, one, atol=5e-6)
