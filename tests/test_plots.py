"""Learning curves and attention as pictures."""

import numpy as np
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


@pytest.mark.parametrize(("kind", "head"), [("cross", None), ("encoder", 1), ("decoder", 0)])
def test_attention_heat_map(tmp_path, kind, head):
    from keras_transformer.decoding import AttentionMaps
    from keras_transformer.plots import attention_heat_map

    maps = AttentionMaps(
        ["▁a", "▁dog", "</s>"],
        ["<s>", "▁Hund"],
        ["▁Hund", "</s>"],
        *(np.full((2, 2, rows, columns), 1 / columns) for rows, columns in ((3, 3), (2, 2), (2, 3))),
    )
    attention_heat_map(maps, tmp_path / "map.png", kind, layer=0, head=head)
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    for wrong, message in (
        ({"kind": "self"}, "kind must be"),
        ({"layer": 2}, "layer must be"),
        ({"head": 2}, "head must be"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_heat_map(maps, tmp_path / "none.png", **wrong)
