"""Learning curves as a picture."""

import pytest

pytest.importorskip("matplotlib")

from matplotlib.image import imread

from keras_transformer.plots import learning_curves

ROWS = [
    {"step": 10, "loss": 5.0, "val_loss": None, "learning_rate": 1e-4},
    {"step": 20, "loss": 4.0, "val_loss": 4.2, "learning_rate": 2e-4, "val_bleu": 3.0},
]


def width(rows, path):
    learning_curves(rows, path)
    return imread(path).shape[1]


def test_a_panel_for_each_thing_measured(tmp_path):
    three = width(ROWS, tmp_path / "three.png")  # loss, BLEU, learning rate
    one = width([{"step": 10, "loss": 5.0}], tmp_path / "one.png")
    assert three == 3 * one


def test_lines_are_drawn(tmp_path):
    learning_curves(ROWS, tmp_path / "curves.png")
    picture = imread(tmp_path / "curves.png")[..., :3]
    colourful = (picture.max(axis=-1) - picture.min(axis=-1)) > 0.3
    assert colourful.sum() > 100
