"""The command line, as a user meets it."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import keras_transformer as kt
from keras_transformer.callbacks import read_curves
from keras_transformer.cli import main

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps", "a bird sings"] * 8
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft", "ein Vogel singt"] * 8

pytestmark = pytest.mark.usefixtures("tiny_is_one_layer")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in (("train.en", EN), ("train.de", DE), ("val.en", EN[:5]), ("val.de", DE[:5])):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def train_arguments(texts, output, *more):
    files = {"source": "train.en", "target": "train.de", "valid-source": "val.en", "valid-target": "val.de"}
    options = [word for name, file in files.items() for word in (f"--{name}", str(texts / file))]
    return ["train", *options, "--output", str(output), "--vocabulary-size", "300", "--batch-tokens", "200", *more]


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory, tiny_is_one_layer):
    folder = tmp_path_factory.mktemp("runs") / "en-de"
    result = CliRunner().invoke(main, train_arguments(texts, folder, "--epochs", "2"), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder


def failure(*arguments, **kwargs):
    """What a failed command says; it must be one message and no traceback."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], **kwargs)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.output


def test_run_folder_holds_all(run):
    names = {path.name for path in run.iterdir()}
    assert {"run.yaml", "tokenizer.model", "checkpoints", "translator", "curves.csv", "tensorboard"} <= names
    rows = read_curves(run / "curves.csv")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss", "perplexity", "learning_rate", "val_loss", "val_bleu"} <= rows[0].keys()


def test_translate_from_stdin_to_stdout(run):
    result = CliRunner().invoke(
        main, ["translate", str(run), "--beam-size", "2"], input="a dog runs\n\nthe cat sleeps\n"
    )
    assert result.exit_code == 0
    expected = kt.Translator.load(run / "translator").translate(["a dog runs", "", "the cat sleeps"], beam_size=2)
    assert result.stdout.splitlines() == expected


def test_translate_files(run, texts, tmp_path):
    arguments = ["translate", str(run), "--source", str(texts / "val.en"), "--output", str(tmp_path / "out")]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) == 5


def test_evaluate_prints_score_and_signature(run, texts):
    arguments = ["evaluate", str(run), "--source", str(texts / "val.en"), "--target", str(texts / "val.de")]
    result = CliRunner().invoke(main, arguments)
    translations = kt.Translator.load(run / "translator").translate(EN[:5])
    assert result.stdout == f"{kt.bleu(translations, DE[:5])}\n"
    assert result.stdout.startswith("BLEU = ")


def test_train_again_goes_on(run, texts):
    result = CliRunner().invoke(main, train_arguments(texts, run, "--epochs", "3"))
    assert result.exit_code == 0
    assert "going on after epoch 2" in result.stderr
    assert [row["epoch"] for row in read_curves(run / "curves.csv")] == [1, 2, 3]
    output = failure(*train_arguments(texts, run, "--preset", "small"))
    assert "holds a run with preset='tiny'. Received: preset='small'" in output


def test_steps_and_config_file(texts, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("steps: 3\nseed: 5\n")
    result = CliRunner().invoke(main, [*train_arguments(texts, tmp_path / "run"), "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert read_curves(tmp_path / "run" / "curves.csv")[-1]["step"] == 3
    assert "seed: 5" in (tmp_path / "run" / "run.yaml").read_text()
    config.write_text("stepps: 3\n")
    assert "holds stepps, which train does not take" in failure(
        *train_arguments(texts, tmp_path / "run"), "--config", config
    )


def test_bad_texts_are_one_line_and_leave_no_folder(texts, tmp_path):
    shorter = tmp_path / "shorter.de"
    shorter.write_text("ein Hund\n")
    latin = tmp_path / "latin.de"
    latin.write_bytes("schön\n".encode("latin-1") * 40)
    empty = tmp_path / "empty.de"
    empty.write_text("")
    for target, words in (
        (shorter, "40"),
        (latin, "not UTF-8"),
        (empty, "is empty"),
        (tmp_path / "gone", "There is no file"),
    ):
        output = failure("train", "--source", texts / "train.en", "--target", target, "--output", tmp_path / "run")
        assert words in output
        assert not (tmp_path / "run").exists()


def test_impossible_values(texts, tmp_path):
    assert "No preset is called 'huge'" in failure(*train_arguments(texts, tmp_path / "run", "--preset", "huge"))
    assert "Validation needs both sides" in failure(
        *("train", "--source", texts / "train.en", "--target", texts / "train.de"),
        *("--output", tmp_path / "run", "--valid-source", texts / "val.en"),
    )
    assert "There is no folder" in failure("translate", tmp_path / "gone")
    assert "translator.json is missing" in failure("translate", tmp_path)
    assert "No backend is called 'theano'" in failure("translate", tmp_path, "--backend", "theano")


def test_help_does_not_import_keras():
    code = (
        "import sys; sys.argv = ['keras-transformer', '--help']\n"
        "from keras_transformer.cli import main\n"
        "try: main()\n"
        "finally: print([name for name in ('keras', 'numpy', 'tensorflow', 'jax', 'torch') if name in sys.modules])"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 0
    assert "translate" in child.stdout
    assert child.stdout.splitlines()[-1] == "[]"


def test_as_a_process_with_another_backend_asked_for(run):
    """--backend decides even though the variable says otherwise."""
    import keras

    command = [sys.executable, "-m", "keras_transformer", "translate", str(run), "--backend", keras.backend.backend()]
    child = subprocess.run(
        command,
        input="a dog runs\n",
        env=os.environ | {"KERAS_BACKEND": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    assert child.stdout == kt.Translator.load(run / "translator").translate(["a dog runs"])[0] + "\n"


def test_export(run, tmp_path):
    pytest.importorskip("tensorflow", reason="a SavedModel is written by TensorFlow")
    result = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "saved")])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "saved" / "card.json").read_text())["search"]["beam_size"] == 4
    assert (tmp_path / "saved" / "saved_model.pb").is_file()
