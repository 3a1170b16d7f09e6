"""Tokenizers of other libraries in Batches and Translator."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.text import TokenizerPair, as_tokenizer, load_tokenizer
from keras_transformer.text.foreign import KerasNlpTokenizer

EN, DE = ["a dog runs", "a cat sleeps", "the dog sleeps"], ["ein Hund rennt", "eine Katze schläft", "der Hund schläft"]


@pytest.fixture(scope="module")
def hugging_face():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=80, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(EN + DE, trainer)
    tokenizer.enable_padding(length=50)  # which batches must not meet
    return tokenizer


def test_hugging_face_rows_have_the_special_ids(hugging_face):
    tokenizer = as_tokenizer(hugging_face)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    rows = tokenizer.encode(DE, add_bos=True, add_eos=True)
    assert all(row[0] == 2 and row[-1] == 3 and 0 not in row for row in rows)
    assert tokenizer.decode(rows) == DE
    assert tokenizer.decode(np.array([2, *rows[0][1:], 0, 5])) == DE[0]
    assert tokenizer.pieces(rows[0])[0] == "[CLS]"
    with pytest.raises(ValueError, match="contain the id 80"):
        tokenizer.decode([80])


def test_text_that_spells_special_pieces_is_text(hugging_face):
    """As an eos the text's "[SEP]" would end the row, as a pad "[PAD]" would hide a position."""
    tokenizer = as_tokenizer(hugging_face)
    texts = ["a [SEP] dog", "a dog runs", "[PAD][CLS] a cat", "a [SEP]"]
    rows = tokenizer.encode(texts, add_eos=True)
    assert all(row.index(3) == len(row) - 1 and not {0, 2} & set(row) for row in rows)
    assert rows[1] == tokenizer.encode(texts[1], add_eos=True)  # whatever stands beside it
    assert tokenizer.decode(rows[0]).endswith("dog") and "cat" in tokenizer.decode(rows[2])


def test_encoding_such_text_changes_nothing_for_another_thread(hugging_face):
    """The flag that makes special pieces text must not be switched on the tokenizer that others encode with."""
    tokenizer = as_tokenizer(hugging_face)
    ours, seen = tokenizer._tokenizer, []

    class Watched:
        def __getattr__(self, name):
            return getattr(ours, name)

        def __setattr__(self, name, value):
            seen.append((name, value))
            setattr(ours, name, value)

    tokenizer._tokenizer = Watched()
    tokenizer.encode(["a [SEP] dog", "a dog runs"])
    assert not seen


def test_words_of_the_vocabulary_that_are_special_become_unknown():
    tokenizer = as_tokenizer(LikeKerasNlp())
    assert tokenizer.encode("a [END] dog [PAD]", add_eos=True) == [4, 1, 5, 1, 3]


def test_hugging_face_in_batches_and_through_a_saved_translator(hugging_face, tmp_path):
    tokenizer = as_tokenizer(hugging_face)
    ours = kt.Tokenizer.train(EN, vocabulary_size=280)
    batches = kt.Batches(EN, DE, hugging_face, batch_tokens=128, num_buckets=1)
    assert batches.num_pairs == 3 and batches.tokenizer == tokenizer
    with pytest.raises(ValueError, match="sampling needs a kt.Tokenizer .* Received: a HuggingFaceTokenizer"):
        kt.Batches(EN, DE, hugging_face, sampling=0.1)
    for pair in ((ours, tokenizer), (tokenizer, ours)):
        with pytest.raises(ValueError, match="sampling needs a kt.Tokenizer .* Received: a HuggingFaceTokenizer"):
            kt.Batches(EN, DE, TokenizerPair(*pair), sampling=0.1)
    assert (
        TokenizerPair(hugging_face, ours).source == tokenizer and TokenizerPair(ours, hugging_face).target == tokenizer
    )
    texts = {tokenizer.decode(row) for row in batches[0][1]}
    assert texts - {""} == set(DE)
    model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1, d_ff=8, seed=1)
    translator = kt.Translator(model, hugging_face)
    translator.save(tmp_path / "t")
    assert kt.Translator.load(tmp_path / "t").tokenizer == tokenizer
    assert load_tokenizer(tmp_path / "t" / "tokenizer.model").encode(EN) == tokenizer.encode(EN)
    (tmp_path / "own.json").write_text(hugging_face.to_str())
    assert load_tokenizer(tmp_path / "own.json").encode(EN) == tokenizer.encode(EN)


def test_a_missing_special_piece_is_told(hugging_face):
    with pytest.raises(ValueError, match="has no bos piece. Looked for: <start>. Name its own as bos="):
        as_tokenizer(hugging_face, bos="<start>")
    with pytest.raises(ValueError, match="pad, bos and eos must be three pieces"):
        as_tokenizer(hugging_face, bos="[SEP]")
    for tokenizer in (hugging_face, LikeKerasNlp(), kt.Tokenizer.train(EN, vocabulary_size=280)):
        with pytest.raises(ValueError, match=r"named as pad=, unk=, bos=, eos=\. Received: bos_token='\[CLS\]'"):
            as_tokenizer(tokenizer, bos_token="[CLS]")


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(ValueError, match="tokenizer is of type dict. Expected: a Tokenizer"):
        as_tokenizer({})
    with pytest.raises(ValueError, match="Text needs a tokenizer"):
        kt.Batches(EN, DE)
    with pytest.raises(ValueError, match=r"There is no folder nofolder of prepared text \(looked in "):
        kt.Batches("nofolder")


def test_our_own_is_given_back():
    tokenizer = kt.Tokenizer.train(EN + DE, vocabulary_size=290)
    assert as_tokenizer(tokenizer) is tokenizer


class LikeKerasNlp:
    """The methods of keras-nlp's tokenizers, without the seconds its import takes."""

    words = ["[PAD]", "[UNK]", "[START]", "[END]", "a", "dog", "runs"]
    vocabulary_size = lambda self: len(self.words)  # noqa: E731
    get_vocabulary = lambda self: self.words  # noqa: E731
    id_to_token = lambda self, number: self.words[number]  # noqa: E731
    tokenize = lambda self, text: np.array([self.words.index(word) for word in text.split()])  # noqa: E731
    detokenize = lambda self, ids: " ".join(self.words[number] for number in ids)  # noqa: E731


def test_keras_nlp_by_its_methods():
    tokenizer = as_tokenizer(LikeKerasNlp())
    assert isinstance(tokenizer, KerasNlpTokenizer)
    row = tokenizer.encode("a dog runs", add_bos=True, add_eos=True)
    assert row == [2, 4, 5, 6, 3] and tokenizer.decode(row) == "a dog runs"
    with pytest.raises(ValueError, match="of keras-nlp cannot be saved with a model"):
        tokenizer.to_bytes()


@pytest.mark.deep
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its import takes ten seconds; one round is enough")
def test_keras_nlp_itself():
    keras_nlp = pytest.importorskip("keras_nlp")
    ours = kt.Tokenizer.train(EN + DE, vocabulary_size=290)
    theirs = keras_nlp.tokenizers.SentencePieceTokenizer(proto=ours.to_bytes())
    assert as_tokenizer(theirs) == ours
    words = keras_nlp.tokenizers.WordPieceTokenizer(vocabulary=LikeKerasNlp.words)
    tokenizer = as_tokenizer(words)
    assert tokenizer.encode("a dog runs", add_eos=True) == [4, 5, 6, 3]
    assert tokenizer.decode([4, 5, 6, 3]) == "a dog runs"
