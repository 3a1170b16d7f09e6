"""What ``keras-transformer doctor`` looks at: Python, libraries, backends. It imports no backend into this process."""

import dataclasses
import importlib.metadata
import os
import subprocess
import sys

from keras_transformer.environment import BACKENDS, check_backend, chosen_backend, command_backend, installed_backends

_LIBRARIES = ("keras", "numpy", "h5py", "sentencepiece", "sacrebleu", "click", "pyyaml", "rich", "tensorboardX")
_OPTIONAL = {
    "matplotlib": "draws learning curves",
    "keras-nlp": "tokenizers and layers of keras-nlp",
    "ctranslate2": "export to CTranslate2",
    "onnx": "export to ONNX",
    "fastapi": "serve",
}
# One matrix product in a process of its own: whether the backend starts, where it computes, how fast.
_TRIAL = """
import time, numpy as np, keras
from keras import ops
x = ops.convert_to_tensor(np.ones((2048, 512), "float32"))
y = ops.convert_to_tensor(np.ones((512, 2048), "float32"))
def product():
    return float(ops.convert_to_numpy(ops.matmul(x, y))[0, 0])
if product() != 512.0:
    raise RuntimeError("a matrix product gave a wrong number")
begin = time.perf_counter()
for _ in range(20):
    product()
speed = 20 * 2 * 2048 * 512 * 2048 / (time.perf_counter() - begin) / 1e9
devices = keras.distribution.list_devices() if keras.backend.backend() != "torch" else [str(getattr(x, "device", "cpu"))]
print(f"computes on {', '.join(devices)}, {speed:.0f} GFLOP/s in float32")
"""


@dataclasses.dataclass(frozen=True)
class Observation:
    """One thing looked at.

    Attributes:
        subject: what.
        text: what was found and, if it is amiss, what to do.
        ok: whether all is well.
    """

    subject: str
    text: str
    ok: bool = True


def examine() -> list[Observation]:
    """Looks at everything and returns a list of Observation.

    Example:

        from keras_transformer.doctor import examine
        [seen.subject for seen in examine() if not seen.ok]
    """
    observations = [_python(), *map(_library, _LIBRARIES), *(_optional(*item) for item in _OPTIONAL.items())]
    return observations + _choice() + [_backend(name) for name in installed_backends()]


def _choice() -> list[Observation]:
    """Which backend the commands use, and whether it is the one Keras uses in Python."""
    if not installed_backends():
        return [Observation("backend", "none is installed: pip install 'keras-transformer[tensorflow]'", ok=False)]
    command, python = command_backend(), chosen_backend()
    try:
        check_backend(command)
    except ValueError as error:
        return [Observation("backend", str(error), ok=False)]
    if python in installed_backends():
        return [Observation("backend", f"{command}, unless --backend or KERAS_BACKEND says otherwise")]
    text = f"commands use {command!r}, but Keras in Python is set to {python!r}, which is not installed"
    return [Observation("backend", f"{text}: set KERAS_BACKEND={command}", ok=False)]


def _python() -> Observation:
    version = ".".join(map(str, sys.version_info[:3]))
    fit = sys.version_info >= (3, 11)
    return Observation("python", version if fit else f"{version} is too old: install 3.11 or later", ok=fit)


def _library(name: str) -> Observation:
    try:
        return Observation(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Observation(name, f"is missing: pip install {name}", ok=False)


def _optional(name: str, purpose: str) -> Observation:
    try:
        return Observation(name, f"{importlib.metadata.version(name)} ({purpose})")
    except importlib.metadata.PackageNotFoundError:
        return Observation(name, f"not installed, not needed ({purpose})")


def _backend(name: str) -> Observation:
    environment = os.environ | {"KERAS_BACKEND": name, "TF_CPP_MIN_LOG_LEVEL": "3"}
    trial = subprocess.run([sys.executable, "-c", _TRIAL], env=environment, capture_output=True, text=True, check=False)
    if trial.returncode:
        reason = (trial.stderr.strip().splitlines() or ["no message"])[-1]
        return Observation(name, f"{BACKENDS[name]} does not start: {reason}", ok=False)
    return Observation(name, trial.stdout.strip().splitlines()[-1])
