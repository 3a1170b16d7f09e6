"""What all tests share: a compile cache for JAX, and a preset that compiles in a moment."""

import os
import signal
import tempfile

import pytest

# Many tests build the same small model: JAX then compiles it once a run. A new folder each run, so that no run leans on another.
_CACHE = tempfile.TemporaryDirectory(prefix="jax-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="module")
def tiny_is_one_layer():
    """Lets the preset "tiny" mean a model that is compiled in a moment: these tests are about what is around it."""
    from keras_transformer.presets import PRESETS

    with pytest.MonkeyPatch.context() as patch:
        sizes = {"num_layers": 1, "d_model": 8, "d_ff": 16, "num_heads": 2, "dropout": 0.0}
        patch.setitem(PRESETS["tiny"], "model", sizes)
        yield


@pytest.fixture
def ctrl_c():
    """SIGINT as in a terminal: a shell starts what runs in the background with that signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
