"""Checkpoints: what is saved comes back, the newest whole one is found, and a kill leaves the one before."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint

IDS = np.array([[5, 6, 3], [7, 8, 3]], "int32")
BATCH = {"source": IDS, "target": IDS}, IDS


def make_model(layers=1, seed=1):
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=layers, dropout=0.0, seed=seed)
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    return model


def test_goes_on_where_it_stood(tmp_path):
    model = make_model()
    model.train_on_batch(*BATCH)
    save_checkpoint(model, tmp_path, {"epoch": 1})
    other = make_model(seed=2)
    assert load_checkpoint(other, latest_checkpoint(tmp_path)) == {"epoch": 1}
    assert int(other.optimizer.iterations) == 1
    for _ in range(3):
        model.train_on_batch(*BATCH)
        other.train_on_batch(*BATCH)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_newest_is_found_by_number_and_old_ones_go(tmp_path):
    model = make_model()
    for updates in (9, 10, 100):
        model.optimizer.build(model.trainable_variables)
        model.optimizer.iterations.assign(updates)
        save_checkpoint(model, tmp_path, {"epoch": updates}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["update-10", "update-100"]
    assert latest_checkpoint(tmp_path).name == "update-100"
    with pytest.raises(ValueError, match="keep must be at least 1 checkpoint. Received: keep=0"):
        save_checkpoint(model, tmp_path, {}, keep=0)


def test_half_written_one_is_not_taken(tmp_path, monkeypatch):
    model = make_model()
    save_checkpoint(model, tmp_path, {"epoch": 0})
    model.train_on_batch(*BATCH)
    monkeypatch.setattr("os.rename", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        save_checkpoint(model, tmp_path, {"epoch": 1})
    assert latest_checkpoint(tmp_path).name == "update-0"
    assert load_checkpoint(make_model(), latest_checkpoint(tmp_path)) == {"epoch": 0}


def test_none_yet(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_what_does_not_fit_is_refused(tmp_path):
    save_checkpoint(make_model(), tmp_path, {})
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(make_model(layers=2), latest_checkpoint(tmp_path))
    (latest_checkpoint(tmp_path) / "model.weights.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="Remove it to start from the one before"):
        load_checkpoint(make_model(), latest_checkpoint(tmp_path))
