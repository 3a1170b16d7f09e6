"""The backends agree stage by stage; a drift planted in one is named by its stage; what lacks or is broken is told in a line."""

import copy
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops
from make_anchor import ANCHOR

import keras_transformer as kt
from keras_transformer.certify import certify, child, orphans, table
from keras_transformer.certify.certificate import Result, certificate, rescore, run_backend, run_backends
from keras_transformer.certify.comparison import BOUNDS, compare
from keras_transformer.certify.plan import Plan
from keras_transformer.certify.stages import Subject, rescored, searches, stages
from keras_transformer.cli import main
from keras_transformer.environment import installed_backends
from keras_transformer.text.demo import demo_corpus

BACKENDS = installed_backends()
SLICE = {"steps": 10, "sentences": 16, "pairs": 100, "batch_tokens": 256}
EVERY_SENTENCE = {"ids": np.array([[[5, 3]], [[6, 3]]]), "scores": np.array([[-1.0], [-2.0]])}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certify") / "small"
    pairs = demo_corpus(num_train=100, num_valid=0, num_test=0).train
    tokenizer = kt.Tokenizer.train(pairs.source + pairs.target, vocabulary_size=450)
    model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1, seed=1, preset="tiny")
    kt.Translator(model, tokenizer).save(folder)
    return Plan(str(folder), **SLICE)


# All backends, a process each. As they are the same whatever backend the tests run on, they run once a round.


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def found(plan, work):
    if len(BACKENDS) < 2:
        pytest.skip(f"compares backends, and only {BACKENDS} is installed")
    if keras.backend.backend() != BACKENDS[0]:
        pytest.skip(f"starts processes of its own for {', '.join(BACKENDS)}; runs once, under {BACKENDS[0]}")
    results = run_backends(plan, BACKENDS, work)
    assert not any(result.failure for result in results.values())
    return results


def test_all_backends_agree_at_every_stage(plan, found):
    result = certificate(plan, found)
    assert result["verdict"] == "agree" and result["first_disagreement"] is None and result["failures"] == []
    assert result["plan"]["sentences"] == SLICE["sentences"] and result["plan"]["pairs"] == SLICE["pairs"]
    assert [stage["stage"] for stage in result["stages"]] == list(BOUNDS)
    for stage in result["stages"]:
        assert stage["differences"].keys() == set(BACKENDS[1:])
        for difference in stage["differences"].values():
            assert difference["measured"] <= stage["bound"]
    first = found[BACKENDS[0]].stages
    assert len(first["gradients"]) == 1 + 12 + 20  # every weight: the table, an encoder layer, a decoder layer
    assert first["loss curve"]["loss"].shape == (SLICE["steps"],)
    largest = {stage["stage"]: stage.get("largest") for stage in result["stages"]}
    assert largest["greedy search"] == np.abs(first["greedy search"]["scores"]).max() and largest["batch order"] is None
    assert table(result)[-1] == "All agree."
    json.dumps(result, allow_nan=False)


