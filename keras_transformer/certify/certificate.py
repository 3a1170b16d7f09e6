"""The parent of a certification: a process for each backend, then a comparison, then the certificate as a dict."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from keras_transformer._version import __version__
from keras_transformer.certify.comparison import BOUNDS, compare
from keras_transformer.certify.plan import Plan
from keras_transformer.environment import BACKENDS, installed_backends
from keras_transformer.presets import get_preset

FORMAT_VERSION = 1
_FILES = ("model.json", "model.weights.h5", "tokenizer.model")


def certify(translator, backends=None, name=None, echo=None, **plan):
    """Computes everything on every backend from one checkpoint and says how far they differ.

    What runs on a GPU elsewhere runs on the CPU here, where float32 products are products of float32.

    Args:
        translator: folder of a saved translator.
        backends: which to compare, the first being the one that the others are compared with; None for all installed ones.
        name: what the certificate calls the checkpoint; None for the folder's name.
        echo: prints a line of progress; None for nothing.
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
    with tempfile.TemporaryDirectory(prefix="certify-") as folder:
        found, failures = run_backends(plan, backends, folder, echo)
    return certificate(plan, backends, found, failures, name)


def certificate(plan, backends, found, failures=(), name=None):
    """The certificate of what run_backends returned for a plan."""
    differences = {stage: _differences(stage, backends, found) for stage in BOUNDS}
    disagreement = _first_disagreement(backends, differences, dict(failures))
    translator = Path(plan.translator)
    amounts = {
        key: value for key, value in dataclasses.asdict(plan).items() if key not in ("translator", "source", "target")
    }
    return {
        "format_version": FORMAT_VERSION,
        "verdict": "agree" if disagreement is None else "disagree",
        "first_disagreement": disagreement,
        "checkpoint": {"name": name or translator.name, "sha256": _hashes(translator)},
        "plan": amounts,
        "text": "built-in corpus" if plan.source is None else {"sha256": [_sha256(plan.source), _sha256(plan.target)]},
        "reference": backends[0],
        "stages": [_stage(stage, by_backend) for stage, by_backend in differences.items() if by_backend],
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


def run_backends(plan, backends, folder, echo=None):
    """Runs the process of each backend, as many at a time as there are cores.

    Returns:
        {backend: {stage: {part: array}}} of those that came to an end, and {backend: {"stage", "message"}} of the others.

    Raises:
        ValueError: none could read the checkpoint.
    """
    plan.write(Path(folder) / "plan.json")
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = dict(
            zip(backends, pool.map(lambda backend: run_backend(backend, folder, echo), backends), strict=True)
        )
    failures = {backend: result for backend, result in results.items() if "message" in result}
    if len(failures) == len(backends) and all(failure["stage"] == "checkpoint" for failure in failures.values()):
        raise ValueError(failures[backends[0]]["message"])
    return {backend: result for backend, result in results.items() if backend not in failures}, failures


def run_backend(backend, folder, echo=None):
    """Runs one backend's process; returns {stage: {part: array}}, or {"stage", "message"} if it failed."""
    child = _run("keras_transformer.certify.child", backend, folder)
    output, failure = (Path(folder) / f"{backend}{suffix}" for suffix in (".npz", ".json"))
    if failure.is_file():
        return json.loads(failure.read_text(encoding="utf-8"))
    if child.returncode or not output.is_file():
        return {"stage": "start", "message": _last_line(child)}
    if echo is not None:
        echo(f"{BACKENDS[backend]} is done.")
    return _read_stages(output)


def preset_checkpoint(preset, folder, echo=None):
    """Trains a model of that preset for a moment, in a process of its own; returns the folder of its translator.

    Raises:
        ValueError: there is no such preset, no backend, or it fails.
    """
    get_preset(preset)
    installed = installed_backends()
    if not installed:
        _usable(None)
    backend = "torch" if "torch" in installed else installed[0]  # which compiles nothing
    (Path(folder) / "preset.json").write_text(json.dumps({"preset": preset}), encoding="utf-8")
    child = _run("keras_transformer.certify.preset", backend, folder)
    if child.returncode:
        raise ValueError(f"The preset {preset!r} could not be trained on {BACKENDS[backend]}: {_last_line(child)}")
    if echo is not None:
        echo(f"A checkpoint of {preset} is made on {BACKENDS[backend]}.")
    return Path(folder) / "translator"


def _run(module, backend, folder):
    """A process of this package on one backend, on the CPU; several share the cores."""
    environment = {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ
    environment |= {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", module, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _last_line(child):
    return (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]


def _read_stages(file):
    """{stage: {part: array}} of what a child wrote."""
    stages = collections.defaultdict(dict)
    with np.load(file) as arrays:
        for key in arrays.files:
            stage, _, part = key.partition("|")
            stages[stage][part] = arrays[key]
    return dict(stages)


def _differences(stage, backends, found):
    """{backend: Difference} of all that can be compared with the first; empty where the checkpoint has no such stage."""
    first = found.get(backends[0], {})
    return {
        backend: compare(stage, first[stage], found[backend][stage])
        for backend in backends[1:]
        if stage in first and backend in found
    }


def _first_disagreement(backends, differences, failures):
    """In a sentence, or None."""
    for backend, failure in failures.items():
        return f"{BACKENDS[backend]} failed at the stage {failure['stage']!r}: {failure['message']}"
    for stage, by_backend in differences.items():
        for backend, difference in by_backend.items():
            if not difference.agrees:
                return (
                    f"{BACKENDS[backend]} and {BACKENDS[backends[0]]} disagree at the stage {stage!r}: {difference.measured:.2g} "
                    f"{BOUNDS[stage].unit}, allowed {BOUNDS[stage].limit:g} ({difference.where})"
                )
    return None


def _stage(stage, by_backend):
    bound = BOUNDS[stage]
    return {
        "stage": stage,
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
    """To three digits; None, as JSON has it, where nothing could be measured."""
    return float(f"{measured:.3g}") if math.isfinite(measured) else None


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


def _hashes(folder):
    return {name: _sha256(folder / name) for name in _FILES if (folder / name).is_file()}


def _sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
