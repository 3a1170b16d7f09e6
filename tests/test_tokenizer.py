import gzip
import pickle
import unicodedata

import numpy as np
import pytest
import sentencepiece

import keras_transformer as kt
from keras_transformer.text import shared_rows

EN = [
    "a dog runs in the park",
    "two dogs sleep on the sofa",
    "the park is green",
    "a cat eats a fish",
    "the cat sleeps",
]
DE = ["ein Hund rennt im Park", "zwei Hunde schlafen auf dem Sofa", "der Park ist grün", "eine Katze frisst Fisch"]
SIZE = 320
BYTES = 256


@pytest.fixture(scope="module")
def tokenizer():
    return kt.Tokenizer.train(EN + DE, vocabulary_size=SIZE)


@pytest.fixture(scope="module")
def model(tokenizer):
    """The same model, read by SentencePiece alone."""
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())


def vocabulary(tokenizer):
    return tokenizer.pieces(range(tokenizer.vocabulary_size))


# Training


def test_special_ids_and_bytes_come_first(tokenizer, model):
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert vocabulary(tokenizer)[:4] == ["<pad>", "<unk>", "<s>", "</s>"]
    assert vocabulary(tokenizer)[4 : 4 + BYTES] == [f"<0x{byte:02X}>" for byte in range(BYTES)]
    assert tokenizer.vocabulary_size == model.vocab_size() == len(set(vocabulary(tokenizer)))
    assert 4 + BYTES < tokenizer.vocabulary_size <= SIZE
    assert repr(tokenizer) == f"Tokenizer(vocabulary_size={tokenizer.vocabulary_size})"


def test_training_is_repeatable_and_depends_on_the_text(tokenizer):
    assert kt.Tokenizer.train(EN + DE, vocabulary_size=SIZE) == tokenizer
    assert kt.Tokenizer.train(EN, vocabulary_size=SIZE) != tokenizer


def test_files_texts_and_gzip_give_the_same_joint_vocabulary(tokenizer, tmp_path):
    (tmp_path / "a.en").write_text("\n".join(EN), encoding="utf-8")
    (tmp_path / "a.de.gz").write_bytes(gzip.compress("\n".join(DE).encode()))
    (tmp_path / "both").write_text("\n".join(EN + DE), encoding="utf-8")
    paths = [tmp_path / "a.en", tmp_path / "a.de.gz"]
    for corpus in (paths, [str(path) for path in paths], tmp_path / "both", str(tmp_path / "both"), iter(EN + DE)):
        assert kt.Tokenizer.train(corpus, vocabulary_size=SIZE) == tokenizer


def test_joint_vocabulary_has_the_letters_of_both_languages():
    letters = set("".join(EN + DE).replace(" ", ""))
    assert letters - set("".join(EN)) and letters - set("".join(DE))
    joint = kt.Tokenizer.train(EN + DE, vocabulary_size=SIZE, character_coverage=1.0)
    english = kt.Tokenizer.train(EN, vocabulary_size=SIZE, character_coverage=1.0)
    assert letters <= set(vocabulary(joint))
    assert "ü" not in vocabulary(english)


def test_texts_that_look_like_words_are_texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kt.Tokenizer.train(["dog", "Hund ist hier."], vocabulary_size=280).decode([]) == ""
    (tmp_path / "dog").write_text("qqq xxx")
    pieces = vocabulary(kt.Tokenizer.train(["dog"], vocabulary_size=280))
    assert "q" in pieces and "d" not in pieces  # now it names a file


def test_long_texts_are_learnt_from():
    """SentencePiece alone leaves out what is longer than 4192 bytes."""
    pieces = vocabulary(kt.Tokenizer.train(["zebra " * 1000, "a dog"], vocabulary_size=280))
    assert set("zebra") <= set("".join(pieces[4 + BYTES :]))


def test_bpe_is_another_model(tokenizer):
    bpe = kt.Tokenizer.train(EN + DE, vocabulary_size=SIZE, model_type="bpe")
    assert vocabulary(bpe) != vocabulary(tokenizer)
    assert bpe.decode(bpe.encode("zwei Hunde 🐕")) == "zwei Hunde 🐕"


