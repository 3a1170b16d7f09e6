"""Numbers that go bad: the step is left out, as if its batch had never been; nothing but bad ones ends training."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.callbacks import Checkpoints, FiniteGuard, Resume
from keras_transformer.checkpoints import NonFiniteError, list_checkpoints

GENERATOR = np.random.default_rng(1)
SOURCE, TARGET, LABELS = (GENERATOR.integers(4, 20, (12, 5), dtype="int32") for _ in range(3))
BAD = {"nan": np.nan, "infinite": np.inf, "too large": 3e38}
BATCH, BAD_BATCH = 2, 2  # rows; the number of the batch that goes bad


class Data(keras.utils.PyDataset):
    """Six batches with weights of tokens, of which those of some batches are bad."""

    def __init__(self, value=1.0, bad=(), left_out=()):
        super().__init__()
        self.value, self.bad = value, bad
        self.order = [number for number in range(6) if number not in left_out]

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        number = self.order[index]
        rows = slice(BATCH * number, BATCH * number + BATCH)
        weights = np.ones((BATCH, 5), "float32")
        if number in self.bad:
            weights[0, 1:3] = self.value
        return {"source": SOURCE[rows], "target": TARGET[rows]}, LABELS[rows], weights

    def fingerprint(self):
        return f"{self.value} {list(self.bad)} {self.order}"

    def lines(self, epoch, index):
        return [BATCH * self.order[index] + row + 1 for row in range(BATCH)]


@pytest.fixture(autouse=True)
def weights_pass_unchecked(monkeypatch):
    """Numbers go bad by weights here, which the host would refuse: what follows is about those that go bad on the device."""
    monkeypatch.setattr("keras_transformer.inputs._check_weights", lambda *_: None)


class Trained:
    """A model compiled once for a policy, and its beginning."""

    def __init__(self, policy):
        self.model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1, dtype=policy)
        self.model.compile(kt.SkipNonFinite(keras.optimizers.Adam(1e-2)))
        self.model.optimizer.build(self.model.trainable_variables)
        self.beginning = self.values()

    def values(self):
        return [np.array(ops.convert_to_numpy(variable)) for variable in self.variables()]

    def variables(self):
        return [*self.model.trainable_variables, *self.model.optimizer.variables]

    def fit(self, data, *callbacks, **kwargs):
        for variable, value in zip(self.variables(), self.beginning, strict=True):
            variable.assign(value)
        return self.model.fit(data, shuffle=False, callbacks=list(callbacks), verbose=0, **kwargs).history


@pytest.fixture(scope="module", params=["float32", "mixed_bfloat16", "mixed_float16"])
def trained(request):
    return Trained(request.param)


@pytest.mark.parametrize("kind", BAD)
def test_the_step_is_left_out(trained, kind, figure):
    scaled = trained.model.dtype_policy.name == "mixed_float16"
    history = trained.fit(Data(BAD[kind], bad=[BAD_BATCH]), FiniteGuard(every=1))
    weights = trained.values()[: len(trained.model.trainable_variables)]
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["gradient_norm"]).all()
    assert history["skipped_steps"] == [1]
    assert ("loss_scale" in history) == scaled
    reference = trained.fit(Data(left_out=[BAD_BATCH]), FiniteGuard(every=1))
    others = trained.values()[: len(weights)]
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6 if scaled else 0)
    assert history["loss"] == pytest.approx(reference["loss"], rel=1e-6)
    figure(
        "NaN, infinite and too large numbers in float32, mixed_bfloat16 and mixed_float16",
        1,
        "step left out, as if it had never been",
    )


def test_nothing_but_bad_steps_ends_training(trained, tmp_path):
    scaled = trained.model.dtype_policy.name == "mixed_float16"
    data = Data(np.nan, bad=range(1, 6))
    checkpoints = Checkpoints(tmp_path, steps=1, keep=100)
    with pytest.raises(NonFiniteError) as error:
        trained.fit(data, FiniteGuard(patience=3, every=2), checkpoints, epochs=9)
    checkpoints.wait()
    checkpoints.on_train_end()
    told = str(error.value)
    if scaled:
        assert told.startswith(
            "The loss scale has fallen to 1.02e+03: the gradients of 4 steps in a row, from batch 2 of epoch 1"
        )
        assert "number 2 of epoch 1, holds lines 5, 6." in told  # looked at every second batch
    else:
        assert "from step 2 on, are not finite" in told
        assert "number 1 of epoch 1, holds lines 3, 4." in told
        assert "First weight with a bad gradient: " in told and "embedding" in told
        assert "Try a smaller learning rate" in told
    assert list_checkpoints(tmp_path)
    for value in trained.values():
        assert np.isfinite(value).all()


def test_batches_that_are_only_read_are_no_steps_left_out(trained, tmp_path):
    """Neither SkipNonFinite nor a loss scale sees the batches of a broken epoch that were done."""

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 3

    data = Data(np.nan, bad=[1, 4])
    assert trained.fit(data, FiniteGuard(), Stop(), Checkpoints(tmp_path))["skipped_steps"] == [1]
    assert trained.fit(data, Resume(tmp_path), FiniteGuard())["skipped_steps"] == [1]


def test_without_the_wrapper_the_loss_is_watched(tmp_path):
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    model.compile(keras.optimizers.Adam(1e-2))
    checkpoints = Checkpoints(tmp_path, steps=1)
    with pytest.raises(NonFiniteError, match="No checkpoint is written: .* holds numbers that are not finite"):
        model.fit(Data(np.nan, bad=[1]), shuffle=False, callbacks=[checkpoints], verbose=0)
    checkpoints.on_train_end()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-1"]
    with pytest.raises(
        NonFiniteError, match="and the weights are lost. First bad weight: .*Wrap the optimizer in kt.Skip"
    ):
        model.fit(Data(np.nan, bad=[1]), shuffle=False, callbacks=[FiniteGuard(every=1)], verbose=0)
