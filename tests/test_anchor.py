"""What was saved once still loads and translates verbatim, on every backend."""

import json

import keras
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


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="what TensorFlow loads is the same on every backend"
)
def test_its_saved_model_translates_as_it_does(translator):
    sources = list(CARD["verbatim"])
    serve = kt.export.load_saved_model(ANCHOR.parent / "anchor-export").signatures["serving_default"]
    rows = translator.tokenizer.encode(sources, add_eos=True)
    ids = serve(source=keras.utils.pad_sequences(rows, padding="post", value=translator.tokenizer.pad_id))[
        "ids"
    ].numpy()
    assert translator.tokenizer.decode(ids[:, 0].tolist()) == translator.translate(sources, beam_size=4)