@pytest.mark.parametrize(
    ("normalization", "text"),
    [("nfkc", "Stadt fi ... É"), ("nfkc_cf", "stadt fi ... é"), ("identity", "Stadt ﬁ … E\u0301")],
)
def test_normalization(normalization, text):
    tokenizer = kt.Tokenizer.train(EN, vocabulary_size=280, normalization=normalization)
    assert tokenizer.decode(tokenizer.encode("Stadt ﬁ … E\u0301")) == text


def test_character_coverage_spells_rare_characters_in_bytes():
    texts = ["a" * 199 + "ß"] * 5
    assert "ß" in vocabulary(kt.Tokenizer.train(texts, vocabulary_size=270, character_coverage=1.0))
    rare = kt.Tokenizer.train(texts, vocabulary_size=270, character_coverage=0.98)
    assert "ß" not in vocabulary(rare)
    assert rare.pieces(rare.encode("ß")) == ["▁", "<0xC3>", "<0x9F>"]
    assert rare.decode(rare.encode("ß a")) == "ß a"  # the space is as rare here, and has a piece all the same


def test_vocabulary_too_small_says_what_is_needed():
    with pytest.raises(ValueError) as error:
        kt.Tokenizer.train(EN, vocabulary_size=100)
    message = str(error.value)
    needed = 4 + BYTES + len(set("".join(EN)))  # the space counts, as "▁"
    assert message.startswith("vocabulary_size=100 is too small: special ids, 256 bytes and the corpus's characters ")
    assert f"alone need {needed}. Raise vocabulary_size, or lower character_coverage." in message
    assert kt.Tokenizer.train(EN, vocabulary_size=needed).vocabulary_size == needed


def test_no_text_is_refused(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    for corpus in ([], ["", ""], iter([]), tmp_path / "empty"):
        with pytest.raises(ValueError) as error:
            kt.Tokenizer.train(corpus)
        assert str(error.value).startswith("There is no text to learn a vocabulary from: all files or texts are empty.")
        assert str(error.value).endswith("Give at least one sentence.")


def test_missing_file_is_named(tmp_path):
    (tmp_path / "here.en").write_text("a dog")
    for corpus, missing in (
        ("train.en", "train.en"),
        (tmp_path / "gone", tmp_path / "gone"),
        (["train.en.gz", "train.de.gz"], "train.en.gz"),
        ([str(tmp_path / "here.en"), "gone"], "gone"),
    ):
        with pytest.raises(ValueError) as error:
            kt.Tokenizer.train(corpus)
        assert str(error.value).startswith(f"There is no file {missing} (looked in ")
        assert str(error.value).endswith("Check the path.")


@pytest.mark.parametrize("name", ["a.jsonl", "a.tsv.gz", "a.parquet"])
def test_a_file_of_columns_is_no_text_to_learn_from(tmp_path, name):
    """Of JSON it would learn braces and names."""
    (tmp_path / name).write_text('{"source": "a dog", "target": "ein Hund"}\n')
    with pytest.raises(ValueError, match=f"{name} holds source and target in columns, by its name. Give the texts"):
        kt.Tokenizer.train(tmp_path / name)


def test_errors_from_the_midst_of_the_text_keep_their_words(tmp_path):
    (tmp_path / "a").write_bytes(b"good\nsch\xf6n\n")
    with pytest.raises(ValueError) as error:
        kt.Tokenizer.train(tmp_path / "a")
    assert str(error.value).startswith(f"{tmp_path / 'a'}:2 is not UTF-8: byte 0xf6 at column 4.")
    for wrong, message in (
        (5, "Text 2 to learn from is of type int: 5. Expected str."),
        (
            "\ud800",
            "Text 2 to learn from cannot be written in UTF-8: '\\ud800' has a lone surrogate at 0. Take it out.",
        ),
    ):
        with pytest.raises(ValueError) as error:
            kt.Tokenizer.train(["a dog", wrong])
        assert str(error.value) == message

    def broken():
        yield "a dog"
        raise KeyError("from the caller")

    with pytest.raises(KeyError, match="from the caller"):
        kt.Tokenizer.train(broken())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be an integer from 1 to 2**31 - 1. Received: 0."),
        ({"vocabulary_size": 2**31}, f"vocabulary_size must be an integer from 1 to 2**31 - 1. Received: {2**31}."),
        ({"vocabulary_size": 300.0}, "vocabulary_size must be an integer from 1 to 2**31 - 1. Received: 300.0."),
        ({"vocabulary_size": True}, "vocabulary_size must be an integer from 1 to 2**31 - 1. Received: True."),
        ({"character_coverage": 2.0}, "character_coverage must be a number from 0.98 to 1. Received: 2.0."),
        ({"character_coverage": "all"}, "character_coverage must be a number from 0.98 to 1. Received: 'all'."),
        ({"model_type": "word"}, "model_type must be one of 'unigram', 'bpe'. Received: 'word'."),
        (
            {"normalization": "nfd"},
            "normalization must be one of 'nfkc', 'nfkc_cf', 'nmt_nfkc', 'identity'. Received: 'nfd'.",
        ),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ValueError) as error:
        kt.Tokenizer.train(EN, **arguments)
    assert str(error.value) == message


