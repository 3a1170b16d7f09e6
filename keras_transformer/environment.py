"""Which backend Keras will use and which are installed, found out without importing any of them.

Stands before everything: once Keras is imported its backend is fixed.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

# In the order in which the command line prefers them, the fastest at the preset tiny first: see docs/results.md.
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def installed_backends() -> list[str]:
    """Names of the installed backends, the preferred one first.

    Example:

    >>> from keras_transformer.environment import installed_backends
    >>> len(installed_backends()) > 0
    True
    """
    return [name for name in BACKENDS if importlib.util.find_spec(name) is not None]


def chosen_backend() -> str:
    """The backend that Keras uses or will use in Python: KERAS_BACKEND, else Keras's own settings file, else TensorFlow."""
    return os.environ.get("KERAS_BACKEND") or _file_backend() or "tensorflow"


def _file_backend() -> str | None:
    """What Keras's settings file says, or None."""
    path = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "keras.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):
        return None


def command_backend(name: str | None = None) -> str:
    """The backend the command line uses: the one asked for, else KERAS_BACKEND, else that of Keras's settings file if it is
    installed, else the first installed.

    Where there is no settings file, Keras writes one that names TensorFlow: so that file alone must not make a command fail.

    Args:
        name: what ``--backend`` says, or None.

    Returns:
        A name, which check_backend may refuse.

    Example:

    >>> from keras_transformer.environment import command_backend
    >>> command_backend("jax")
    'jax'
    """
    name = name or os.environ.get("KERAS_BACKEND")
    installed = installed_backends()
    if not name and _file_backend() in installed:
        name = _file_backend()
    return name or next(iter(installed), "tensorflow")


def check_backend(name: str | None = None) -> None:
    """Raises unless that backend, or the chosen one, can be used.

    Raises:
        ValueError: Keras has no such backend, or it is not installed; says how to choose another or install it.
    """
    name = chosen_backend() if name is None else name
    installed = installed_backends()
    if name not in BACKENDS:
        raise ValueError(
            f"No backend is called {name!r}. Choose one of {', '.join(map(repr, BACKENDS))} (installed here: "
            f"{', '.join(installed) or 'none'})."
        )
    if name not in installed and "keras" not in sys.modules:
        advice = f"Install it with pip install 'keras-transformer[{name}]'"
        if installed:
            advice += f", or choose what is installed: KERAS_BACKEND={installed[0]}"
        raise ValueError(f"Keras is to run on the backend {name!r}, but {BACKENDS[name]} is not installed. {advice}.")


def keep_compiled() -> None:
    """Lets JAX keep what it compiles, so that a second start compiles only what takes less than 0.2 s; before JAX is imported.

    In ``$XDG_CACHE_HOME/keras_transformer/jax``, or where JAX_COMPILATION_CACHE_DIR says; ``JAX_ENABLE_COMPILATION_CACHE=false``
    turns it off. The first step of the preset tiny then comes 6 s after the start instead of 12 s.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(caches / "keras_transformer" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
