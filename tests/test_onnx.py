"""onnxruntime as the oracle: logits of the model's own call, and the ids and scores of its own search."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from exported_models import KINDS, TOKENIZER, make_model, make_sources

import keras_transformer as kt
from keras_transformer.decoding import BeamSearch, GreedySearch
from keras_transformer.export import export_onnx, verify_export
from keras_transformer.export import onnx as module

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
STEPS = 10  # as in test_ctranslate2.py, so that JAX compiles once for both


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    from keras_transformer.export.onnx_driver import Translator

    model, folder = make_model(**KINDS[request.param]), tmp_path_factory.mktemp("onnx") / "export"
    export_onnx(model, TOKENIZER, folder)
    return model, Translator(folder)


def test_greedy_and_beam_search_find_the_same(both):
    model, driver = both
    source = make_sources(40, 9)
    for search in (GreedySearch(model, 0.6, STEPS), BeamSearch(model, 4, 0.6, STEPS)):
        ids, scores = search(source)
        found, found_scores = driver.search(source, search.beam_size, 0.6, STEPS)
        np.testing.assert_array_equal(found, ids[:, :, : found.shape[2]])
        assert (ids[:, :, found.shape[2] :] == TOKENIZER.pad_id).all()
        np.testing.assert_allclose(found_scores, scores, rtol=1e-4, atol=1e-4)
    assert len({tuple(row) for row in ids[:, 0].tolist()}) > 4


def test_logits_of_each_step_in_unseen_shapes(both):
    model, driver = both
    width = 2
    for rows, length, steps in ((1, 2, 1), (3, 7, 4), (2, 31, 2)):
        source = make_sources(rows, length)
        target = np.random.default_rng(0).integers(4, 200, (rows, width, steps)).astype("int32")
        target[:, :, 0] = TOKENIZER.bos_id
        keep = dict(zip(("encoder_keys", "encoder_values"), driver._encoder.run(None, {"source": source}), strict=True))
        layers, heads, size = (keep["encoder_keys"].shape[axis] for axis in (1, 2, 4))
        keys = values = np.zeros((rows * width, layers, heads, 0, size), "float32")
        for step in range(steps):
            token = target[:, :, step].reshape(-1)
            inputs = {"source": source, **keep, "target": token, "keys": keys, "values": values}
            logits, keys, values = driver._step.run(None, inputs)
        repeated = np.repeat(source, width, axis=0)
        expected = model({"source": repeated, "target": target.reshape(rows * width, steps)})
        expected = keras.ops.convert_to_numpy(expected)[:, -1]
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@once
def test_the_driver_alone_gives_the_translators_texts(tmp_path):
    model, texts = make_model(), ["a dog runs", "", "two cats", "a dog sleeps two dogs", " "]
    export_onnx(model, TOKENIZER, tmp_path / "export", facts={"scores": "none"})
    code = (
        "import runpy, sys; sys.modules['keras'] = sys.modules['keras_transformer'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code, str(tmp_path / "export/translate.py"), "--beam-size", "3"]
    child = subprocess.run(command, input="\n".join([*texts, ""]).encode(), capture_output=True, check=False)
    assert child.returncode == 0, child.stderr
    expected = kt.Translator(model, TOKENIZER).translate(texts, beam_size=3)
    assert child.stdout.decode().split("\n") == [*(text.replace("\n", " ") for text in expected), ""]
    verify_export(tmp_path / "export")
    card = json.loads((tmp_path / "export/card.json").read_text())
    assert (card["kind"], card["opset"], card["scores"]) == ("ONNX model", 20, "none")


@once
@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "sigmoid"])
@pytest.mark.parametrize("tie_embeddings", ["decoder", None])
def test_activations_and_tying(tmp_path, activation, tie_embeddings):
    from keras_transformer.export.onnx_driver import Translator

    model = make_model(activation=activation, tie_embeddings=tie_embeddings)
    export_onnx(model, TOKENIZER, tmp_path / "export")
    source = make_sources(8, 6)
    found, _ = Translator(tmp_path / "export").search(source, 1, 0, 6)
    np.testing.assert_array_equal(found, GreedySearch(model, max_length=6)(source)[0][:, :, : found.shape[2]])


@once
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error_and_no_translation(both, broken):
    _, driver = both
    with pytest.raises(ValueError, match="logits are not finite"):
        driver._log_probabilities(np.array([[0.0, 1, 2, 3], [0, broken, 2, 3]], "float32"))


@once
def test_refusals(tmp_path, monkeypatch):
    def refused(match, **kwargs):
        with pytest.raises(ValueError, match=match):
            export_onnx(**{"model": make_model(), "tokenizer": TOKENIZER, "folder": tmp_path / "export"} | kwargs)
        assert not (tmp_path / "export").exists()

    refused("tokenizer=None", tokenizer=None)
    refused("knows the activations gelu, relu", model=make_model(activation="elu"))
    adapted = make_model()
    adapted.encoder.layers[0].feed_forward.inner.enable_lora(2)
    refused("has no place for the weights .*lora", model=adapted)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    refused("pip install 'keras-transformer.onnx.'")
