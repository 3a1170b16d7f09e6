"""The parent of a certification: a process for each backend, then a comparison, then the certificate as a dict."""

import collections
import concurrent.futures
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_transformer._version import __version__
from keras_transformer.certify.comparison import BOUNDS, RESCORED, SEARCHES, compare, largest
from keras_transformer.certify.orphans import PARENT
from keras_transformer.certify.plan import DONE, Plan, files_of
from keras_transformer.environment import BACKENDS, installed_backends
from keras_transformer.presets import get_preset

FORMAT_VERSION = 1
TIMEOUT = 3600.0
# No accelerator takes part: products of float32 are then products of float32. Metal's plugin for TensorFlow has no such switch.
_ON_THE_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "HIP_VISIBLE_DEVICES": "",
    "ROCR_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "KERAS_TORCH_DEVICE": "cpu",
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one backend's process.

    Attributes:
        stages: {stage: {part: array}}, all that was computed before it ended.
        failure: {"stage", "message"} where it did not come to its end, else None.
        loaded: what it read, {"sha256": {file: digest}, "text": [digest, digest] or None, "sentences": N, "pairs": N}; None where
            it did not get so far.
    """

    stages: dict
    failure: dict | None = None
    loaded: dict | None = None


def certify(translator, backends=None, name=None, echo=None, timeout=TIMEOUT, **plan):
    """Computes everything on every backend from one checkpoint and says how far they differ.

    What runs on a GPU elsewhere runs on the CPU here, where float32 products are products of float32.

    Args:
        translator: folder of a saved translator.
        backends: which to compare; the first that comes to its end is what the others are compared with. None for all installed.
        name: what the certificate calls the checkpoint; None for the folder's name.
        echo: prints a line of progress; None for nothing.
        timeout: seconds that a backend may take; one that takes longer is ended, and has failed.
        plan: steps, sentences, beam_size, seed, source, target and others; see certify.plan.Plan.

    Returns:
        The certificate, a dict that JSON can hold; see docs/certify.md.

    Raises:
        ValueError: fewer than two backends, or the checkpoint cannot be read on any of them.

    Example:

        from keras_transformer.certify import certify
        certify("runs/en-de/translator")["verdict"]
    """
    backends = _usable(backends)
    plan = Plan(str(translator), **plan)
    files = files_of(plan)
    with tempfile.TemporaryDirectory(prefix="certify-") as folder:
        results = run_backends(plan, backends, folder, echo, timeout)
        rescore(results, folder, timeout)
    return certificate(plan, results, name, files)


def certificate(plan, results, name=None, files=None):
    """The certificate of what run_backends returned for a plan; ``files`` is what files_of gave before."""
    files = files_of(plan) if files is None else files
    failures = {backend: failure for backend in results if (failure := _failure(results[backend], files))}
    reference = _reference(results)
    differences = {stage: _differences(stage, reference, results) for stage in BOUNDS}
    disagreement = _first_disagreement(reference, differences, failures)
    loaded = next((result.loaded for result in results.values() if result.loaded), {})
    amounts = {
        key: value for key, value in dataclasses.asdict(plan).items() if key not in ("translator", "source", "target")
    }
    amounts |= {key: loaded[key] for key in ("sentences", "pairs") if key in loaded}  # text may be shorter than planned
    return {
        "format_version": FORMAT_VERSION,
        "verdict": "agree" if disagreement is None else "disagree",
        "first_disagreement": disagreement,
        "failures": [{"backend": backend, **failure} for backend, failure in failures.items()],
        "checkpoint": {"name": name or Path(plan.translator).name, "sha256": files["sha256"]},
        "plan": amounts,
        "text": "built-in corpus" if files["text"] is None else {"sha256": files["text"]},
        "reference": reference,
        "stages": [
            _stage(stage, by_backend, results[reference].stages[stage])
            for stage, by_backend in differences.items()
            if by_backend
        ],
        "versions": _versions(),
    }


def _usable(backends):
    """Those asked for, if they are installed and at least two."""
    installed = installed_backends()
    backends = list(installed if backends is None else backends)
    missing = [backend for backend in backends if backend not in installed]
    if missing:
        raise ValueError(
            f"{missing[0]!r} is not installed here. Received: backends={backends}. Choose among {', '.join(installed)}."
        )
    if len(set(backends)) < 2:
        raise ValueError(
            "A certificate compares backends, and needs two of TensorFlow, JAX and PyTorch. Here there is "
            f"{' and '.join(backends) or 'none'}. Install another, for instance with pip install 'keras-transformer[torch]'."
        )
    return backends


def run_backends(plan, backends, folder, echo=None, timeout=TIMEOUT):
    """Runs the process of each backend, as many at a time as there are cores.

    Returns:
        {backend: Result}.

    Raises:
        ValueError: none could read the checkpoint.
    """
    plan.write(Path(folder) / "plan.json")

    def run(backend):
        return run_backend(backend, folder, echo, timeout)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = dict(zip(backends, pool.map(run, backends), strict=True))
    unread = {backend: result.failure for backend, result in results.items() if _is_unread(result.failure)}
    if len(unread) == len(results):
        failure = unread[backends[0]]
        raise ValueError(failure["message"] if plan.translator in failure["message"] else _failed(backends[0], failure))
    if echo is not None:
        for backend, failure in unread.items():
            echo(_failed(backend, failure))
    return results


def _is_unread(failure):
    return failure is not None and failure["stage"] == "checkpoint"


def run_backend(backend, folder, echo=None, timeout=TIMEOUT):
    """Runs one backend's process; returns its Result."""
    ended = _run("keras_transformer.certify.child", backend, folder, timeout)
    status = Path(folder) / f"{backend}.json"
    status = json.loads(status.read_text(encoding="utf-8")) if status.is_file() else {"stage": "start"}
    failure = None
    if ended is not None or status["stage"] != DONE:
        failure = {"stage": status["stage"], "message": status.get("message") or ended or "it ended early"}
    if echo is not None and not _is_unread(failure):  # which is one error if all say so
        echo(f"{BACKENDS[backend]} is done." if failure is None else _failed(backend, failure))
    return Result(_read_stages(folder, backend), failure, status.get("loaded"))