def test_a_drift_planted_in_one_backend_is_named_by_its_stage(plan, found, work, tmp_path, monkeypatch):
    """A thousandth more sine in the process of the last backend alone: positions, and so the logits."""
    drifting = BACKENDS[-1]
    code = (
        "import os\n"
        f"if os.environ.get('KERAS_BACKEND') == {drifting!r}:\n"
        "    import keras\n"
        "    sin = keras.ops.sin\n"
        "    keras.ops.sin = lambda x: sin(x) * 1.001\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    plan.write(tmp_path / "plan.json")
    result = certificate(plan, found | {drifting: run_backend(drifting, tmp_path)})
    assert result["verdict"] == "disagree"
    assert "at the stage 'logits'" in result["first_disagreement"]
    agrees = {stage["stage"]: stage["agrees"] for stage in result["stages"]}
    assert agrees["initial weights"] and agrees["batch order"] and not agrees["logits"]
    assert table(result)[-1] == result["first_disagreement"]


# Drifts of other ops, in this process. PyTorch compiles nothing, so they run there.


def scaled(function, factor):
    return lambda *args, **kwargs: function(*args, **kwargs) * factor


def _weights(patch):
    from keras_transformer.initializers import XavierUniform

    patch.setattr(XavierUniform, "__call__", scaled(XavierUniform.__call__, 1 + 1e-6))


def _order(patch):
    philox = np.random.Philox
    patch.setattr(np.random, "Philox", lambda key: philox(key=key + np.uint64(1)))


def _loss(patch):
    from keras_transformer import losses

    sums = losses._weighted_sums

    def drifted(*args):
        statistics = sums(*args)
        return statistics._replace(loss=statistics.loss * 1.001)

    patch.setattr(losses, "_weighted_sums", drifted)


def _gradients(patch):
    from keras_transformer import losses

    patch.setattr(losses, "_target_sums", scaled(losses._target_sums, 1.001))


def _clipping(patch):
    patch.setattr("keras_transformer.certify.stages.CLIPNORM", 0.01001)


def _evaluate(patch):
    patch.setattr(kt.Perplexity, "result", scaled(kt.Perplexity.result, 1.001))


def _greedy(patch):
    patch.setattr(kt.decoding.GreedySearch, "length_divisor", scaled(kt.decoding.GreedySearch.length_divisor, 1.001))


def _beam(patch):
    patch.setattr(kt.decoding.BeamSearch, "length_divisor", scaled(kt.decoding.BeamSearch.length_divisor, 1.001))


def _adam(patch):
    adam = keras.optimizers.Adam
    patch.setattr(keras.optimizers, "Adam", lambda *args, **kwargs: adam(*args, **kwargs | {"beta_2": 0.97}))


PLANTED = {
    "initial weights": _weights,
    "batch order": _order,
    "loss": _loss,
    "gradients": _gradients,
    "clipped update": _clipping,
    "evaluate": _evaluate,
    "greedy search": _greedy,
    "beam search": _beam,
}


def computed(plan, last):
    """{stage: parts} of this process, up to the stage ``last``."""
    results = {}
    for stage, parts in stages(Subject(plan)).items():
        results[stage] = parts()
        if stage == last:
            break
    return results


@pytest.fixture(scope="module")
def here(plan):
    """A function from a stage to its parts as this process computes them."""
    if keras.backend.backend() != "torch":
        pytest.skip("runs where nothing is compiled")
    parts = stages(Subject(plan))
    return functools.cache(lambda stage: parts[stage]())


SLOW = {"evaluate", "greedy search", "beam search"}


@pytest.mark.parametrize("stage", [pytest.param(x, marks=pytest.mark.deep) if x in SLOW else x for x in PLANTED])
def test_every_stage_names_its_own_drift(plan, here, stage, monkeypatch):
    before = {name: here(name) for name in itertools.takewhile(lambda name: name != stage, BOUNDS)} | {
        stage: here(stage)
    }
    PLANTED[stage](monkeypatch)
    drifted = computed(plan, last=stage)
    disagreements = [name for name in drifted if not compare(name, before[name], drifted[name]).agrees]
    assert disagreements[:1] == [stage]


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="runs where nothing is compiled")
def test_the_loss_curve_tells_another_adam(plan, monkeypatch):
    """At the rates of the recipe's first 50 updates."""

    def curve():  # of a model that has not moved
        return stages(Subject(dataclasses.replace(plan, steps=50)))["loss curve"]()

    before, again = curve(), curve()
    assert compare("loss curve", before, again).measured == 0
    _adam(monkeypatch)
    assert not compare("loss curve", before, curve()).agrees


def test_a_process_gives_twice_the_same(plan, here):
    for stage, parts in computed(plan, last="clipped update").items():
        assert compare(stage, here(stage), parts).measured == 0, stage


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow gives sparse gradients")
def test_the_plain_embedding_layer_goes_astray_on_tensorflow(plan, monkeypatch):
    """keras.layers.Embedding takes rows by ops.take: duplicate rows of its gradient are not summed before clipping and Adam."""
    adam = lambda _: keras.optimizers.Adam(5e-3, beta_2=0.98, epsilon=1e-9)  # noqa: E731  clipping sums them on its way
    monkeypatch.setattr(Subject, "optimizer", adam)
    names = ("untied: gradients", "untied: clipped update", "untied: loss curve")
    ours = stages(Subject(plan))
    kept = {name: ours[name]() for name in names}
    monkeypatch.setattr("keras_transformer.layers.embedding.gather_rows", lambda rows, ids: ops.take(rows, ids, axis=0))
    theirs = stages(Subject(plan))
    plain = {name: theirs[name]() for name in names}
    assert compare(names[0], kept[names[0]], plain[names[0]]).agrees  # duplicates that are summed are the same gradient
    assert not compare(names[1], kept[names[1]], plain[names[1]]).agrees
    assert not compare(names[2], kept[names[2]], plain[names[2]]).agrees


