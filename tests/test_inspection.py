"""What ``inspect`` and ``prepare`` print is what is there."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_transformer as kt
from keras_transformer.cli import main
from keras_transformer.text.inspection import inspect_corpus

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps", "a bird sings", "Berlin", ""] * 8
DE = [
    "ein Hund rennt",
    "eine Katze rennt",
    "der Hund schläft",
    "die Katze schläft",
    "ein Vogel singt",
    "Berlin",
    "x",
] * 8


@pytest.fixture
def files(tmp_path):
    for name, lines in (("a.en", EN), ("a.de", DE)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def test_rates_and_coverage_against_a_count():
    tokenizer = kt.Tokenizer.train(EN, vocabulary_size=280)
    batches = kt.Batches(EN, DE, tokenizer, batch_tokens=64)
    found = inspect_corpus(batches, num_samples=3)
    if importlib.util.find_spec("matplotlib"):
        with pytest.raises(ValueError, match="none/x.png cannot be written: No such file or directory. Give a file in"):
            found.plot("none/x.png")
    kept = [(s, t) for s, t in zip(EN, DE, strict=True) if s.strip()]
    ids = np.concatenate([np.array(tokenizer.encode(text), int) for pair in kept for text in pair])
    pieces = tokenizer.pieces(ids)
    assert (
        found.byte_rate == pytest.approx(np.mean([piece.startswith("<0x") for piece in pieces])) and found.byte_rate > 0
    )
    assert found.coverage == pytest.approx(len(set(ids.tolist())) / (tokenizer.vocabulary_size - 3))
    assert found.unknown_rate == 0
    assert found.source_lengths.tolist() == [len(tokenizer.encode(s)) + 1 for s, _ in kept]
    assert len(found.samples) == 3
    for source, target in found.samples:
        assert source[-1] == target[-1] == "</s>"


def test_ten_pairs_of_few_batches_and_no_trace_of_the_reading():
    tokenizer = kt.Tokenizer.train(EN, vocabulary_size=280)
    batches = kt.Batches(EN, DE, tokenizer, num_buckets=1)
    batches.restore({"epoch": 2, "position": len(batches)})
    state = batches.state()
    assert len(batches) < 10
    found = inspect_corpus(batches)
    assert len(found.samples) == 10 and batches.state() == state == {"epoch": 3, "position": 0}
    pieces = lambda text: tuple(tokenizer.pieces(tokenizer.encode(text, add_eos=True)))  # noqa: E731
    assert {tuple(map(tuple, sides)) for sides in found.samples} <= {
        (pieces(s), pieces(t)) for s, t in zip(EN, DE, strict=True)
    }
    few = kt.Batches(EN[:3], DE[:3], tokenizer, num_buckets=1, row_multiple=8)  # five rows of padding
    assert len(inspect_corpus(few).samples) == 3 and inspect_corpus(few, num_samples=0).samples == []


PACKED = "--packed-length", 128
MULTI30K = Path(os.environ.get("KERAS_TRANSFORMER_MULTI30K") or Path(__file__).parents[2] / "shared/data/multi30k")


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


once = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")


@once
def test_inspect_prints_what_is_kept_and_how_it_is_padded(files):
    text = ("--source", files / "a.en", "--target", files / "a.de", "--vocabulary-size", 300)
    pytest.importorskip("matplotlib")
    plot = files / "lengths.png"
    said = run(
        "inspect",
        *text,
        "--drop-identical",
        "--drop-duplicates",
        "--batch-tokens",
        64,
        "--num-buckets",
        3,
        "--plot",
        plot,
    )
    assert "lines: 56" in said
    assert "pairs: 5 kept; left out: 8 for empty, 8 for identical, 35 for duplicate" in said
    assert "padding share: " in said and "unknown rate: 0.0000%" in said and "1 source ▁" in said
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "of 1 shapes" in run("inspect", *text, "--packed-length", 64, "--batch-tokens", 128)


@once
def test_prepare_twice_and_train_on_it(files):
    pytest.importorskip("pyarrow")
    arguments = (
        "prepare",
        "--source",
        files / "a.en",
        "--target",
        files / "a.de",
        "--vocabulary-size",
        300,
        "--workers",
        0,
    )
    said = run(*arguments, "--output", files / "p", "--shard-pairs", 10)
    assert "48 of 56 pairs kept; left out: 8 for empty" in said
    assert run(*arguments, "--output", files / "p", "--shard-pairs", 10).splitlines()[-1] == said.splitlines()[-1]
    batches = kt.Batches(files / "p", batch_tokens=64)
    assert batches.num_pairs == 48
    for other in (("--vocabulary-size", 285), ("--separate-vocabularies",)):  # silently the old ones, else
        command = [*map(str, arguments), "--output", str(files / "p"), "--shard-pairs", "10", *map(str, other)]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 1 and "holds a preparation with tokenizer=" in result.output


@once
@pytest.mark.deep
@pytest.mark.skipif(
    not (MULTI30K / "train.de.gz").is_file(), reason="no Multi30k; KERAS_TRANSFORMER_MULTI30K names its folder"
)
def test_multi30k_is_padded_little(tmp_path):
    text = ["--source", MULTI30K / "train.en.gz", "--target", MULTI30K / "train.de.gz"]
    kt.Tokenizer.train(text[1::2]).save(tmp_path / "t.model")
    for options, shapes, most in ((("--num-buckets", 8), 8, 16), (("--num-buckets", 16), 16, 10), (PACKED, 1, 3)):
        said = run("inspect", *text, "--tokenizer", tmp_path / "t.model", *options)
        assert "pairs: 29,000 kept; left out: none" in said and f" of {shapes} shapes" in said
        assert float(re.search(r"padding share: ([\d.]+)%", said)[1]) < most


@once
def test_wrong_options_are_told_in_one_line(files):
    arguments = ["inspect", "--source", str(files / "a.en"), "--target", str(files / "a.de"), "--columns", "one"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "--columns names source and target, separated by a comma" in result.output


@once
def test_prepare_loads_neither_keras_nor_a_backend(files):
    """So that it starts in a moment and holds little memory."""
    pytest.importorskip("pyarrow")
    code = (
        "import sys; sys.argv = ['keras-transformer', 'prepare', '--source', 'a.en', '--target', 'a.de', '--output', 'q',\n"
        "    '--vocabulary-size', '300', '--workers', '0']\n"
        "from keras_transformer.cli import main; main(standalone_mode=False)\n"
        "print(sorted({'keras', 'tensorflow', 'jax', 'torch'} & set(sys.modules)))\n"
    )
    child = subprocess.run([sys.executable, "-c", code], cwd=files, capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1] == "[]"
