import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer import translator as translator_module
from keras_transformer.decoding import BeamSearch, GreedySearch
from keras_transformer.translator import _batches, _padded, _padded_length

SENTENCE = "a dog runs over the green field and sees two small cats under an old tree"
TEXTS = [" ".join(SENTENCE.split()[: n + 1]) for n in range(16)]
TOKENIZER = kt.Tokenizer.train(TEXTS, vocabulary_size=300)


def make_translator(**kwargs):
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": 1, "seed": 2}
    model = kt.Transformer(TOKENIZER.vocabulary_size, **sizes | kwargs)
    # Weights larger than the initial ones, so that different sources get different translations.
    generator = np.random.default_rng(0)
    model.set_weights([w + 0.5 * generator.normal(size=w.shape) for w in model.get_weights()])
    return kt.Translator(model, TOKENIZER)


TRANSLATOR = make_translator()


def translate_one(text, search):
    """By hand: one sentence, no padding, no sorting."""
    ids, _ = search(np.array([TOKENIZER.encode(text, add_eos=True)]))
    return TOKENIZER.decode(ids[0, 0].tolist())


def test_each_text_gets_its_own_translation_in_the_order_given():
    texts = [TEXTS[7], "", TEXTS[0], TEXTS[3], "   ", TEXTS[7], "\n"]
    found = TRANSLATOR.translate(texts, beam_size=2, length_penalty=0.6, max_length=8)
    search = BeamSearch(TRANSLATOR.model, 2, 0.6, 8)
    assert found == [translate_one(text, search) if text.strip() else "" for text in texts]
    assert len(set(found)) >= 3  # the blank and at least two that differ, or the order would not show


def test_beam_one_is_greedy_and_batches_of_few_tokens_change_nothing():
    texts = TEXTS[::3]
    search = GreedySearch(TRANSLATOR.model, max_length=6)
    expected = [translate_one(text, search) for text in texts]
    for batch_tokens in (1, 64, 4096):
        assert TRANSLATOR.translate(texts, beam_size=1, max_length=6, batch_tokens=batch_tokens) == expected


def test_no_texts():
    assert TRANSLATOR.translate([]) == []
    assert TRANSLATOR.translate([" "]) == [""]


def test_an_iterator_of_texts():
    assert TRANSLATOR.translate(iter(TEXTS[:2]), beam_size=1, max_length=3) == TRANSLATOR.translate(
        TEXTS[:2], beam_size=1, max_length=3
    )


def test_a_single_str_is_an_error():
    with pytest.raises(ValueError, match=r"pass \[text\]"):
        TRANSLATOR.translate("a dog runs")


def test_a_foreign_vocabulary_is_an_error():
    model = kt.Transformer(TOKENIZER.vocabulary_size + 1, d_model=8, num_heads=2, num_layers=1)
    with pytest.raises(ValueError, match=f"the model has {TOKENIZER.vocabulary_size + 1} ids"):
        kt.Translator(model, TOKENIZER)


def test_model_and_tokenizer_in_the_wrong_order_are_an_error():
    with pytest.raises(ValueError, match="model is of type Tokenizer. Expected: a Transformer"):
        kt.Translator(TOKENIZER, TRANSLATOR.model)


def test_foreign_special_ids_are_an_error():
    """Equal in number, but the model would end its rows with the tokenizer's bos."""
    model = kt.Transformer(TOKENIZER.vocabulary_size, d_model=8, num_heads=2, num_layers=1, bos_id=3, eos_id=2)
    with pytest.raises(ValueError, match="the model's bos_id is 3, the tokenizer's 2"):
        kt.Translator(model, TOKENIZER)


def test_lengths_come_from_a_short_ladder():
    ladder = sorted({_padded_length(length) for length in range(1, 2000)})
    assert ladder[:8] == [8, 12, 16, 24, 32, 48, 64, 96]
    assert len(ladder) == 17  # two sizes for each doubling of 8 to 2048
    for length in range(9, 2000):
        assert length <= _padded_length(length) < length * 1.5  # at most a third is padding


def test_padded_holds_the_rows_and_few_shapes():
    rows = [[5, 6, 3], [7] * 10 + [3], [3]]
    padded = _padded(rows, pad_id=0)
    assert padded.shape == (4, 12) and padded.dtype == "int32"
    for row, ids in zip(padded, [*rows, []], strict=True):
        assert row.tolist() == ids + [0] * (12 - len(ids))
    assert [len(_padded([[3]] * count, 0)) for count in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 16]


