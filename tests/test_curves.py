"""LearningCurves: a table that goes on, and its picture."""

import keras
import numpy as np
import pytest

from keras_transformer.callbacks import LearningCurves, read_curves

X = np.arange(24, dtype="float32").reshape(12, 2) / 24
BATCHES = 3


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def fit(model, folder, epochs=1, **kwargs):
    model.fit(X, X[:, :1], 4, epochs=epochs, callbacks=[LearningCurves(folder)], verbose=0, **kwargs)


def test_goes_on_and_replaces_what_is_done_again(model, tmp_path):
    fit(model, tmp_path, epochs=3)
    first = read_curves(tmp_path / "curves.csv")
    assert [row["epoch"] for row in first] == [1, 2, 3]
    assert first[-1]["step"] == 3 * BATCHES
    fit(model, tmp_path, epochs=4, initial_epoch=2)
    second = read_curves(tmp_path / "curves.csv")
    assert [row["epoch"] for row in second] == [1, 2, 3, 4]
    assert second[:2] == first[:2]
    assert second[2]["step"] == 4 * BATCHES
    assert second[2]["seconds"] >= first[2]["seconds"]


def test_numbers_are_written_alike_before_and_after_a_resume(model, tmp_path):
    """Whole ones without a point, others with nine digits, from which float32 comes back."""
    fit(model, tmp_path, epochs=2)
    before = (tmp_path / "curves.csv").read_text(encoding="utf-8").splitlines()
    loss = np.float32(read_curves(tmp_path / "curves.csv")[0]["loss"])
    fit(model, tmp_path, epochs=3, initial_epoch=2)
    after = (tmp_path / "curves.csv").read_text(encoding="utf-8").splitlines()
    assert after[:3] == before
    assert [line.split(",")[:2] for line in after[1:]] == [["1", "3"], ["2", "6"], ["3", "9"]]
    written = after[1].split(",")[3]
    assert np.float32(written) == loss
    assert written == f"{loss:.9g}"


@pytest.mark.parametrize("text", ["epoch,loss\n1,nothing\n", "loss\n1.0\n", "epoch,loss\n1,2,3\n", "epoch\nnan\n"])
def test_what_is_no_table_is_told(tmp_path, text):
    (tmp_path / "curves.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="curves.csv is no table of curves: .* Put it back, or remove it"):
        read_curves(tmp_path / "curves.csv")


def test_drawn_or_the_lack_is_told(model, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    fit(model, tmp_path / "a")
    assert (tmp_path / "a" / "curves.png").stat().st_size > 1000
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"keras-transformer\[plots\]"):
        fit(model, tmp_path / "b")
    assert (tmp_path / "b" / "curves.csv").is_file()
