import contextlib
import json

import h5py
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.model_files import CONFIG_FILE, WEIGHTS_FILE, load_model, save_model

SIZES = {"d_model": 8, "num_heads": 2, "num_layers": 1}


@pytest.mark.parametrize("tie_embeddings", ["all", None])
def test_round_trip_bit_for_bit(tmp_path, tie_embeddings):
    """Weights are random, not the initial ones: a load that gave fresh weights of the same seed would show."""
    model = kt.Transformer(20, **SIZES, norm="pre", dropout=0.2, tie_embeddings=tie_embeddings, seed=4)
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    save_model(model, tmp_path / "a" / "b")
    copy = load_model(tmp_path / "a" / "b")
    assert copy.get_config() == model.get_config()
    assert len(copy.get_weights()) == len(model.get_weights()) > 10
    for loaded, saved in zip(copy.get_weights(), model.get_weights(), strict=True):
        assert loaded.dtype == saved.dtype
        np.testing.assert_array_equal(loaded, saved)


def test_how_the_model_was_trained_is_left_out(tmp_path):
    model = kt.Transformer(20, **SIZES)
    model.compile()
    model.fit({"source": np.array([[5, 3]]), "target": np.array([[2, 5]])}, np.array([[5, 3]]), verbose=0)
    save_model(model, tmp_path)
    assert "compile_config" not in json.loads((tmp_path / CONFIG_FILE).read_text())
    with h5py.File(tmp_path / WEIGHTS_FILE) as file:
        assert "optimizer" not in file
    loaded = load_model(tmp_path)
    assert not loaded.compiled
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(model.optimizer.iterations) == 1  # saving leaves the model as it was
    model.fit({"source": np.array([[5, 3]]), "target": np.array([[2, 5]])}, np.array([[5, 3]]), verbose=0)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(tmp_path, name):
    save_model(kt.Transformer(20, **SIZES), tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"holds no model: {name} is missing"):
        load_model(tmp_path)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("other", [{"d_model": 16}, {"num_layers": 2}, {"tie_embeddings": None}])
def test_weights_of_another_architecture_do_not_load(tmp_path, other):
    save_model(kt.Transformer(20, **SIZES), tmp_path)
    save_model(kt.Transformer(20, **SIZES | other), tmp_path / "other")
    (tmp_path / "other" / WEIGHTS_FILE).replace(tmp_path / WEIGHTS_FILE)
    with pytest.raises(ValueError, match="weights do not fit"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_architecture(tmp_path, text):
    save_model(kt.Transformer(20, **SIZES), tmp_path)
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(ValueError, match=CONFIG_FILE):
        load_model(tmp_path)


def test_damaged_weights(tmp_path):
    save_model(kt.Transformer(20, **SIZES), tmp_path)
    weights = tmp_path / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        load_model(tmp_path)


@contextlib.contextmanager
def full_disk(size):
    """No file can grow beyond so many bytes."""
    resource = pytest.importorskip("resource")
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


@pytest.mark.parametrize("size", [0, 3_000, 20_000])
def test_a_full_disk_is_the_systems_error(tmp_path, size):
    model = kt.Transformer(20, **SIZES)
    path = tmp_path / "a.weights.h5"
    kt.save_weights(model, path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with full_disk(size), pytest.raises(OSError, match="File too large"):
        kt.save_weights(model, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    (tmp_path / "model").mkdir()
    with full_disk(size), pytest.raises(OSError, match="File too large"):
        save_model(model, tmp_path / "model")
