"""Hugging Face's MarianTokenizer as the oracle."""

import json
import warnings

import pytest
import sentencepiece

import keras_transformer as kt
from keras_transformer.interchange import MarianTokenizer, MarianTransformer

TEXTS = ["a dog runs", "two cats sleep", "ein Hund rennt", "zwei Katzen schlafen"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    pieces = ["</s>", "<unk>", ">>deu<<"]
    for name, texts in (("source", TEXTS[:2]), ("target", TEXTS[2:])):
        kt.Tokenizer.train(texts, vocabulary_size=290).save(folder / f"{name}.spm")
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.spm"))
        pieces += [model.id_to_piece(number) for number in range(4, model.vocab_size())]
    vocabulary = {piece: number for number, piece in enumerate([*dict.fromkeys(pieces), "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


def test_ids_and_texts_are_those_of_transformers(folder):
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends sacremoses
        oracle = transformers.MarianTokenizer(
            *(str(folder / name) for name in ("source.spm", "target.spm", "vocab.json")), source_lang="en"
        )
    tokenizer = MarianTokenizer(folder)
    for text in ("a dog sleeps", ">>deu<< two dogs", "ein", ""):
        assert tokenizer.encode(text, add_eos=True) == oracle(text)["input_ids"]
    ids = [oracle.encoder[piece] for piece in oracle.spm_target.encode(TEXTS[2], out_type=str)]
    assert tokenizer.decode([*ids, tokenizer.eos_id, tokenizer.pad_id]) == TEXTS[2]
    assert tokenizer.decode([[*ids, tokenizer.eos_id], [tokenizer.eos_id]]) == [TEXTS[2], ""]


def test_a_translator_takes_it(folder):
    tokenizer = MarianTokenizer(folder)
    ids = {name: getattr(tokenizer, name) for name in ("pad_id", "bos_id", "eos_id")}
    model = MarianTransformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1, **ids)
    translations = kt.Translator(model, tokenizer).translate(["a dog", ""], beam_size=1, max_length=3)
    assert isinstance(translations[0], str) and translations[1] == ""


def test_refusals(folder, tmp_path):
    with pytest.raises(ValueError, match="source.spm is missing"):
        MarianTokenizer(tmp_path)
    with pytest.raises(ValueError, match="has three files and cannot be saved as"):
        MarianTokenizer(folder).save(tmp_path / "tokenizer.model")
    with pytest.raises(ValueError, match="vocabulary"):
        MarianTokenizer(folder).decode([10**6])