@pytest.mark.parametrize("corpus", [None, 5])
def test_what_is_no_text_at_all(corpus):
    with pytest.raises(ValueError) as error:
        kt.Tokenizer.train(corpus)
    assert f"files_or_texts is of type {type(corpus).__name__}: {corpus}. Expected a file's path" in str(error.value)


# Encoding and decoding


@pytest.mark.parametrize(
    "text",
    [
        "a dog runs in the park",
        "zwei Hunde schlafen",
        "🐕‍🦺 runs 👩‍👩‍👧‍👦!",
        "日本語 مرحبا Ελληνικά",
        "𝔘𝔫𝔦 ﬁ ½ … E\u0301",
        "tab\there, line\nbreak, nul\0, bell\x07, zero\u200bwidth, right\u202eleft",
        "\U0010ffff \ufffd",
        "</s> is a text, <s>, <pad>, <unk> and <0x41> are too",
        "  many   spaces  ",
        "\u3000",
        "",
    ],
)
def test_round_trip_gives_the_normalised_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not {0, 1, 2, 3} & set(ids)
    expected = " ".join(word for word in unicodedata.normalize("NFKC", text).split(" ") if word)
    assert tokenizer.decode(ids) == expected


def test_unknown_characters_are_spelt_in_their_utf8_bytes(tokenizer):
    assert tokenizer.pieces(tokenizer.encode("🐕"))[1:] == [f"<0x{byte:02X}>" for byte in "🐕".encode()]


def test_encode_agrees_with_sentencepiece_and_adds_bos_and_eos(tokenizer, model):
    for text in EN + DE:
        ids = model.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.encode(text, add_bos=True) == [2, *ids]
        assert tokenizer.encode(text, add_eos=True) == [*ids, 3]
        assert tokenizer.encode(text, add_bos=True, add_eos=True) == [2, *ids, 3]
        assert tokenizer.pieces([2, *ids, 3]) == ["<s>", *model.encode(text, out_type=str), "</s>"]
    assert tokenizer.encode(EN, add_eos=True) == [[*model.encode(text), 3] for text in EN]
    assert tokenizer.encode([]) == [] and tokenizer.encode("") == [] and tokenizer.encode([""], add_eos=True) == [[3]]


def test_decode_stops_at_eos_and_drops_special_ids(tokenizer):
    dog, cat = tokenizer.encode("a dog"), tokenizer.encode("the cat")
    assert tokenizer.decode([2, *dog, 3, *cat, 0, 0]) == "a dog"
    assert tokenizer.decode([*dog, 0, 1, 2, *cat]) == "a dog the cat"
    assert tokenizer.decode([3, *dog]) == "" and tokenizer.decode([]) == ""


def test_decode_takes_rows_lists_and_arrays(tokenizer):
    texts = ["a dog", "the cat sleeps on the sofa", ""]
    rows = tokenizer.encode(texts, add_eos=True)
    array = np.zeros((3, max(map(len, rows))), "int32")
    for place, row in zip(array, rows, strict=True):
        place[: len(row)] = row
    for batch in (rows, tuple(rows), array, array.astype("uint16"), list(array), [[], *rows][1:]):
        assert tokenizer.decode(batch) == texts
    assert tokenizer.decode([[], rows[0]]) == ["", "a dog"]
    assert tokenizer.decode(array[0]) == tokenizer.decode(tuple(rows[0])) == "a dog"
    assert tokenizer.decode(array[:0]) == []


