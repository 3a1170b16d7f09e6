import keras
import numpy as np
import pytest

import keras_transformer as kt

D_MODEL, WARMUP = 128, 2000
UPDATES = [1, WARMUP - 1, WARMUP, WARMUP + 1, 10**6]


def formula(n, d_model, warmup_steps, scale=1.0):
    """Vaswani et al. 2017, equation 3, in float64."""
    n = np.float64(n)
    return scale * d_model**-0.5 * min(n**-0.5, n * warmup_steps**-1.5)


def rate(schedule, n):
    """The rate of update n; Keras counts steps from 0."""
    return float(keras.ops.convert_to_numpy(schedule(n - 1)))


# 5e-7: a float32 rsqrt is good to a few units of 6e-8 on every backend.
@pytest.mark.parametrize("n", UPDATES)
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_rate_follows_equation_3(n, scale):
    schedule = kt.WarmupInverseSqrt(D_MODEL, WARMUP, scale)
    np.testing.assert_allclose(rate(schedule, n), formula(n, D_MODEL, WARMUP, scale), rtol=5e-7)


def test_the_first_update_moves_and_the_peak_is_at_warmup_steps():
    schedule = kt.WarmupInverseSqrt(D_MODEL, WARMUP)
    rates = {n: rate(schedule, n) for n in UPDATES}
    assert rates[1] > 0
    assert max(rates, key=rates.get) == WARMUP
    np.testing.assert_allclose(schedule.peak, formula(WARMUP, D_MODEL, WARMUP), rtol=1e-12)
    np.testing.assert_allclose(rates[WARMUP], schedule.peak, rtol=5e-7)


def test_defaults_are_the_papers():
    schedule = kt.WarmupInverseSqrt(512)
    np.testing.assert_allclose(rate(schedule, 4000), (512 * 4000) ** -0.5, rtol=5e-7)


@pytest.mark.parametrize("n", UPDATES)
def test_from_peak_scales_the_whole_curve(n):
    schedule = kt.WarmupInverseSqrt.from_peak(5e-3, D_MODEL, WARMUP)
    expected = 5e-3 * formula(n, D_MODEL, WARMUP) / formula(WARMUP, D_MODEL, WARMUP)
    np.testing.assert_allclose(rate(schedule, n), expected, rtol=5e-7)
    np.testing.assert_allclose(schedule.peak, 5e-3, rtol=1e-12)


def test_config_round_trip():
    schedule = kt.WarmupInverseSqrt(64, 7, 0.3)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert isinstance(copy, kt.WarmupInverseSqrt)
    assert copy.get_config() == {"d_model": 64, "warmup_steps": 7, "scale": 0.3}


def test_an_optimizer_follows_it_and_keeps_it_through_its_config():
    """SGD on a gradient of one moves the weight by minus the sum of the rates."""
    optimizer = keras.optimizers.SGD(kt.WarmupInverseSqrt(4, 3))
    optimizer = keras.optimizers.SGD.from_config(optimizer.get_config())
    weight = keras.Variable(np.zeros((), "float32"))
    optimizer.build([weight])
    for _ in range(5):
        optimizer.apply([keras.ops.ones(())], [weight])
    expected = -sum(formula(n, 4, 3) for n in range(1, 6))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(weight.value), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments", [(0, 4000, 1.0), (512, 0, 1.0), (512, -1, 1.0), (512, 4000, 0.0), (-1, 4000, 1.0)]
)
def test_what_is_not_positive_is_refused(arguments):
    with pytest.raises(ValueError, match="must be positive. Received: "):
        kt.WarmupInverseSqrt(*arguments)


def test_a_peak_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        kt.WarmupInverseSqrt.from_peak(0.0, 128)
