"""The mean of a run's checkpoints as a translator: which are taken, and what is refused before any work."""

import shutil

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_transformer as kt
from keras_transformer.averaging import average_run
from keras_transformer.checkpoints import save_checkpoint
from keras_transformer.cli.average import average

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="the mean itself is in test_average.py")
SCORES = {
    1: (10.0, 3.0),
    2: (30.0, 1.5),
    3: (20.0, 2.0),
    4: (5.0, 1.0),
}  # step: val_bleu, val_loss; val_gain is the loss too, by a name that does not tell; the weights are the step


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four epochs, and a checkpoint in the middle of the fifth."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=280)
    model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1, d_ff=8)
    model.compile()
    kt.Translator(model, tokenizer).save(folder / "translator")
    history = []
    for step in range(1, 6):
        model.set_weights([np.full_like(weight, step) for weight in model.get_weights()])
        if step in SCORES:
            history.append(
                {"epoch": step}
                | dict(zip(("val_bleu", "val_loss"), SCORES[step], strict=True))
                | {"val_gain": SCORES[step][1]}
            )
        state = {"position": 0 if step in SCORES else 7, "history": history}
        save_checkpoint(model, folder / "checkpoints", state, step=step, keep=9)
    return folder


@pytest.mark.parametrize(
    ("which", "steps"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"last": 2}, [4, 5]),
        ({"best": 2}, [2, 3]),
        ({"best": 3, "monitor": "val_loss"}, [4, 2, 3]),
        ({"best": 2, "monitor": "val_gain", "mode": "max"}, [1, 3]),
        ({"best": 2, "monitor": "val_gain", "mode": "min"}, [4, 2]),
    ],
)
def test_the_mean_is_of_the_last_or_the_best(run, tmp_path, which, steps):
    paths = average_run(run, tmp_path / "mean", **which)
    assert [path.name for path in paths] == [f"step-{step}" for step in steps]
    for weight in kt.Translator.load(tmp_path / "mean").model.get_weights():
        np.testing.assert_array_equal(weight, np.float32(np.mean(steps)))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"last": 0}, "last must be an integer from 1, or None. Received: last=0"),
        ({"best": 1.5}, "best must be an integer from 1, or None. Received: best=1.5"),
        ({"last": 1, "best": 1}, "Received: last=1 and best=1. Give one."),
        ({"last": 6}, "it holds 5 checkpoints to take, 6 are wanted. Train with --keep 6, or take fewer"),
        (
            {"best": 5},
            "4 of its 5 checkpoints stand at the end of an epoch whose logs hold 'val_bleu', and 5 are wanted",
        ),
        (
            {"best": 1, "monitor": "val_chrf"},
            "0 of its 5 .* the logs hold val_bleu, val_gain, val_loss. Train .* --monitor val_chrf,",
        ),
        ({"best": 1, "monitor": "epoch"}, "'epoch' does not tell whether more or less of it is better"),
        ({"mode": "most"}, """mode must be "max", "min" or "auto". Received: mode='most'"""),
    ],
)
def test_what_cannot_be_taken_is_told(run, tmp_path, arguments, told):
    with pytest.raises(ValueError, match=told):
        average_run(run, tmp_path / "mean", **arguments)
    assert not (tmp_path / "mean").exists()


def test_the_command_takes_a_mode(run, tmp_path):
    command = [str(run), "--output", str(tmp_path / "mean"), "--best", "2", "--monitor", "val_gain"]
    result = CliRunner().invoke(average, command)
    assert 'Give "max" or "min"' in str(result.exception)
    result = CliRunner().invoke(average, [*command, "--mode", "min"])
    assert result.exit_code == 0 and "the mean of step-4, step-2" in result.output


def test_a_best_that_is_gone_is_told(run, tmp_path):
    """Of a run that kept the newest alone, the best of what is left are not the best."""
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-2")
    with pytest.warns(
        UserWarning, match="Epochs 2 were better by val_bleu, but their checkpoints are gone: train keeps"
    ):
        paths = average_run(tmp_path / "run", tmp_path / "mean", best=2)
    assert [path.name for path in paths] == ["step-3", "step-1"]


def test_a_folder_of_other_files_stays(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files, which would be lost: there is no translator.json"):
        average_run(run, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
