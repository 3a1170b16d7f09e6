"""The demo: what it prints is counted rightly, and a SavedModel that answers otherwise is an error."""

import importlib.util
import re

import pytest
from make_anchor import ANCHOR

import keras_transformer as kt
from keras_transformer import demo_run
from keras_transformer.text.demo import demo_corpus

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"
)


@pytest.fixture(scope="module")
def anchor():
    return kt.Translator.load(ANCHOR)


def run(translator, monkeypatch, folder):
    """run_demo with a trained model at hand instead of three minutes of training."""
    monkeypatch.setattr(demo_run, "train_demo", lambda *_: translator)
    lines = []
    exact_match = demo_run.run_demo(folder, echo=lines.append)
    return exact_match, "\n".join(lines)


@needs_tensorflow
def test_prints_what_was_counted(anchor, monkeypatch, tmp_path):
    exact_match, output = run(anchor, monkeypatch, tmp_path / "demo")
    test = demo_corpus().test
    translations = anchor.translate(test.source, beam_size=1)
    counted = sum(one == other for one, other in zip(translations, test.target, strict=True)) / len(test)
    assert exact_match == pytest.approx(counted) and counted >= 0.95
    assert f"exact_match={counted:.3f}" in output
    assert float(re.search(r"word_by_word_dictionary=(\S+)", output)[1]) < 0.2
    assert test.source[0] in output
    assert (tmp_path / "demo" / "1" / "saved_model.pb").is_file()


def test_a_folder_with_other_files_is_told_before_the_training(monkeypatch, tmp_path):
    monkeypatch.setattr(demo_run, "train_demo", lambda *_: pytest.fail("trained"))
    (tmp_path / "demo-translator").mkdir()
    (tmp_path / "demo-translator" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="demo-translator holds other files"):
        demo_run.run_demo(f"{tmp_path}/demo/", echo=print)


@needs_tensorflow
def test_other_answers_are_an_error(anchor, tmp_path):
    anchor.export(tmp_path / "saved", beam_size=1, text=False)
    other = kt.Translator(type(anchor.model).from_config(anchor.model.get_config()), anchor.tokenizer)
    with pytest.raises(ValueError, match="answers 2 of 2 texts differently from Python"):
        demo_run.check_answers(other, tmp_path / "saved", ["The dog sleeps.", "My aunt sings."])


def test_without_tensorflow_it_says_so(anchor, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    _, output = run(anchor, monkeypatch, tmp_path / "demo")
    assert "No SavedModel is written: TensorFlow is not installed" in output


@pytest.mark.deep
def test_the_demo_learns_its_corpus(tmp_path):
    assert demo_run.run_demo(tmp_path / "demo") >= 0.95