def test_batches_hold_every_sentence_once_within_the_tokens():
    generator = np.random.default_rng(0)
    sources = {index: [5] * int(length) for index, length in enumerate(generator.integers(1, 300, 500))}
    batches = list(_batches(sources, 2048))
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    shapes = {_padded([sources[index] for index in batch], 0).shape for batch in batches}
    assert all(rows * length <= 2048 for rows, length in shapes)
    assert len(shapes) <= 12 + 1  # one for each length of the ladder to 384, and the last, smaller batch
    positions = sum(_padded([sources[index] for index in batch], 0).size for batch in batches)
    assert positions < 1.6 * sum(map(len, sources.values()))
    assert list(_batches({0: [5] * 99}, 8)) == [[0]]  # a sentence longer than that goes alone


def test_translating_many_lengths_compiles_few_shapes(monkeypatch):
    shapes = set()

    class Recorder:
        beam_size = 1

        def __init__(self, model, *arguments):
            pass

        def __call__(self, source):
            shapes.add(source.shape)
            return np.full((len(source), 1, 1), 3), np.zeros((len(source), 1))

    monkeypatch.setattr(translator_module, "GreedySearch", Recorder)
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(SENTENCE.split(), n)) for n in generator.integers(1, 60, 400)]
    lengths = {len(ids) for ids in TOKENIZER.encode(texts)}
    assert make_translator().translate(texts, beam_size=1, batch_tokens=512) == [""] * 400
    assert len(lengths) > 40 and len(shapes) <= 10


def test_a_search_is_made_once_for_each_set_of_arguments():
    translator = make_translator()
    one = translator._search(1, 0.6, 3)
    assert translator._search(1, 0.6, 3) is one and isinstance(one, GreedySearch)
    assert isinstance(translator._search(2, 0.6, 3), BeamSearch)


def test_only_the_most_recent_searches_are_kept():
    translator = make_translator()
    searches = [translator._search(1, 0.6, length) for length in range(1, 21)]
    for length, search in zip(range(13, 21), searches[12:], strict=True):
        assert translator._search(1, 0.6, length) is search
    assert translator._search(1, 0.6, 1) is not searches[0]


def test_hypotheses_say_what_was_found():
    texts = [TEXTS[5], " ", TEXTS[0]]
    search = kt.decoding.BeamSearch(TRANSLATOR.model, 3, max_length=6)
    found = TRANSLATOR.hypotheses(texts, search)
    assert [len(of_text) for of_text in found] == [3, 1, 3]
    assert found[1] == [kt.decoding.Hypothesis("", 0.0, [], True)]
    assert [of_text[0].text for of_text in found] == TRANSLATOR.translate(texts, 3, max_length=6)
    for text, of_text in zip(texts, found, strict=True):
        if text.strip():
            ids, scores = search(np.array([TOKENIZER.encode(text, add_eos=True)]))
            assert [one.ids for one in of_text] == [row[row != 0].tolist() for row in ids[0]]
            np.testing.assert_allclose([one.score for one in of_text], scores[0], rtol=1e-4)
            assert all(one.ended == (one.ids[-1] == 3) for one in of_text)
            assert all(one.text == TOKENIZER.decode(one.ids) for one in of_text)


def test_samples_do_not_depend_on_batches():
    search = kt.decoding.Sampling(TRANSLATOR.model, samples=2, seed=1, max_length=4)
    found = TRANSLATOR.hypotheses(TEXTS[:5], search)
    few = TRANSLATOR.hypotheses(TEXTS[:5], search, batch_tokens=32)
    assert [[one.ids for one in of_text] for of_text in few] == [[one.ids for one in of_text] for of_text in found]
    assert TRANSLATOR.hypotheses(TEXTS[4:5] * 3, search)[1][0].ids != []


def test_prefixes():
    texts, prefixes = TEXTS[2:5], ["two", "", "a dog"]
    found = TRANSLATOR.hypotheses(texts, GreedySearch(TRANSLATOR.model, max_length=9), prefixes)
    for of_text, prefix in zip(found, prefixes, strict=True):
        assert of_text[0].ids[: len(TOKENIZER.encode(prefix))] == TOKENIZER.encode(prefix)
    assert found[1][0].text == TRANSLATOR.translate(texts[1:2], beam_size=1, max_length=9)[0]
    with pytest.raises(ValueError, match="Each text needs a prefix"):
        TRANSLATOR.hypotheses(texts, prefixes=["a"])


