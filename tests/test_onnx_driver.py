"""The driver of an ONNX export: the ids and scores of the search in Python, found by onnxruntime."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from exported_models import KINDS, TOKENIZER, make_model, make_sources, model_and_onnx_driver

import keras_transformer as kt
from keras_transformer.decoding import BeamSearch, GreedySearch
from keras_transformer.export import export_onnx

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
STEPS = 10  # as in test_ctranslate2.py, so that JAX compiles once for both


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    return model_and_onnx_driver(tmp_path_factory.mktemp("onnx") / "export", **KINDS[request.param])


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


@once
def test_the_driver_alone_gives_the_translators_texts(tmp_path):
    model, texts = make_model(), ["a dog runs", "", "two cats", "a dog sleeps two dogs", " "]
    export_onnx(model, TOKENIZER, tmp_path / "export")
    code = (
        "import runpy, sys; sys.modules['keras'] = sys.modules['keras_transformer'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", code, str(tmp_path / "export/translate.py"), "--beam-size", "3"]
    child = subprocess.run(command, input="\n".join([*texts, ""]).encode(), capture_output=True, check=False)
    assert child.returncode == 0, child.stderr
    expected = kt.Translator(model, TOKENIZER).translate(texts, beam_size=3)
    assert child.stdout.decode().split("\n") == [*(text.replace("\n", " ") for text in expected), ""]


@once
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error_and_no_translation(both, broken):
    _, driver = both
    with pytest.raises(ValueError, match="logits are not finite"):
        driver._log_probabilities(np.array([[0.0, 1, 2, 3], [0, broken, 2, 3]], "float32"))