def rescore(results, folder, timeout=TIMEOUT):
    """Has the reference score what other backends decoded and it did not; the scores become the part "rescored" of their stages.

    Two backends may take another of two equal hypotheses. Equal scores alone do not tell that from ids that belong elsewhere.
    """
    reference = _reference(results)
    first, asked = results[reference].stages, {}
    for backend, result in results.items():
        for stage in first.keys() & result.stages.keys() & SEARCHES:
            one, other = first[stage]["ids"], result.stages[stage]["ids"]
            if one.shape == other.shape and (differs := (one != other).any(axis=2)).any():
                asked[f"{backend}|{stage}"] = differs, other
    if not asked:
        return
    rows = {key: np.argwhere(differs)[:, 0] for key, (differs, _) in asked.items()}
    ids = {f"{key}|ids": other[differs] for key, (differs, other) in asked.items()}
    np.savez(Path(folder) / "rescore.npz", **ids, **{f"{key}|sentences": numbers for key, numbers in rows.items()})
    if _run("keras_transformer.certify.rescore", reference, folder, timeout) is not None:
        return  # what could not be scored is no tie
    with np.load(Path(folder) / "rescored.npz") as scores:
        for key, (differs, _) in asked.items():
            backend, _, stage = key.partition("|")
            rescored = np.full(differs.shape, np.nan)
            rescored[differs] = scores[key]
            results[backend].stages[stage][RESCORED] = rescored


def preset_checkpoint(preset, folder, echo=None, timeout=TIMEOUT):
    """Trains a model of that preset for a moment, in a process of its own; returns the folder of its translator.

    Args:
        preset: name of a preset, as "tiny".
        folder: an empty folder to work in.
        echo: prints a line when it is done; None for nothing.
        timeout: seconds it may take.

    Raises:
        ValueError: there is no such preset, no backend, or it fails.

    Example:

        import tempfile
        from keras_transformer.certify import certify, preset_checkpoint
        with tempfile.TemporaryDirectory() as folder:
            certificate = certify(preset_checkpoint("tiny", folder))
    """
    get_preset(preset)
    installed = installed_backends()
    if not installed:
        raise ValueError("No backend is installed: pip install 'keras-transformer[torch]', for instance.")
    backend = "torch" if "torch" in installed else installed[0]  # which compiles nothing
    (Path(folder) / "preset.json").write_text(json.dumps({"preset": preset}), encoding="utf-8")
    ended = _run("keras_transformer.certify.preset", backend, folder, timeout)
    if ended is not None:
        raise ValueError(f"The preset {preset!r} could not be trained on {BACKENDS[backend]}: {ended}")
    if echo is not None:
        echo(f"A checkpoint of {preset} is made on {BACKENDS[backend]}.")
    return Path(folder) / "translator"