def test_a_search_over_another_model_is_refused():
    with pytest.raises(ValueError, match="search must be one of decoding's.* Received: 'greedy'"):
        TRANSLATOR.hypotheses(TEXTS[:1], "greedy")
    with pytest.raises(ValueError, match="The search is over another model"):
        TRANSLATOR.hypotheses(TEXTS[:1], GreedySearch(make_translator().model))
    with pytest.raises(ValueError, match="The search is over another model"):
        TRANSLATOR.hypotheses(TEXTS[:1], GreedySearch(kt.decoding.Ensemble([make_translator().model])))


def test_an_ensemble_translates_text():
    def search():
        return GreedySearch(kt.decoding.Ensemble([TRANSLATOR.model] * 2), max_length=4)

    (expected,) = TRANSLATOR.translate(TEXTS[3:4], beam_size=1, max_length=4)
    assert TRANSLATOR.hypotheses(TEXTS[3:4], search())[0][0].text == expected
    of_ensemble = kt.Translator(search().model, TOKENIZER)
    assert of_ensemble.hypotheses(TEXTS[3:4], search())[0][0].text == expected  # over another ensemble of the same


def test_score_and_attention():
    sources, targets = [TEXTS[4], TEXTS[1]], ["two cats", "a green field and a tree"]
    scored = TRANSLATOR.score(sources, targets)
    alone = [TRANSLATOR.score([source], [target])[0] for source, target in zip(sources, targets, strict=True)]
    for one, other, source, target in zip(scored, alone, sources, targets, strict=True):
        assert one.pieces == TOKENIZER.pieces(TOKENIZER.encode(target, add_eos=True))
        np.testing.assert_allclose(one.token_log_probabilities, other.token_log_probabilities, atol=1e-5)
        assert one.text == target and len(one.pieces) == len(one.token_log_probabilities)
        assert [word for _, word in one.alignment] == list(range(len(target.split())))
        assert all(0 <= word < len(source.split()) for word, _ in one.alignment)
    (found,) = TRANSLATOR.hypotheses(sources[:1], BeamSearch(TRANSLATOR.model, 2, length_penalty=0.0, max_length=5))
    np.testing.assert_allclose(TRANSLATOR.score(sources[:1], found[:1])[0].log_probability, found[0].score, atol=1e-4)
    maps = TRANSLATOR.attention(sources[0], targets[0])
    assert maps.target == ["<s>", *maps.labels[:-1]] and maps.labels[-1] == "</s>" == maps.source[-1]
    assert maps.cross.shape == (1, 2, len(maps.labels), len(maps.source))
    with pytest.raises(ValueError, match="Each source needs a translation"):
        TRANSLATOR.score(sources, targets[:1])


