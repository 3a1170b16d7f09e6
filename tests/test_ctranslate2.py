"""CTranslate2 as the oracle: its own decoder must find what ours finds."""

import importlib
import json

import keras
import numpy as np
import pytest
from exported_models import KINDS, TOKENIZER, make_model, make_sources

import keras_transformer as kt
from keras_transformer.decoding import BeamSearch, GreedySearch
from keras_transformer.export import ctranslate2 as module
from keras_transformer.export import export_ctranslate2, verify_export
from keras_transformer.presets import PRESETS

ctranslate2 = pytest.importorskip("ctranslate2")
STEPS = 10
once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    """A model and what it is in CTranslate2."""
    model, folder = make_model(**KINDS[request.param]), tmp_path_factory.mktemp("ctranslate2") / "export"
    export_ctranslate2(model, TOKENIZER, folder)
    return model, ctranslate2.Translator(str(folder))


def found_by(translator, source, beam_size=1, steps=STEPS):
    """Ids of every hypothesis, eos included, and log p."""
    pieces = [TOKENIZER.pieces([x for x in row if x not in (TOKENIZER.pad_id, TOKENIZER.eos_id)]) for row in source]
    options = {"length_penalty": 1, "return_scores": True, "return_end_token": True, "max_decoding_length": steps}
    results = translator.translate_batch(pieces, beam_size=beam_size, num_hypotheses=beam_size, **options)
    return [
        [([TOKENIZER._processor.piece_to_id(x) for x in pieces], score * len(pieces)) for pieces, score in pairs]
        for pairs in (zip(result.hypotheses, result.scores, strict=True) for result in results)
    ]


def without_padding(row):
    return [x for x in row.tolist() if x != TOKENIZER.pad_id]


def test_greedy_search_gives_the_same_ids(both):
    model, translator = both
    for rows, length in ((1, 2), (40, 9), (3, 17)):
        source = make_sources(rows, length)
        ids, _ = GreedySearch(model, max_length=STEPS)(source)
        assert [row[0][0] for row in found_by(translator, source)] == [without_padding(row) for row in ids[:, 0]]
    assert len({tuple(row) for row in ids[:, 0].tolist()}) > 1  # the sources matter


def test_beam_search_gives_the_same_ids_ranked_alike(both):
    model, translator = both
    source = make_sources(40, 9)
    ids, _ = BeamSearch(model, 4, 0.6, max_length=STEPS)(source)
    best = [
        max(hypotheses, key=lambda one: one[1] / ((5 + len(one[0])) / 6) ** 0.6)[0]
        for hypotheses in found_by(translator, source, beam_size=4)
    ]
    same = sum(one == without_padding(row) for one, row in zip(best, ids[:, 0], strict=True))
    assert same >= 0.95 * len(source)


@once
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("tie_embeddings", ["all", "decoder", None])
def test_every_preset(tmp_path, preset, tie_embeddings):
    sizes = {"d_model": 16, "d_ff": 24, "num_heads": 4, "tie_embeddings": tie_embeddings, "seed": 1}
    model = kt.Transformer.from_preset(preset, TOKENIZER.vocabulary_size, **sizes)
    generator = np.random.default_rng(0)
    model.set_weights([w + 0.1 * generator.normal(size=w.shape) for w in model.get_weights()])
    export_ctranslate2(model, TOKENIZER, tmp_path / "export")
    source = make_sources(10, 6)
    ids, _ = GreedySearch(model, max_length=5)(source)
    found = found_by(ctranslate2.Translator(str(tmp_path / "export")), source, steps=5)
    assert [row[0][0] for row in found] == [without_padding(row) for row in ids[:, 0]]


@once
def test_int8_is_smaller_and_close(tmp_path):
    """The anchor is a trained translator: 8 bits must not change what it says by half a BLEU."""
    from test_anchor import ANCHOR

    anchor = kt.Translator.load(ANCHOR)
    texts = list(json.loads((ANCHOR / "card.json").read_text())["verbatim"])
    sizes, translations = {}, {}
    for quantization in ("float32", "int8"):
        folder = tmp_path / quantization
        export_ctranslate2(anchor.model, anchor.tokenizer, folder, quantization=quantization)
        sizes[quantization] = (folder / "model.bin").stat().st_size
        driver = importlib.import_module("keras_transformer.export.ctranslate2_driver").Translator(folder)
        translations[quantization] = driver.translate(texts)
    assert translations["float32"] == anchor.translate(texts)
    assert kt.bleu(translations["int8"], translations["float32"]).value > 99.5
    assert sizes["float32"] - sizes["int8"] > 2.5 * anchor.model.count_params()  # of 4 bytes a weight, 1 is left


@once
def test_card_and_sums(tmp_path):
    export_ctranslate2(make_model(), TOKENIZER, tmp_path / "export", quantization="float16", facts={"licence": "CC0"})
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert (card["kind"], card["quantization"], card["licence"]) == ("CTranslate2 model", "float16", "CC0")
    assert card["scores"] == "not stated"
    verify_export(tmp_path / "export")
    weights = tmp_path / "export" / "model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="model.bin cannot be used: corrupt: its sha256 is not"):
        verify_export(tmp_path / "export")


@once
def test_refusals(tmp_path, monkeypatch):
    def refused(match, **kwargs):
        arguments = {"model": make_model(), "tokenizer": TOKENIZER, "folder": tmp_path / "export"} | kwargs
        with pytest.raises(ValueError, match=match):
            export_ctranslate2(**arguments)
        assert not (tmp_path / "export").exists()

    refused("quantization must be one of float32, .* Received: 'int3'", quantization="int3")
    refused("tokenizer=None", tokenizer=None)
    other = kt.Tokenizer.train(["something else altogether"], vocabulary_size=280)
    refused("do not belong together: vocabulary_size", tokenizer=other)
    refused("knows the activations gelu, relu", model=make_model(activation="elu"))
    adapted = make_model()
    adapted.encoder.layers[0].feed_forward.inner.enable_lora(2)
    refused("has no place for the weights .*lora", model=adapted)
    quantised = make_model()
    quantised.encoder.layers[0].feed_forward.inner.quantize("int8")
    refused("is written from float weights. Received: .* as int8", model=quantised)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    refused("pip install 'keras-transformer.ctranslate2.'")
