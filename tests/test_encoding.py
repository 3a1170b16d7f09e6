"""A corpus in whatever form becomes the same rows, with its lines and counts."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.text import Mixture, PairStream, read_pairs
from keras_transformer.text.encoding import encode_corpus

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
SOURCE, TARGET = ["a dog", "", "a cat runs", "runs"], ["ein Hund", "x", "eine Katze rennt", "rennt"]
TOKENIZER = kt.Tokenizer.train(SOURCE + TARGET, vocabulary_size=290)


def rows(side):
    ids, begins, lengths = side.take(np.arange(len(side.lengths)))
    return [ids[b : b + n].tolist() for b, n in zip(begins, lengths, strict=True)]


@pytest.mark.parametrize("form", ["lists", "stream", "corpus", "pair in a mixture", "files"])
def test_every_form_gives_the_same_rows_lines_and_counts(form, tmp_path):
    text = {
        "lists": (SOURCE, TARGET),
        "stream": (PairStream(SOURCE, TARGET), None),
        "corpus": (read_pairs(SOURCE, TARGET), None),
        "pair in a mixture": (Mixture([(SOURCE, TARGET)]), None),
        "files": (tmp_path / "a", tmp_path / "b"),
    }[form]
    (tmp_path / "a").write_text("\n".join(SOURCE))
    (tmp_path / "b").write_text("\n".join(TARGET))
    corpus = encode_corpus(*text, TOKENIZER, keep_texts=True)
    kept = [0, 2, 3]
    assert rows(corpus.source) == [TOKENIZER.encode(SOURCE[n], add_eos=True) for n in kept]
    assert rows(corpus.target) == [TOKENIZER.encode(TARGET[n], add_bos=True, add_eos=True) for n in kept]
    assert [corpus.line_of(n) for n in range(3)] == [1, 3, 4]
    assert (corpus.counts.lines, corpus.counts.kept, corpus.counts.dropped) == (4, 3, {"empty": 1})
    assert [corpus.source_texts.text(n) for n in range(3)] == [SOURCE[n] for n in kept]
    assert [corpus.target_texts.text(n) for n in range(3)] == [TARGET[n] for n in kept]


def test_chunks_change_nothing(monkeypatch):
    whole = encode_corpus(SOURCE, TARGET, TOKENIZER, keep_texts=False)
    monkeypatch.setattr("keras_transformer.text.encoding.CHUNK", 2)
    parts = encode_corpus(SOURCE, TARGET, TOKENIZER, keep_texts=False)
    assert rows(parts.source) == rows(whole.source) and rows(parts.target) == rows(whole.target)
    assert parts.source_texts is None and parts.counts == whole.counts


def test_lines_of_a_mixture_count_in_each_corpus():
    corpus = encode_corpus(Mixture([(SOURCE, TARGET), (SOURCE[2:], TARGET[2:])]), None, TOKENIZER, keep_texts=True)
    assert [corpus.line_of(n) for n in range(5)] == [1, 3, 4, 1, 2]
    assert len({corpus.source_texts.line(n) for n in range(5)}) == 5  # what samples are drawn by differs
    assert corpus.repeats(np.arange(5)).tolist() == [1] * 5
    with pytest.raises(ValueError, match="No pair of corpus 1 of the mixture is left"):
        corpus.repeats(np.arange(3))


def test_text_needs_a_tokenizer_and_a_pair():
    with pytest.raises(ValueError, match="Text needs a tokenizer"):
        encode_corpus(SOURCE, TARGET, None, keep_texts=False)
    with pytest.raises(ValueError, match="source and target hold no pair"):
        encode_corpus([" "], ["a"], TOKENIZER, keep_texts=False)
