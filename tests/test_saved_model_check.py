"""The comparison at each export, around signatures that are written down; real ones are in test_saved_model.py."""

import types
from pathlib import Path

import keras
import numpy as np
import pytest
from exported_models import TOKENIZER

from keras_transformer.export import saved_model_check

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="does not depend on the backend")
MODEL = types.SimpleNamespace(
    pad_id=0, bos_id=2, eos_id=3, d_model=4, num_heads=2, num_decoder_layers=1, compute_dtype="float32"
)
SOURCE, LABELS = np.array([[5, 6, 3], [7, 3, 0]], "int32"), np.array([[5, 3], [3, 0]])


def test_sources_are_spread_over_the_sentences_and_end_with_eos():
    texts = [f"a dog {number}" for number in range(120)]
    source = saved_model_check.sources(MODEL, TOKENIZER, ["", *texts, " "])
    rows = [row[row != 0].tolist() for row in source]
    assert rows == [TOKENIZER.encode(text, add_eos=True) for text in texts[::2][:50]]
    with pytest.raises(ValueError, match="sentences to compare the export with must hold text"):
        saved_model_check.sources(MODEL, TOKENIZER, ["", "\t"])


def signatures(last_score):
    """Steps that hold all of 8 ids for equally likely, and a score that says so of each token but the last."""
    even = -np.log(8).astype("float32")
    cache = tf.zeros((2, 1, 2, 3, 2))
    return {
        "score": lambda source, labels: {"log_probabilities": tf.constant([[even, last_score], [even, 0.0]])},
        "encode": lambda source: {"encoder_keys": cache, "encoder_values": cache},
        "decode_step": lambda keys, values, **inputs: {"logits": tf.zeros((2, 8)), "keys": keys, "values": values},
    }


def test_steps_must_give_what_score_gives():
    saved_model_check._compare_parts(MODEL, signatures(-np.log(8)), SOURCE, LABELS)
    with pytest.raises(ValueError, match="contradicts itself: decode_step and score differ at token 1"):
        saved_model_check._compare_parts(MODEL, signatures(-2.0), SOURCE, LABELS)


def test_texts_must_be_those_of_the_ids(monkeypatch):
    def translate(text):
        texts = [one.decode("utf-8") for one in text.numpy()]
        said = ["" if not one.strip() else one for one in texts]  # the search below gives the source back
        return {"translation": tf.constant([*said[:-1], said[-1] + wrong])}

    loaded = {
        "1": {"serving_default": lambda source: {"ids": source[:, None]}},
        "text": {"translate_text": translate},
    }
    load = lambda folder: types.SimpleNamespace(signatures=loaded[Path(folder).name])  # noqa: E731
    monkeypatch.setattr(tf.saved_model, "load", load)
    source = saved_model_check.sources(MODEL, TOKENIZER, ["a dog", "two cats"])
    wrong = ""
    assert saved_model_check.compare_texts("1", "text", TOKENIZER, source) == 5
    wrong = "!"
    with pytest.raises(
        ValueError, match="gives 'two cats!' for 'two cats', serving_default and the tokenizer give 'two cats'"
    ):
        saved_model_check.compare_texts("1", "text", TOKENIZER, source)
