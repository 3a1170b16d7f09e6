"""The examples run, and what they train is learnt."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name):
    return runpy.run_path(str(EXAMPLES / name))


def test_copy_task_is_learnt(capsys):
    assert run("copy_task.py")["main"]() >= 0.95


def test_your_own_layers_learn():
    assert run("your_own_layers.py")["main"]()["val_accuracy"][-1] > 0.95


def test_summarize_learns(capsys):
    losses = run("summarize.py")["main"](epochs=2)["loss"]
    assert losses[-1] < 0.7 * losses[0]


def test_translate(tmp_path):
    from keras_transformer.text import write_demo_corpus

    folder = write_demo_corpus(tmp_path, num_train=1000, num_valid=50, num_test=0)
    files = [folder / name for name in ("train.en", "train.de", "valid.en", "valid.de")]
    sizes = {"num_layers": 1, "d_model": 64, "dropout": 0.0}
    history = run("translate.py")["main"](*files, epochs=2, vocabulary_size=700, **sizes)
    assert history["loss"][-1] < history["loss"][0]
    assert "val_bleu" in history


@pytest.mark.deep
def test_walkthrough(capsys):
    run("walkthrough.py")
    assert "BLEU = " in capsys.readouterr().out