# Everything but the computing


def synthetic(**changes):
    """What two backends might have found: one stage of each kind."""
    first = {
        "initial weights": {"table": np.zeros(32, "uint8")},
        "logits": {"logits": np.array([[1.0, -2.0]])},
        "greedy search": EVERY_SENTENCE,
        "loss curve": {"loss": np.array([3.0, 2.0])},
    }
    return {"tensorflow": Result(first), "jax": Result(copy.deepcopy(first) | changes)}


def test_a_backend_that_is_not_installed_is_no_failure(plan, monkeypatch):
    monkeypatch.setattr("keras_transformer.certify.certificate.installed_backends", lambda: ["jax"])
    result = certificate(plan, synthetic())
    assert result["verdict"] == "agree"
    assert result["versions"]["torch"] == "not installed"
    assert "PyTorch is not installed: not compared." in table(result)


def test_one_backend_alone_cannot_be_certified(plan, monkeypatch):
    monkeypatch.setattr("keras_transformer.certify.certificate.installed_backends", lambda: ["jax"])
    with pytest.raises(ValueError, match=r"needs two of TensorFlow, JAX and PyTorch\. Here there is jax\."):
        certify(plan.translator)
    with pytest.raises(ValueError, match=r"'torch' is not installed here"):
        certify(plan.translator, backends=["jax", "torch"])


def test_what_fails_in_one_backend_is_named(plan):
    """And what it computed before is compared."""
    failure = {"stage": "gradients", "message": "out of memory"}
    results = synthetic()
    results["jax"] = Result({"logits": results["jax"].stages["logits"]}, failure)
    result = certificate(plan, results)
    assert result["first_disagreement"] == "JAX failed at the stage 'gradients': out of memory"
    assert result["failures"] == [{"backend": "jax", **failure}]
    assert [stage["stage"] for stage in result["stages"]] == ["logits"] and "jax" in result["stages"][0]["differences"]


def test_the_first_disagreement_is_the_first_by_stage(plan):
    """Not a failure at a later one; and every failure stands in the certificate and the table."""
    results = synthetic(logits={"logits": np.array([[1.0, -2.1]])})
    failures = {"stage": "loss curve", "message": "out of memory"}, {"stage": "untied: loss", "message": "no space"}
    results["torch"] = Result({"logits": results["tensorflow"].stages["logits"]}, failures[0])
    results["jax"] = Result(results["jax"].stages, failures[1])
    result = certificate(plan, results)
    assert result["first_disagreement"].startswith("JAX and TensorFlow disagree at the stage 'logits'")
    assert [failure["backend"] for failure in result["failures"]] == ["jax", "torch"]
    assert {
        "JAX failed at the stage 'untied: loss': no space",
        "PyTorch failed at the stage 'loss curve': out of memory",
    } <= set(table(result))


def test_where_the_first_fails_the_others_are_compared(plan):
    results = synthetic()
    results = {"tensorflow": Result({}, {"stage": "start", "message": "no module"}), "jax": results["jax"]}
    results["torch"] = synthetic()["tensorflow"]
    result = certificate(plan, results)
    assert result["reference"] == "jax" and len(result["stages"]) == 4
    assert all(stage["differences"].keys() == {"torch"} for stage in result["stages"])
    assert result["first_disagreement"] == "TensorFlow failed at the stage 'start': no module"


def test_what_a_process_computed_before_it_failed_is_kept(plan, tmp_path, monkeypatch):
    def broken(subject):
        return {"logits": lambda: {"logits": np.ones(2)}, "loss": lambda: 1 / 0}

    monkeypatch.setattr(child, "stages", broken)
    plan.write(tmp_path / "plan.json")
    child.main(tmp_path)
    monkeypatch.setattr("keras_transformer.certify.certificate._run", lambda *_: None)
    result = run_backend(keras.backend.backend(), tmp_path)
    assert result.failure == {"stage": "loss", "message": "division by zero"}
    np.testing.assert_array_equal(result.stages["logits"]["logits"], np.ones(2))