def test_save_and_load(tmp_path):
    TRANSLATOR.save(tmp_path / "new" / "translator")
    folder = tmp_path / "new" / "translator"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["translator"]  # nothing left beside it
    names = ["manifest.json", "model.json", "model.weights.h5", "tokenizer.model", "translator.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    loaded = kt.Translator.load(folder)
    assert loaded.tokenizer == TOKENIZER and loaded.model.get_config() == TRANSLATOR.model.get_config()
    for one, other in zip(loaded.model.get_weights(), TRANSLATOR.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_saving_replaces_what_was_there(tmp_path):
    folder = tmp_path / "translator"
    TRANSLATOR.save(folder)
    (folder / "left_over").write_text("x")
    make_translator(d_model=16).save(folder)
    assert kt.Translator.load(folder).model.d_model == 16
    assert not (folder / "left_over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["translator"]


def test_saving_into_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"):
        TRANSLATOR.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    TRANSLATOR.save(tmp_path / "empty")
    assert (tmp_path / "empty" / "model.json").is_file()


def test_a_failed_save_leaves_the_old_translator(tmp_path, monkeypatch):
    folder = tmp_path / "translator"
    TRANSLATOR.save(folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(translator_module, "save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        make_translator(d_model=16).save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["translator"]
    assert kt.Translator.load(folder).model.d_model == 8


def test_a_fresh_process_loads_and_translates_the_same(tmp_path):
    TRANSLATOR.save(tmp_path / "translator")
    code = (
        "import sys, keras_transformer\n"
        "translator = keras_transformer.Translator.load(sys.argv[1])\n"
        "print(translator.translate(sys.argv[2:], beam_size=1, max_length=5), end='')"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "translator"), *TEXTS[1:3]],
        cwd=Path(kt.__file__).parents[1],
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stdout == str(TRANSLATOR.translate(TEXTS[1:3], beam_size=1, max_length=5)), child.stderr


@pytest.mark.parametrize("name", ["translator.json", "tokenizer.model", "model.json", "model.weights.h5"])
def test_a_missing_file_is_named(tmp_path, name):
    TRANSLATOR.save(tmp_path / "translator")
    (tmp_path / "translator" / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        kt.Translator.load(tmp_path / "translator")


def test_a_later_format_is_refused(tmp_path):
    TRANSLATOR.save(tmp_path / "translator")
    (tmp_path / "translator" / "translator.json").write_text(json.dumps({"format_version": 3}))
    with pytest.raises(ValueError, match="format version 3; this release reads 1 and 2"):
        kt.Translator.load(tmp_path / "translator")


def test_the_format_before_has_no_manifest_and_loads(tmp_path):
    folder = tmp_path / "translator"
    TRANSLATOR.save(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(kt.ArtifactError, match="manifest.json is missing"):  # this format has one
        kt.Translator.load(folder)
    (folder / "translator.json").write_text(json.dumps({"format_version": 1}))
    assert kt.Translator.load(folder).tokenizer == TOKENIZER


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_format_file_is_named(tmp_path, text):
    TRANSLATOR.save(tmp_path / "translator")
    (tmp_path / "translator" / "translator.json").write_text(text)
    with pytest.raises(ValueError, match="translator.json"):
        kt.Translator.load(tmp_path / "translator")


def test_weights_that_are_not_finite_are_an_error():
    translator = make_translator()
    translator.model.set_weights([w * np.nan for w in translator.model.get_weights()])
    texts = ["", TEXTS[1], TEXTS[9]]  # the longest comes first
    for call in (
        lambda: translator.translate(texts, beam_size=2, max_length=2),
        lambda: translator.score(texts, texts),
    ):
        with pytest.raises(ValueError, match=r"not finite for texts \[(0, )?1, 2\]"):
            call()


@pytest.mark.parametrize(
    ("texts", "arguments", "message"),
    [
        (None, {}, "takes a list of str. Received: None"),
        (["a dog", 3], {}, "takes a list of str. Received: 3"),
        (["a dog"], {"beam_size": 1.5}, "beam_size must be an integer from 1. Received: beam_size=1.5"),
        (["a dog"], {"max_length": 2.5}, "max_length must be an integer from 1"),
        (["a dog"], {"batch_tokens": 0}, "batch_tokens must be an integer from 1"),
    ],
)
def test_impossible_texts_and_arguments(texts, arguments, message):
    with pytest.raises(ValueError, match=message):
        TRANSLATOR.translate(texts, **arguments)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precision_is_near(tmp_path, precision):
    TRANSLATOR.save(tmp_path / "translator")
    loaded = kt.Translator.load(tmp_path / "translator", precision)
    assert TRANSLATOR.model.compute_dtype == "float32"
    if precision == "int8":
        assert str(loaded.model.decoder.layers[0].feed_forward.inner.kernel.dtype).endswith("int8")
    else:
        assert loaded.model.compute_dtype == "bfloat16"
    scores = [t.score(TEXTS[3:4], ["two cats"])[0].log_probability for t in (TRANSLATOR, loaded)]
    assert 0 < abs(scores[0] - scores[1]) < 0.1 * abs(scores[0])
    assert isinstance(loaded.translate(TEXTS[3:4], beam_size=1, max_length=3)[0], str)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, int8. Received: 'int4'"):
        kt.Translator.load(tmp_path / "translator", "int4")


def test_int8_does_not_search_all_objects_for_garbage_at_each_projection():
    searched, all_objects = [], len(gc.get_objects())

    def count(phase, info):
        if phase == "start" and info["generation"] == 2:
            searched.append(len(gc.get_objects()))

    gc.callbacks.append(count)
    try:
        kt.decoding.at_precision(TRANSLATOR.model, "int8")
    finally:
        gc.callbacks.remove(count)
    assert searched and sorted(searched)[len(searched) // 2] < all_objects / 5
    assert len(gc.get_objects()) > all_objects / 2