def test_broken_bytes_decode_to_the_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("🐕")[:-1]).startswith("\ufffd")


def test_wrong_ids_are_refused(tokenizer):
    size = tokenizer.vocabulary_size
    for call in (tokenizer.decode, tokenizer.pieces):
        for wrong in (size, -1):
            with pytest.raises(ValueError) as error:
                call([5, wrong])
            assert f"the id {wrong} at position 1. Expected ids from 0 to {size - 1}" in str(error.value)
        with pytest.raises(ValueError, match="must be integers. Received: dtype float64, beginning with 1.5"):
            call([1.5])
        for wrong, received in ((5, "shape (), int"), (np.zeros((1, 1, 1), int), "shape (1, 1, 1), ndarray")):
            with pytest.raises(ValueError) as error:
                call(wrong)
            assert f"Expected a row of ids, shape (T,). Received: {received}." in str(error.value)
    with pytest.raises(ValueError, match=f"the id {size} at position 0"):
        tokenizer.decode([[5], [size]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (5, "encode takes str or a list of str. Received: int 5."),
        (None, "encode takes str or a list of str. Received: NoneType None."),
        (b"a dog", "encode takes str or a list of str. Received: bytes b'a dog'."),
        (["a", 3], "encode takes str or a list of str. Item 1 is of type int: 3."),
        (["a", "b\ud83d"], "Text 1 cannot be written in UTF-8: 'b\\ud83d' has a lone surrogate at 1. Take it out."),
    ],
)
def test_wrong_texts_are_refused(tokenizer, text, message):
    with pytest.raises(ValueError) as error:
        tokenizer.encode(text)
    assert str(error.value) == message


# Files and bytes


def test_save_load_bytes_and_pickle_give_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "tokenizer.model")
    ids = tokenizer.encode([*DE, "🐕"])
    for copy in (
        kt.Tokenizer.load(tmp_path / "new" / "tokenizer.model"),
        kt.Tokenizer.load(str(tmp_path / "new" / "tokenizer.model")),
        kt.Tokenizer.from_bytes(tokenizer.to_bytes()),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy is not tokenizer and copy == tokenizer and hash(copy) == hash(tokenizer)
        assert copy.encode([*DE, "🐕"]) == ids and vocabulary(copy) == vocabulary(tokenizer)
    alone = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "new" / "tokenizer.model"))
    assert alone.encode([*DE, "🐕"]) == ids


def test_tokenizers_differ_when_their_models_do(tokenizer):
    other = kt.Tokenizer.train(EN, vocabulary_size=280)
    assert other != tokenizer and tokenizer != tokenizer.to_bytes()
    assert len({tokenizer, other, kt.Tokenizer.from_bytes(other.to_bytes())}) == 2


@pytest.mark.parametrize("content", [b"", b"not a model", "truncated"])
def test_bytes_that_are_no_model(tokenizer, tmp_path, content):
    content = tokenizer.to_bytes()[:200] if content == "truncated" else content
    advice = "These bytes are not a SentencePiece model. Give the bytes of a file that Tokenizer.save or SentencePiece wrote."
    with pytest.raises(ValueError) as error:
        kt.Tokenizer.from_bytes(content)
    assert str(error.value) == advice
    file = tmp_path / "broken.model"
    file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        kt.Tokenizer.load(file)
    assert str(error.value) == f"{file}: {advice}"


