"""The frame of the benchmarks, and each table about training, with as few rounds as it takes."""

import importlib
import json
import re
import sys
import time
from pathlib import Path

import keras
import psutil
import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="the same on every backend")


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import harness
    import train

    return harness, train


def contender(body):
    """A command line that serves bursts; ``body`` is what a burst does."""
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import harness\n{body}\nharness.serve(burst)"
    return [sys.executable, "-c", code], {}


def test_a_contender_that_cannot_start_or_ends_early_is_left_out_and_the_others_go_on(modules):
    harness, _ = modules
    counting = "n = 0\ndef burst():\n    global n; n += 1\n    return {'n': n}"
    commands = {
        "counts": contender(counting),
        "ends": contender("def burst(): sys.exit('it is over')"),
        "has no package": contender("import no_such_package"),
    }
    said = []
    results = harness.measure(commands, rounds=3, echo=said.append)
    assert [burst["n"] for burst in results["counts"]] == [1, 2, 3] and all(b["peak_mb"] > 1 for b in results["counts"])
    assert list(results) == ["counts"]
    assert "has no package ended" in said[0] and "no_such_package" in said[0]
    assert "ends ended" in said[1] and "it is over" in said[1]


def test_what_a_contender_started_ends_with_it(modules):
    harness, _ = modules
    body = "import subprocess\nsleeper = subprocess.Popen(['sleep', '100'])\ndef burst(): return {'pid': sleeper.pid}"
    (burst,) = harness.measure({"sleeps": contender(body)}, rounds=1)["sleeps"]
    deadline = time.monotonic() + 10
    while psutil.pid_exists(burst["pid"]) and psutil.Process(burst["pid"]).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_median_and_spread(modules):
    harness, _ = modules
    bursts = [{"x": value} for value in (10.0, 12.0, 8.0, 10.0, 50.0)]
    assert harness.median(bursts, "x") == 10.0
    assert harness.spread(bursts, "x") == pytest.approx((31.0 - 9.0) / 2 / 10.0)
    assert harness.spread(bursts[:1], "x") == 0.0


def test_operations_of_a_step_counted_by_hand(modules):
    """One layer each of width 2, inner width 3: the encoder has 4 products of 2 x 2 and two of 2 x 3 a token, ..."""
    _, train = modules
    products = (4 * 4 + 2 * 6) + (8 * 4 + 2 * 6) + 2 * train.VOCABULARY
    attention = 3 * 2 * train.LENGTH * 2
    assert train.step_flops(1, 2, 1, 3) == 6 * train.ROWS * train.LENGTH * (products + attention)


def test_every_group_has_its_own_peers(modules):
    _, train = modules
    for groups in train.GROUPS.values():
        assert {name for group in groups for name in group} <= train.CONTENDERS.keys()
        for ours, peer in train.RATIOS:
            assert any(ours in group and peer in group for group in groups)


def test_ratios_and_the_best_of_each_side(modules, capsys):
    _, train = modules
    speeds = {"ours, TensorFlow": 30.0, "ours, JAX": 20.0, "JAX by hand": 40.0, "MarianMTModel": 10.0, "JoeyNMT": 15.0}
    results = {name: [{"tokens_per_second": speed, "peak_mb": 1.0}] for name, speed in speeds.items()}
    train.report(results | {"matrix products": [{"flops": 1e9}]}, "small")
    printed = capsys.readouterr().out
    assert " 2.00  ours, TensorFlow / JoeyNMT\n" in printed and " 0.50  ours, JAX / JAX by hand\n" in printed


@pytest.mark.deep
def test_a_table_of_training_steps(modules, monkeypatch, tmp_path):
    """The command as users call it, on its smallest size; no peer needs a package that the tests do without."""
    _, train = modules
    file = tmp_path / "train.json"
    names = ["ours, PyTorch", "torch.nn.Transformer", "JAX by hand"]
    options = ["--rounds", "2", "--seconds", "0.1", "--json", str(file)]
    for name in names:
        options += ["--only", name]
    result = CliRunner().invoke(train.main, options)
    assert result.exit_code == 0, result.output
    (group,) = json.loads(file.read_text())["results"]
    assert group.keys() == {*names, "matrix products"} and all(len(bursts) == 2 for bursts in group.values())
    assert "ours, PyTorch / torch.nn.Transformer" in result.output


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("loss", ["--rounds", "1", "--seconds", "0.1", "--backends", "torch"], ["PyTorch, chunks", "PyTorch, plain"]),
        ("start", ["--rounds", "1", "--only", "ours, PyTorch"], ["ours, PyTorch", "--help"]),
        ("length", ["--rounds", "1", "--only", "ours, PyTorch"], ["ours, PyTorch, 64", "ours, PyTorch, 128"]),
        ("fit", ["--rounds", "1", "--seconds", "0.1", "--parts", "overhead", "--sizes", "small"], ["overhead"]),
        ("operations", ["--steps", "1", "--backends", "torch"], ["torch"]),
    ],
)
def test_the_other_tables_come_to_their_end(name, options, rows, monkeypatch, tmp_path):
    """Each writes every row it was asked for; that a row holds numbers is what its own report needs."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    table = importlib.import_module(name)
    if name == "length":
        monkeypatch.setattr(table, "LENGTHS", (64, 128))
        options = [*options, "--plot", str(tmp_path / "length.png")]
    if name == "fit":
        monkeypatch.setattr(table, "BACKENDS", {"torch": "PyTorch"})
    file = tmp_path / "results.json"
    result = CliRunner().invoke(table.main, [*options, "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "left out" not in result.output
    assert set(rows) <= json.loads(file.read_text())["results"].keys()


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        (
            "saving",
            ["--saves", "2", "--between", "1"],
            r"torch tiny: step [\d.]+ ms, blocked [\d.]+ ms a save, [\d.]+% of 500 steps",
        ),
        (
            "skipping",
            ["--steps", "1", "--rounds", "2"],
            r"torch tiny, 64 tokens: step [\d.]+ ms, with SkipNonFinite [\d.]+ ms, [-+][\d.]+% \(from .*% to .*%\)",
        ),
        (
            "ending",
            ["--only", "first step"],
            r"torch tiny, first step: [\d.]+ s, [\d.]+ of them after the step, exit code 143, "
            r"the same command goes on after update (\d+)\.; then: "
            r"(going on after update \1 in epoch \d|(?<=update 0\.; then: )from the beginning)",
        ),
    ],
)
def test_lines_about_reliability(name, options, told, monkeypatch):
    """What docs/reliability.md tells of saves, of skipping and of signals, on the smallest model."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    command = importlib.import_module(name).main
    result = CliRunner().invoke(command, [*options, "--preset", "tiny", "--batch-tokens", "64"])
    assert result.exit_code == 0, result.output
    assert re.fullmatch(told, result.output.strip()), result.output
