"""An export as an object, around a SavedModel that TensorFlow makes in a moment: the real ones are in test_saved_model.py."""

import json

import keras
import numpy as np
import pytest
from exported_models import TOKENIZER

from keras_transformer.export import load_saved_model
from keras_transformer.export.folders import new_export
from keras_transformer.export.loaded import LoadedSavedModel, newest_version

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="does not depend on the backend")
LAYERS, HEADS, WIDTH = 2, 2, 3


def write_echo(folder):
    """A SavedModel whose search gives the source back, and whose step says how many steps came before."""
    ids = lambda name: tf.TensorSpec((None, None), "int32", name=name)  # noqa: E731
    cache = lambda name: tf.TensorSpec((None, LAYERS, HEADS, None, WIDTH), "float16", name=name)  # noqa: E731
    module = tf.Module()

    @tf.function(input_signature=[ids("source")])
    def serve(source):
        scores = tf.where(source[:, :1] == 9, float("nan"), 0.0)  # a source that begins with 9 is too much for it
        return {"ids": source[:, None], "scores": scores}

    @tf.function(input_signature=[ids("source"), ids("labels")])
    def score(source, labels):
        return {"attention": tf.ones((tf.shape(source)[0], tf.shape(labels)[1], tf.shape(source)[1]))}

    @tf.function(input_signature=[ids("source")])
    def encode(source):
        made = tf.zeros((tf.shape(source)[0], LAYERS, HEADS, tf.shape(source)[1], WIDTH), "float16")
        return {"encoder_keys": made, "encoder_values": made}

    token = tf.TensorSpec((None,), "int32", name="target")
    specs = [ids("source"), cache("encoder_keys"), cache("encoder_values"), token, cache("keys"), cache("values")]

    @tf.function(input_signature=specs)
    def decode_step(source, encoder_keys, encoder_values, target, keys, values):
        grown = tf.pad(keys, [(0, 0), (0, 0), (0, 0), (0, 1), (0, 0)])
        logits = tf.one_hot(tf.shape(keys)[3] + 0 * target, 5)
        return {"logits": logits, "keys": grown, "values": grown}

    signatures = {"serving_default": serve, "score": score, "encode": encode, "decode_step": decode_step}
    tf.saved_model.save(module, str(folder), signatures=signatures)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaded") / "export"
    with new_export(folder) as new:
        write_echo(new / "3")
        (new / "text").mkdir()
        (new / "card.json").write_text(json.dumps({"kind": "a test"}))
        TOKENIZER.save(new / "tokenizer.model")
    return folder


def test_what_it_tells_and_gives(export):
    loaded = LoadedSavedModel(export)
    assert (loaded.version, loaded.card, loaded.tokenizer) == (3, {"kind": "a test"}, TOKENIZER)
    source = np.array([[5, 6, 3], [7, 3, 0]])
    ids, scores = loaded.search(source)
    np.testing.assert_array_equal(ids[:, 0], source)
    assert scores.shape == (2, 1)
    assert loaded.attention(source, source[:, :2]).shape == (2, 2, 3)


def test_steps_grow_their_cache_in_the_models_own_type(export):
    loaded = LoadedSavedModel(export)
    state = loaded.start(np.array([[5, 6, 3]]))
    for step in range(3):
        logits, state = loaded.step(state, 2)
        assert logits.argmax() == step


def test_scores_that_are_no_numbers_are_an_error_and_no_blank_translation(export):
    with pytest.raises(ValueError, match=r"logits are not finite for source rows \[1\]"):
        LoadedSavedModel(export).search(np.array([[5, 6, 3], [9, 3, 0]]))


def test_the_newest_version_has_the_highest_number(tmp_path):
    assert newest_version(tmp_path / "none") == 0
    for name in ("2", "10", "text", "9x"):
        (tmp_path / name).mkdir()
    assert newest_version(tmp_path) == 10


def test_a_version_that_the_manifest_does_not_list_is_refused(tmp_path):
    """As who puts the next version beside the first, for TensorFlow Serving: it would go by the first one's card."""
    with new_export(tmp_path / "export") as new:
        (new / "1").mkdir()
        (new / "1" / "saved_model.pb").write_text("a program")
        (new / "card.json").write_text("{}")
    (tmp_path / "export" / "2").mkdir()
    (tmp_path / "export" / "2" / "saved_model.pb").write_text("another")
    with pytest.raises(ValueError, match=r"export/2 cannot be used: the manifest does not list it.* Take it out"):
        load_saved_model(tmp_path / "export")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="manifest.json is missing"):
        load_saved_model(tmp_path)
    with new_export(tmp_path / "empty") as new:
        (new / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no SavedModel. Expected what export_saved_model wrote"):
        load_saved_model(tmp_path / "empty")
    with new_export(tmp_path / "ids") as new:
        write_echo(new / "1")
        (new / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no tokenizer.model, without which it takes ids alone"):
        LoadedSavedModel(tmp_path / "ids")