def test_a_process_that_hangs_is_ended(plan, tmp_path):
    plan.write(tmp_path / "plan.json")
    result = run_backend(keras.backend.backend(), tmp_path, timeout=0.2)
    assert result.stages == {}
    assert result.failure == {"stage": "start", "message": "it was not done within 0.2 seconds"}


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_that_is_killed_is_told_by_the_signal(plan, tmp_path, monkeypatch):
    """Not by what it printed last."""
    child = [
        sys.executable,
        "-c",
        "import os, sys; print('a warning', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
    ]
    run = subprocess.run
    monkeypatch.setattr(
        "keras_transformer.certify.certificate.subprocess.run", lambda _, **options: run(child, **options)
    )
    failure = run_backend(keras.backend.backend(), tmp_path).failure
    assert failure == {"stage": "start", "message": "it was ended by SIGKILL, as the system does where memory runs out"}


@pytest.mark.skipif(os.name != "posix", reason="parents of processes")
def test_no_process_outlives_the_one_that_started_it():
    """As where a certification is ended by SIGTERM. The module is read by itself: the package would start a backend."""
    watch = f"runpy.run_path({orphans.__file__!r})['end_with_parent'](0.01)"
    child = f"import runpy, time; {watch}; print(1, flush=True); time.sleep(60)"
    parent = (
        "import os, subprocess, sys\n"
        f"os.environ[{orphans.PARENT!r}] = str(os.getpid())\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid)"
    )
    # What this waits for is the end of the pipe, which the child holds as well.
    ended = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=30, check=True)
    assert int(ended.stdout) > 0


def test_a_certificate_tells_what_was_computed(plan, tmp_path, monkeypatch):
    """Fewer sentences than asked for where the text has no more; and files that changed meanwhile are no proof."""
    for name in ("source", "target"):
        (tmp_path / name).write_text("a dog runs\nthe cat sleeps\n", encoding="utf-8")
    short = Plan(plan.translator, source=str(tmp_path / "source"), target=str(tmp_path / "target"))
    loaded = Subject(short).loaded
    assert (loaded["sentences"], loaded["pairs"]) == (2, 2)
    assert Subject(Plan(plan.translator, sentences=9, pairs=4)).loaded["sentences"] == 9
    results = {backend: Result(result.stages, loaded=loaded) for backend, result in synthetic().items()}
    result = certificate(short, results)
    assert result["verdict"] == "agree" and (result["plan"]["sentences"], result["plan"]["pairs"]) == (2, 2)
    results["jax"] = Result(results["jax"].stages, loaded=loaded | {"text": ["other", "other"]})
    result = certificate(short, results)
    assert "JAX failed at the stage 'checkpoint': it read other files" in result["first_disagreement"]


def test_no_accelerator_takes_part(plan, tmp_path, monkeypatch):
    seen = {}

    def run(*_, env, **__):
        seen.update(env)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr("keras_transformer.certify.certificate.subprocess.run", run)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    run_backend("jax", tmp_path)
    assert seen["JAX_PLATFORMS"] == "cpu" and seen["KERAS_TORCH_DEVICE"] == "cpu" and seen["HIP_VISIBLE_DEVICES"] == ""


def test_a_corrupt_checkpoint_gives_one_error(plan, tmp_path, monkeypatch):
    """The child says what is wrong; with all of them saying so, the parent says it once."""
    kt.Translator.load(plan.translator).save(tmp_path / "broken")
    weights = tmp_path / "broken" / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:-2000])
    work = tmp_path / "work"
    work.mkdir()
    broken = Plan(str(tmp_path / "broken"), **SLICE)
    broken.write(work / "plan.json")
    child.main(work)
    failure = json.loads((work / f"{keras.backend.backend()}.json").read_text())
    assert failure["stage"] == "checkpoint" and "model.weights.h5" in failure["message"]
    assert failure.keys() == {"stage", "message"}
    monkeypatch.setattr("keras_transformer.certify.certificate._run", lambda *_: None)
    lines = []
    assert run_backend(keras.backend.backend(), work, echo=lines.append).failure == failure
    assert lines == []
    monkeypatch.setattr("keras_transformer.certify.certificate.run_backend", lambda *_: Result({}, failure))
    monkeypatch.setattr("keras_transformer.certify.certificate.installed_backends", lambda: ["tensorflow", "jax"])
    result = CliRunner().invoke(
        main, ["certify", str(tmp_path / "broken"), "--output", str(tmp_path / "certificate.json")]
    )
    assert result.exit_code == 1
    assert result.output == f"Error: {failure['message']}\n"
    assert not (tmp_path / "certificate.json").exists()