def test_file_that_cannot_be_read(tmp_path):
    for path, reason in ((tmp_path / "gone.model", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError) as error:
            kt.Tokenizer.load(path)
        assert str(error.value) == f"The tokenizer {path} cannot be read: {reason}. Check the path."


def test_model_without_special_ids_is_refused(tmp_path):
    # SentencePiece's own defaults: no padding.
    prefix = tmp_path / "plain"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(EN), model_prefix=str(prefix), vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    with pytest.raises(ValueError) as error:
        kt.Tokenizer.load(f"{prefix}.model")
    assert "The SentencePiece model lacks pad_id. Train it with pad_id=0, unk_id=1, bos_id=2, eos_id=3." in str(
        error.value
    )


# User symbols, sampling, other vocabularies


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_user_symbols_are_one_piece_and_never_decoded(model_type):
    tags = ["<2de>", "<2fr>"]
    tokenizer = kt.Tokenizer.train(
        ["a dog runs", "the cat sleeps"], vocabulary_size=290, user_symbols=tags, model_type=model_type
    )
    assert tokenizer.user_symbols == tuple(tags)
    tag = tokenizer.encode("<2de>")[-1]
    ids = tokenizer.encode("<2de> a dog runs", add_eos=True)
    assert ids.count(tag) == 1 and "<2de>" in tokenizer.pieces(ids)
    assert tokenizer.encode("<2fr> a dog runs", add_eos=True) != ids
    assert tokenizer.decode(ids).strip() == "a dog runs"
    again = kt.Tokenizer.from_bytes(tokenizer.to_bytes())
    assert again.user_symbols == tokenizer.user_symbols and again.decode(ids) == tokenizer.decode(ids)
    for wrong in ("", "</s>", 5):
        with pytest.raises(ValueError, match="A user symbol must be a text that is no special piece"):
            kt.Tokenizer.train(["a dog"], vocabulary_size=280, user_symbols=[wrong])
    with pytest.raises(ValueError, match="Each user symbol is given once. Received twice: '<2de>'"):
        kt.Tokenizer.train(["a dog"], vocabulary_size=280, user_symbols=["<2de>", "<2fr>", "<2de>"])
    with pytest.raises(ValueError, match="user_symbols must be a list of str. Received: a single str, '<2de>'; give"):
        kt.Tokenizer.train(["a dog"], vocabulary_size=280, user_symbols="<2de>")


def test_user_symbols_may_be_any_iterable():
    symbols = (tag for tag in ("<2de>", "<2fr>"))
    assert kt.Tokenizer.train(["a dog"], vocabulary_size=280, user_symbols=symbols).user_symbols == ("<2de>", "<2fr>")


def test_samples_depend_on_the_key_alone_and_follow_the_scores():
    tokenizer = kt.Tokenizer.train(["a green dog runs", "a green cat sleeps", "greener parks"] * 3, vocabulary_size=300)
    text = "a greener dog sleeps"
    usual = tokenizer.encode(text)
    keys = [(seed, epoch, line) for seed in range(3) for epoch in range(10) for line in range(10)]
    samples = [tokenizer.sample(text, key, alpha=0.3) for key in keys]
    assert samples == [tokenizer.sample(text, key, alpha=0.3) for key in keys]
    assert {tokenizer.decode(ids) for ids in samples} == {text}
    assert len(set(map(tuple, samples))) >= 4
    # P^alpha over the 16 best ways, against SentencePiece's own list
    ways = tokenizer._processor.nbest_encode(text, nbest_size=16, out_type=int)
    scores = np.array([sum(tokenizer._processor.get_score(piece) for piece in way) for way in ways])
    expected = np.exp(0.3 * scores) / np.exp(0.3 * scores).sum()
    drawn = np.array([samples.count(way) for way in ways]) / len(samples)
    assert drawn.sum() == pytest.approx(1) and np.abs(drawn - expected).max() < 4 * np.sqrt(0.25 / len(samples))
    assert all(tokenizer.sample(text, key, alpha=100.0) == usual for key in keys[:20])
    shortest = min(map(len, ways))
    assert all(len(tokenizer.sample(text, key, alpha=0.0, most=shortest)) <= shortest for key in keys[:20])
    assert tokenizer.sample(text, keys[0], most=1) == usual  # none is so short
    for wrong in (-1, float("inf"), float("nan"), "1"):
        with pytest.raises(ValueError, match="alpha must be a number from 0"):
            tokenizer.sample(text, keys[0], alpha=wrong)


def test_shared_rows_find_each_piece():
    old = kt.Tokenizer.train(["a dog runs", "the cat sleeps"], vocabulary_size=285)
    new = kt.Tokenizer.train(["a dog sings", "the bird sleeps well"], vocabulary_size=290, user_symbols=["<2de>"])
    rows = shared_rows(old, new)
    pieces = old.pieces(range(old.vocabulary_size))
    for number, piece in enumerate(new.pieces(range(new.vocabulary_size))):
        assert (pieces[rows[number]] == piece) if rows[number] >= 0 else piece not in pieces
    assert (rows == -1).any() and rows[:4].tolist() == [0, 1, 2, 3]
