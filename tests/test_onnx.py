"""What an ONNX export holds and what it refuses. Its graphs are run in test_onnx_graph.py, searched in test_onnx_driver.py."""

import json

import keras
import pytest
from exported_models import TOKENIZER, make_model

from keras_transformer.export import export_onnx, verify_export
from keras_transformer.export import onnx as module

pytest.importorskip("onnx")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


def test_card_and_sums(tmp_path):
    export_onnx(make_model(), TOKENIZER, tmp_path / "export", facts={"scores": "none"})
    verify_export(tmp_path / "export")
    card = json.loads((tmp_path / "export/card.json").read_text())
    assert (card["kind"], card["opset"], card["scores"]) == ("ONNX model", 20, "none")


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
