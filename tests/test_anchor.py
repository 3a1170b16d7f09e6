"""What was saved once still loads and translates verbatim, on every backend."""

import json

import pytest
from make_anchor import ANCHOR

import keras_transformer as kt

CARD = json.loads((ANCHOR / "card.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def translator():
    return kt.Translator.load(ANCHOR)


def test_translates_verbatim(translator):
    assert len(CARD["verbatim"]) >= 20
    assert translator.translate(list(CARD["verbatim"]), beam_size=1) == list(CARD["verbatim"].values())


def test_is_small_and_good(translator):
    assert translator.model.count_params() == CARD["parameters"] <= 400_000
    assert sum(path.stat().st_size for path in ANCHOR.iterdir()) < 2 * 2**20
    assert CARD["exact_match_of_600_held_out"] >= 0.95
