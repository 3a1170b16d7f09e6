"""The driver of a CTranslate2 export: the translator's texts, and texts beyond the model's positions."""

import importlib
import subprocess
import sys

import keras
import pytest
from exported_models import TOKENIZER, make_model

import keras_transformer as kt
from keras_transformer.export import ctranslate2 as module
from keras_transformer.export import export_ctranslate2

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


def test_the_driver_alone_gives_the_translators_texts(tmp_path):
    """In a process without Keras and this package, with limits that depend on the length of each source."""
    model, texts = make_model(), ["a dog runs", "", "two cats", "a dog sleeps two dogs", " "]
    export_ctranslate2(model, TOKENIZER, tmp_path / "export")
    code = (
        "import runpy, sys; sys.modules['keras'] = sys.modules['keras_transformer'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    translator = kt.Translator(model, TOKENIZER)
    for beam_size in ("1", "3"):
        command = [sys.executable, "-I", "-c", code, str(tmp_path / "export/translate.py"), "--beam-size", beam_size]
        child = subprocess.run(command, input="\n".join([*texts, ""]).encode(), capture_output=True, check=False)
        assert child.returncode == 0, child.stderr
        expected = translator.translate(texts, beam_size=int(beam_size))
        assert child.stdout.decode().split("\n") == [*(text.replace("\n", " ") for text in expected), ""]


def test_texts_and_limits_beyond_the_positions_of_the_model(tmp_path, monkeypatch):
    """A limit of 2 S + 10 beyond the table is bounded by it; a text beyond it is named."""
    monkeypatch.setattr(module, "_MAX_POSITIONS", 24)
    export_ctranslate2(make_model(), TOKENIZER, tmp_path / "export")
    driver = importlib.import_module("keras_transformer.export.ctranslate2_driver").Translator(tmp_path / "export")
    assert (driver.count_pieces("cats cats"), driver.count_pieces(" "), driver.positions) == (11, 0, 24)
    assert len(driver.translate(["cats cats", "cats"], beam_size=1)) == 2
    with pytest.raises(ValueError, match="Text 1 has 51 pieces, and the model positions for 24. Split it"):
        driver.translate(["cats", "cats " * 10])