@pytest.mark.parametrize("verdict", ["agree", "disagree"])
def test_the_command_writes_a_certificate_and_says_the_verdict(plan, tmp_path, monkeypatch, verdict):
    changes = {} if verdict == "agree" else {"logits": {"logits": np.array([[1.0, -2.1]])}}
    monkeypatch.setattr("keras_transformer.certify.certificate.installed_backends", lambda: ["tensorflow", "jax"])
    monkeypatch.setattr("keras_transformer.certify.certificate.run_backends", lambda *_: synthetic(**changes))
    file = tmp_path / "certificate.json"
    result = CliRunner().invoke(main, ["certify", plan.translator, "--output", str(file)])
    assert result.exit_code == (verdict == "disagree"), result.output
    written = json.loads(file.read_text())
    assert written["verdict"] == verdict and written["checkpoint"]["name"] == "small"
    logits = "JAX and TensorFlow disagree at the stage 'logits': 0.05 of the largest entry, allowed 1e-05 (logits)"
    assert result.stdout.splitlines()[-1] == ("All agree." if verdict == "agree" else logits)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "translator").symlink_to(plan.translator)
    assert CliRunner().invoke(main, ["certify", str(tmp_path / "run")]).exit_code == result.exit_code
    assert (tmp_path / "run" / "certificate.json").is_file()  # where export looks for it
    assert CliRunner().invoke(main, ["certify"]).exit_code == 2
    assert CliRunner().invoke(main, ["certify", plan.translator, "--preset", "tiny"]).exit_code == 2


def test_what_is_wrong_is_told_before_the_work(plan, tmp_path, monkeypatch):
    """And the table is printed before the file is written."""

    def never(*_):
        raise AssertionError("worked before looking")

    monkeypatch.setattr("keras_transformer.certify.preset_checkpoint", never)
    monkeypatch.setattr("keras_transformer.certify.certify", never)
    (tmp_path / "text").write_text("a\n")
    for arguments, reason in (
        (["--source", str(tmp_path / "text")], "Text needs both sides"),
        (["--output", str(tmp_path / "none" / "c.json")], "No certificate can be written"),
        (["--output", str(tmp_path)], "The certificate is a file"),
    ):
        result = CliRunner().invoke(main, ["certify", "--preset", "tiny", *arguments])
        assert result.exit_code == 1 and reason in result.output, result.output
    monkeypatch.setattr("keras_transformer.certify.certify", lambda *_, **__: certificate(plan, synthetic()))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras_transformer.artifacts.disk.write_file", full)
    result = CliRunner().invoke(main, ["certify", plan.translator, "--output", str(tmp_path / "c.json")])
    assert result.exit_code == 1 and "All agree." in result.stdout and "No space left" in result.output


def test_searches_may_differ_where_two_hypotheses_tie():
    """Which the first backend's own score of the other's ids proves."""
    other = {"ids": np.array([[[5, 3]], [[7, 3]]]), "scores": np.array([[-1.0], [-2.000004]])}
    proven = {"rescored": np.array([[np.nan], [-2.000003]])}
    tied = compare("beam search", EVERY_SENTENCE, other | proven)
    assert tied.agrees and tied.ties == ({"sentence": 1, "rank": 0, "scores_apart": pytest.approx(4e-6)},)
    apart = compare("beam search", EVERY_SENTENCE, other | proven | {"scores": np.array([[-1.0], [-2.00002]])})
    assert not apart.agrees and apart.where == "sentence 1, rank 0: other ids"
    drifted = compare("beam search", EVERY_SENTENCE, EVERY_SENTENCE | {"scores": np.array([[-1.0001], [-2.0]])})
    assert not drifted.agrees and drifted.where == "sentence 0, rank 0: score"
    nothing = compare("beam search", EVERY_SENTENCE, EVERY_SENTENCE | {"scores": np.array([[-1.0], [-1e9]])})
    assert not nothing.agrees


def test_equal_scores_with_unrelated_ids_are_no_tie():
    """As from wrong backtracking, or with sentences mixed up."""
    first = {"ids": np.array([[[5, 3], [6, 3]], [[7, 3], [8, 3]]]), "scores": np.array([[-1.0, -2.0], [-1.0, -2.0]])}
    swapped = first | {"ids": first["ids"][::-1]}
    assert not compare("beam search", first, swapped).agrees
    worse = {"rescored": np.array([[-7.0, -8.0], [-7.0, -8.0]])}
    assert not compare("beam search", first, swapped | worse).agrees
    twice = first | {"ids": np.array([[[5, 3], [5, 3]], [[7, 3], [8, 3]]])}
    assert not compare("beam search", first, twice | {"rescored": first["scores"]}).agrees


