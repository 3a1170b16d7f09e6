"""A preset is read back as it was, and keras-nlp's own class reads its tokenizer."""

import json

import keras
import numpy as np
import pytest
from exported_models import KINDS, TOKENIZER, make_model

import keras_transformer as kt
from keras_transformer.decoding import GreedySearch, SamplerSearch
from keras_transformer.decoding.samplers import find_sampler
from keras_transformer.interchange import load_preset, save_preset


def test_reads_what_it_wrote(tmp_path):
    translator = kt.Translator(make_model(**KINDS["pre"]), TOKENIZER)
    save_preset(translator, tmp_path / "preset")
    loaded = load_preset(tmp_path / "preset")
    assert loaded.tokenizer == TOKENIZER and loaded.model.get_config() == translator.model.get_config()
    for one, other in zip(loaded.model.get_weights(), translator.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    metadata = json.loads((tmp_path / "preset" / "metadata.json").read_text())
    assert metadata["parameter_count"] == translator.model.count_params()
    save_preset(translator, tmp_path / "preset", {"licence": "CC0"})  # replaces
    card = json.loads((tmp_path / "preset" / "card.json").read_text())
    assert (card["kind"], card["licence"], card["scores"]) == ("keras-nlp preset", "CC0", "not stated")
    weights = tmp_path / "preset" / "model.weights.h5"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(ValueError, match="model.weights.h5 cannot be used: corrupt: its sha256 is not"):
        load_preset(tmp_path / "preset")
    (tmp_path / "preset" / "config.json").unlink()
    with pytest.raises(ValueError, match="is no preset of a translator: config.json is missing"):
        load_preset(tmp_path / "preset")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        save_preset(translator, tmp_path / "other")


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
def test_a_tokenizer_that_is_no_sentencepiece_model_is_refused(tmp_path):
    """vocabulary.spm would hold something else, and no preset come back."""

    class Other:
        vocabulary_size, pad_id, bos_id, eos_id = TOKENIZER.vocabulary_size, 0, 2, 3

        def encode(self, text, add_bos=False, add_eos=False):
            raise NotImplementedError

    with pytest.raises(
        ValueError, match="A preset of keras-nlp holds its tokenizer as a SentencePiece model. Received: a O"
    ):
        save_preset(kt.Translator(make_model(), Other()), tmp_path / "preset")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="importing keras-nlp takes long; once is enough")
def test_keras_nlp_reads_the_tokenizer(tmp_path):
    hub = pytest.importorskip("keras_hub")
    save_preset(kt.Translator(make_model(), TOKENIZER), tmp_path / "preset")
    tokenizer = hub.tokenizers.SentencePieceTokenizer(
        (tmp_path / "preset/assets/tokenizer/vocabulary.spm").read_bytes()
    )
    for text in ("a dog runs", "two cats"):
        assert np.asarray(tokenizer(text)).tolist() == TOKENIZER.encode(text)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="importing keras-nlp takes long; once is enough")
def test_keras_nlp_s_samplers_are_taken_where_ours_are():
    nlp = pytest.importorskip("keras_nlp")
    translator, texts = kt.Translator(make_model(), TOKENIZER), ["a dog runs", "two cats"]
    model = translator.model
    greedy = translator.hypotheses(texts, nlp.samplers.GreedySampler())
    assert [x[0].ids for x in greedy] == [x[0].ids for x in translator.hypotheses(texts, GreedySearch(model))]
    source = np.array([TOKENIZER.encode("a dog runs", add_eos=True)] * 8)
    for sampler in (
        nlp.samplers.TopKSampler(k=5, seed=1),
        nlp.samplers.TopPSampler(p=0.9, k=20, seed=1, temperature=2.0),
        find_sampler('{"class_name": "random", "config": {"seed": 1}}'),
    ):
        ids, scores = SamplerSearch(model, sampler, max_length=6)(source)
        assert ids.shape == (8, 1, 6) and len(np.unique(ids[:, 0], axis=0)) > 1 and (scores < 0).all()
    assert find_sampler("beam").num_beams == 5
    with pytest.raises(ValueError, match="ContrastiveSampler has a loop of its own"):
        translator.hypotheses(texts, find_sampler("contrastive"))
    with pytest.raises(ValueError, match="has no such sampler. Received: 'nucleus'"):
        find_sampler("nucleus")
