"""Checkpoints: what is saved comes back, whole or not at all."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.checkpoints import (
    NonFiniteError,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)

IDS = np.array([[5, 6, 3], [7, 8, 3]], "int32")
BATCH = {"source": IDS, "target": IDS}, IDS


def make_model(layers=1, seed=1, dropout=0.0, optimizer=None):
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=layers, dropout=dropout, seed=seed)
    model.compile(optimizer=keras.optimizers.Adam(1e-2) if optimizer is None else optimizer)
    return model


def values(model):
    variables = [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]
    return [np.array(ops.convert_to_numpy(variable)) for variable in variables]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_goes_on_where_it_stood_with_dropout_and_ema(tmp_path):
    """The seeds of dropout are part of it, and so is the average that Keras's optimizers keep."""
    models = [
        make_model(seed=seed, dropout=0.3, optimizer=keras.optimizers.Adam(1e-2, use_ema=True)) for seed in (1, 2)
    ]
    models[0].train_on_batch(*BATCH)
    save_checkpoint(models[0], tmp_path, {"epoch": 1})
    assert load_checkpoint(models[1], latest_checkpoint(tmp_path)) == {"epoch": 1}
    assert int(models[1].optimizer.iterations) == 1
    for _ in range(3):
        for model in models:
            model.train_on_batch(*BATCH)
    assert_same(values(models[0]), values(models[1]))


def test_newest_is_found_by_number_and_old_ones_go(tmp_path):
    model = make_model()
    for step in (9, 10, 100):
        save_checkpoint(model, tmp_path, {"epoch": step}, step=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-100"]
    assert latest_checkpoint(tmp_path).name == "step-100"
    with pytest.raises(ValueError, match="keep must be at least 1 checkpoint. Received: keep=0"):
        save_checkpoint(model, tmp_path, {}, keep=0)


def test_none_yet_or_none_of_this_release(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None
    (tmp_path / "update-7").mkdir()
    with pytest.raises(kt.ArtifactError, match="update-7 cannot be used: it is a checkpoint of an earlier release"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"layers": 2}, "another model: it holds"),
        ({"optimizer": keras.optimizers.SGD(1e-2)}, "another optimizer: it holds"),
        ({"optimizer": keras.optimizers.Adam(1e-2, amsgrad=True)}, "another optimizer: it holds"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tmp_path, other, what):
    save_checkpoint(make_model(), tmp_path, {})
    model = make_model(seed=2, **other)
    model.optimizer.build(model.trainable_variables)
    before = values(model)
    with pytest.raises(kt.ArtifactError, match=what):
        load_checkpoint(model, latest_checkpoint(tmp_path))
    assert_same(before, values(model))


def test_the_last_good_one_is_named(tmp_path):
    model = make_model()
    for step in (1, 2, 3):
        save_checkpoint(model, tmp_path, {}, step=step, keep=3)
    for step, file in ((3, "weights.safetensors"), (2, "state.json")):
        path = tmp_path / f"step-{step}" / file
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(kt.ArtifactError, match="corrupt or incomplete.*last good one is step-1: remove step-3"):
        load_checkpoint(model, latest_checkpoint(tmp_path))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_neither_written_nor_loaded(tmp_path, bad, monkeypatch):
    model = make_model()
    path = save_checkpoint(model, tmp_path, {})
    embeddings = model.target_embedding.embeddings
    embeddings.assign(ops.full(embeddings.shape, bad))
    with pytest.raises(
        NonFiniteError, match="target_embedding/embeddings holds numbers that are not finite.*step-0 is as it was"
    ):
        save_checkpoint(model, tmp_path, {}, step=1)
    assert list_checkpoints(tmp_path) == [path]
    monkeypatch.setattr("keras_transformer.checkpoints.files.check_finite", lambda *_: None)
    save_checkpoint(model, tmp_path / "bad", {})
    with pytest.raises(kt.ArtifactError, match="target_embedding/embeddings holds numbers that are not finite"):
        load_checkpoint(make_model(), latest_checkpoint(tmp_path / "bad"))