def test_other_ids_get_another_score(plan, here):
    """What the reference makes of its own ids are its own scores, and of others they are not."""
    subject = Subject(plan)
    for stage, search in searches(subject).items():
        ids, scores = here(stage)["ids"], here(stage)["scores"]
        numbers = np.arange(len(ids))
        own = rescored(subject, search, numbers, ids[:, 0])
        np.testing.assert_allclose(own, scores[:, 0], rtol=0, atol=1e-5 * np.abs(scores).max())
        other = ids[:, 0].copy()
        other[:, 0] = np.where(other[:, 0] == 7, 8, 7)  # another first token
        assert (np.abs(rescored(subject, search, numbers, other) - scores[:, 0]) > 1e-3).all()


def test_the_reference_is_asked_for_its_score_of_other_ids(tmp_path, monkeypatch):
    """Two backends with other ids for one sentence: the process gets these, and what it says goes to the comparison."""
    asked = {}

    def run(module, backend, folder, timeout):
        with np.load(tmp_path / "rescore.npz") as arrays:
            asked.update({name: arrays[name].tolist() for name in arrays.files}, backend=backend)
        np.savez(tmp_path / "rescored.npz", **{"jax|greedy search": np.array([-2.0])})

    monkeypatch.setattr("keras_transformer.certify.certificate._run", run)
    other = EVERY_SENTENCE | {"ids": np.array([[[5, 3]], [[7, 3]]])}
    results = synthetic(**{"greedy search": other})
    rescore(results, tmp_path)
    assert asked == {"jax|greedy search|ids": [[7, 3]], "jax|greedy search|sentences": [1], "backend": "tensorflow"}
    found = [results[backend].stages["greedy search"] for backend in ("tensorflow", "jax")]
    assert compare("greedy search", *found).agrees


@pytest.mark.parametrize("other", [{"loss": np.array([np.nan, 2.0])}, {"loss": np.zeros(3)}, {"other": np.zeros(2)}])
def test_what_cannot_be_compared_does_not_agree(plan, other):
    assert not compare("loss curve", {"loss": np.array([3.0, 2.0])}, other).agrees
    results = synthetic(**{"loss curve": other})
    result = certificate(plan, results)
    json.dumps(result, allow_nan=False)
    json.dumps(certificate(plan, dict(reversed(results.items()))), allow_nan=False)  # with the reference of no numbers
    assert any("not comparable" in line for line in table(result))


def test_a_gradient_that_is_zero_but_for_rounding_has_no_scale_of_its_own():
    first = {"kernel": np.array([1.0, -0.5]), "key bias": np.array([1e-9])}
    assert compare("gradients", first, first | {"key bias": np.array([-1e-9])}).agrees
    assert not compare("gradients", first, first | {"key bias": np.array([2e-5])}).agrees


@pytest.mark.parametrize(("arguments", "message"), [({"steps": 0}, "steps must be"), ({"source": "a"}, "both sides")])
def test_impossible_plans(arguments, message):
    with pytest.raises(ValueError, match=message):
        Plan("folder", **arguments)


def test_the_anchor_has_a_certificate():
    """It is of the very files that lie beside it."""
    written = json.loads((ANCHOR / "certificate.json").read_text(encoding="utf-8"))
    assert written["verdict"] == "agree"
    assert [stage["stage"] for stage in written["stages"]] == list(BOUNDS)
    assert all(stage["bound"] == BOUNDS[stage["stage"]].limit for stage in written["stages"])
    assert written["plan"]["steps"] == 50 and written["plan"]["sentences"] == 200
    for name, digest in written["checkpoint"]["sha256"].items():
        assert hashlib.sha256((ANCHOR / name).read_bytes()).hexdigest() == digest


def test_the_anchors_certificate_is_of_this_code():
    """Logits, loss and gradients computed again have the largest entries that the reference had."""
    written = json.loads((ANCHOR / "certificate.json").read_text(encoding="utf-8"))
    largest = {stage["stage"]: stage.get("largest") for stage in written["stages"]}
    parts = stages(Subject(Plan(str(ANCHOR))))
    for stage in ("logits", "loss", "gradients"):
        found = max(np.abs(values).max() for values in parts[stage]().values())
        assert found == pytest.approx(largest[stage], rel=2e-5), stage  # as far as two backends may be apart
