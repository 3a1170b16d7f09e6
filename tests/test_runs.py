"""Runs: limits, the best translator, and going on as if never stopped."""

import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.callbacks import read_curves
from keras_transformer.runs import Run, Settings

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps", "a bird sings"] * 8
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft", "ein Vogel singt"] * 8

pytestmark = pytest.mark.usefixtures("tiny_is_one_layer")


@pytest.fixture
def settings(tmp_path):
    for name, lines in (("train.en", EN), ("train.de", DE)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    files = str(tmp_path / "train.en"), str(tmp_path / "train.de")
    return Settings(*files, *files, batch_tokens=200, vocabulary_size=300)


def test_another_process_sees_the_same_order_and_epoch(settings, tmp_path):
    whole = Run(tmp_path / "whole", settings)
    whole.train(epochs=2)
    Run(tmp_path / "parts", settings).train(epochs=1)
    second = Run(tmp_path / "parts", settings)
    assert second.epoch == 1
    assert int(second.model.optimizer.iterations) == len(second.batches)
    second.train(epochs=2)
    assert second.batches.epoch == whole.batches.epoch
    steps = [[row["step"] for row in read_curves(tmp_path / name / "curves.csv")] for name in ("whole", "parts")]
    assert steps[0] == steps[1]


def test_trained_enough_already(settings, tmp_path):
    Run(tmp_path / "run", settings).train(epochs=1)
    again = Run(tmp_path / "run", settings)
    before = again.model.get_weights()
    again.train(epochs=1)
    for one, other in zip(before, again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_best_translator_stays(settings, tmp_path, monkeypatch):
    """The second epoch scores worse by a stand-in for BLEU: its model must not replace the first's."""
    scores = iter([30.0, 20.0])
    monkeypatch.setattr(
        "keras_transformer.callbacks.bleu", lambda *_: kt.evaluation.Score("BLEU", next(scores), "stand-in")
    )
    run = Run(tmp_path / "run", settings)
    run.train(epochs=1)
    best = kt.Translator.load(tmp_path / "run" / "translator").model.get_weights()
    run = Run(tmp_path / "run", settings)
    run.train(epochs=2)
    for one, other in zip(best, kt.Translator.load(tmp_path / "run" / "translator").model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(best, run.model.get_weights(), strict=True))


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="No preset is called"):
        Settings("a", "b", preset="huge")
    with pytest.raises(ValueError, match="valid_source='c', valid_target=None"):
        Settings("a", "b", "c")
