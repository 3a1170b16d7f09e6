"""The README's commands and code exist and run."""

import importlib.util
import re
from pathlib import Path

from click.testing import CliRunner

import keras_transformer as kt
from keras_transformer.cli import main
from keras_transformer.presets import PRESETS
from keras_transformer.text import write_demo_corpus

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_and_their_options_exist():
    commands = re.findall(r"keras-transformer (\w+)((?:[^\n`|]|\\\n)*)", README)
    assert {name for name, _ in commands} >= {"train", "translate", "evaluate", "export", "doctor"}
    for name, rest in commands:
        command = main.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known, name


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([\w-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_presets_are_as_the_table_says():
    rows = {
        row[0]: row
        for row in re.findall(
            r"^\| (\w+) \| (\d+) \+ \d+ \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) \| (\w+) \|", README, re.M
        )
    }
    assert rows.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        sizes = ("num_layers", "d_model", "d_ff", "num_heads", "dropout", "norm")
        assert rows[name][1:] == tuple(str(preset["model"][size]) for size in sizes)


def test_rooms_of_the_architecture_exist():
    section = README.split("## Architecture")[1].split("##")[0]
    for file in re.findall(r"\b(\w+\.py)\b", section):
        assert list((ROOT / "keras_transformer").rglob(file)), file


def test_python_code_runs_as_it_stands(tmp_path, monkeypatch):
    """Verbatim but for preset, batch_tokens and epochs, on a slice of the built-in corpus."""
    code = re.search(r"```python\n(import keras, .*?)```", README, re.DOTALL)[1]
    assert code.count("25_000") == 2 and code.count('"base"') == 1
    code = code.replace("25_000", "512").replace("epochs=20", "epochs=1").replace("d_model=512", "d_model=128")
    code = code.replace('from_preset("base"', 'from_preset("tiny", num_layers=1').replace(
        "vocabulary_size=8000", "vocabulary_size=500"
    )
    if importlib.util.find_spec("tensorflow") is None:
        code = re.sub(r"translator\.export.*", "", code)
    write_demo_corpus(tmp_path, num_train=64, num_valid=16, num_test=0)
    for language in ("en", "de"):
        (tmp_path / f"valid.{language}").rename(tmp_path / f"val.{language}")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert isinstance(kt.Translator.load("run/translator").translate(["A dog."])[0], str)
    assert "val_bleu" in names["model"].history.history


def test_command_line_help_names_the_commands():
    output = CliRunner().invoke(main, ["--help"]).output
    for name in ("demo", "train", "translate", "evaluate", "export", "doctor"):
        assert name in output