def _run(module, backend, folder, timeout):
    """A process of this package on one backend, on the CPU; several share the cores. Returns None, or how it ended amiss."""
    environment = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ | _ON_THE_CPU
    environment |= {"KERAS_BACKEND": backend, PARENT: str(os.getpid())}
    command = [sys.executable, "-m", module, str(folder)]
    try:
        child = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=timeout, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"it was not done within {timeout:g} seconds"
    if not child.returncode:
        return None
    if child.returncode < 0:  # what it printed last, a warning perhaps, is not why
        return f"it was ended by {_signal(-child.returncode)}"
    return (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]


def _signal(number):
    """Its name, and what SIGKILL mostly means."""
    name = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    return f"{name}, as the system does where memory runs out" if name == "SIGKILL" else name


def _read_stages(folder, backend):
    """{stage: {part: array}} of what a child wrote, a file a stage."""
    stages = collections.defaultdict(dict)
    for file in sorted(Path(folder).glob(f"{backend}-*.npz")):
        with np.load(file) as arrays:
            for key in arrays.files:
                stage, _, part = key.partition("|")
                stages[stage][part] = arrays[key]
    return dict(stages)


def _reference(results):
    """The first backend that came to its end; if none did, the one that came farthest."""
    finished = [backend for backend, result in results.items() if result.failure is None]
    return finished[0] if finished else max(results, key=lambda backend: len(results[backend].stages))


def _failure(result, files):
    """How a backend failed, or None."""
    read = {key: result.loaded[key] for key in files} if result.loaded else files
    if result.failure is None and read != files:
        return {"stage": "checkpoint", "message": "it read other files: they were changed while it started"}
    return result.failure


def _differences(stage, reference, results):
    """{backend: Difference} of all that can be compared with the reference; empty where there is no such stage."""
    first = results[reference].stages
    return {
        backend: compare(stage, first[stage], result.stages[stage])
        for backend, result in results.items()
        if backend != reference and stage in first and stage in result.stages
    }


def _first_disagreement(reference, differences, failures):
    """In a sentence, or None. Of a stage's, what was computed comes before what could not be."""
    for stage in ("start", "checkpoint", *BOUNDS, DONE):
        for backend, difference in differences.get(stage, {}).items():
            if not difference.agrees:
                return (
                    f"{BACKENDS[backend]} and {BACKENDS[reference]} disagree at the stage {stage!r}: {difference.measured:.2g} "
                    f"{BOUNDS[stage].unit}, allowed {BOUNDS[stage].limit:g} ({difference.where})"
                )
        for backend, failure in failures.items():
            if failure["stage"] == stage:
                return _failed(backend, failure)
    return None


def _failed(backend, failure):
    return f"{BACKENDS[backend]} failed at the stage {failure['stage']!r}: {failure['message']}"


def _stage(stage, by_backend, first):
    bound = BOUNDS[stage]
    return {
        "stage": stage,
        **({} if bound.limit == 0 else {"largest": _number(largest(stage, first))}),
        "bound": bound.limit,
        "unit": bound.unit,
        "agrees": all(difference.agrees for difference in by_backend.values()),
        "differences": {
            backend: {"measured": _rounded(difference.measured), "where": difference.where}
            | ({"ties": list(difference.ties)} if difference.ties else {})
            for backend, difference in by_backend.items()
        },
    }


def _rounded(measured):
    """To three digits; None where nothing could be measured."""
    return _number(float(f"{measured:.3g}"))


def _number(value):
    """NaN and infinity as None: JSON has neither."""
    return value if math.isfinite(value) else None


def _versions():
    installed = installed_backends()
    return {
        "keras_transformer": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{package: _version(package) for package in ("keras", "numpy", "sentencepiece", "h5py")},
        **{backend: _version(backend) if backend in installed else "not installed" for backend in BACKENDS},
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # TensorFlow comes under several names
        return "of unknown version"
