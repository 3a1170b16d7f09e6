"""16-bit training of a copy task learns what float32 learns."""

import functools

import keras
import numpy as np
import pytest
from layer_contract import as_numpy

import keras_transformer as kt

V, STEPS, WARMUP = 30, 200, 50
# At this rate float32 runs whose weights start 1e-6 apart end within 0.4 % of each other, so that 2 % can be told from
# chance. At 1e-2 they end up to 3.7 % apart, and a comparison of two runs means nothing.
PEAK = 3e-3


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Matrices this small gain nothing from threads, which on busy cores wait for each other most of the time."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class CopyTask(keras.utils.PyDataset):
    """The target is the source; every batch is new, and the same in every run."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        source = np.random.default_rng(index).integers(4, V, (32, 7), dtype="int32")
        source[:, -1] = 3
        target = np.concatenate([np.full((32, 1), 2, "int32"), source[:, :-1]], axis=1)
        return {"source": source, "target": target}, source


class Losses(keras.callbacks.Callback):
    """The loss of each batch, from Keras's running mean."""

    def __init__(self):
        super().__init__()
        self.sums = [0.0]

    def on_train_batch_end(self, batch, logs=None):
        self.sums.append(logs["loss"] * (batch + 1))  # every batch has equally many tokens

    @property
    def values(self):
        return np.diff(self.sums)


@functools.cache
def trained(dtype, initial_scale=None, steps=STEPS):
    """The losses of the steps, and the model after them."""
    model = kt.Transformer(V, d_model=32, num_heads=2, num_layers=1, d_ff=64, dropout=0.0, seed=1, dtype=dtype)
    optimizer = keras.optimizers.Adam(
        kt.WarmupInverseSqrt.from_peak(PEAK, d_model=32, warmup_steps=WARMUP),
        beta_1=0.9,
        beta_2=0.98,
        epsilon=1e-9,
        global_clipnorm=1.0,
    )
    if initial_scale is not None:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=initial_scale)
    model.compile(optimizer=optimizer)
    losses = Losses()
    model.fit(CopyTask(steps), shuffle=False, verbose=0, callbacks=[losses])
    return losses.values, model


def test_float32_learns_the_task():
    losses, model = trained("float32")
    assert losses.shape == (STEPS,) and np.isfinite(losses).all()
    assert losses[-20:].mean() < losses[:5].mean() / 2
    assert int(model.optimizer.iterations) == STEPS


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_sixteen_bits_learn_it_as_well(dtype):
    expected, _ = trained("float32")
    losses, model = trained(dtype)
    assert np.isfinite(losses).all()
    for weight in model.get_weights():
        assert weight.dtype == "float32" and np.isfinite(weight).all()
    np.testing.assert_allclose(losses[-20:].mean(), expected[-20:].mean(), rtol=0.02)
    assert np.abs(losses - expected).max() > 0  # or the policy did not act


def test_float16_scales_the_loss():
    _, model = trained("mixed_float16")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    skipped = STEPS - int(model.optimizer.inner_optimizer.iterations)
    # Scaled by 2 ** 15, the first gradients of some runs overflow; each skipped step halves the scale.
    assert 0 <= skipped <= 5
    assert as_numpy(model.optimizer.dynamic_scale) == 2.0**15 / 2.0**skipped


def test_float16_skips_the_steps_that_overflow():
    """A scale of 2 ** 30 overflows until it has been halved often enough; those steps change nothing, nor count."""
    losses, model = trained("mixed_float16", initial_scale=2.0**30, steps=60)
    skipped = 60 - int(model.optimizer.inner_optimizer.iterations)
    assert 5 <= skipped <= 25
    assert as_numpy(model.optimizer.dynamic_scale) == 2.0 ** (30 - skipped)
    assert np.isfinite(losses).all()
    for weight in model.get_weights():
        assert np.isfinite(weight).all()
    np.testing.assert_allclose(losses[0], trained("mixed_float16")[0][0], rtol=1e-6)  # the loss is reported unscaled
    assert losses[-5:].mean() < losses[:5].mean() - 0.5
