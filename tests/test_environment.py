"""Which backend will be used, found out without importing any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_transformer.environment import check_backend, chosen_backend, command_backend, installed_backends


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_chosen_by_variable_then_file_then_default(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert chosen_backend() == "tensorflow"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert chosen_backend() == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert chosen_backend() == "jax"


def test_command_takes_flag_then_variable_then_installed_of_the_file_then_first_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr("keras_transformer.environment.installed_backends", lambda: ["jax", "torch"])
    assert command_backend() == "jax"
    for content in ('{"backend": "tensorflow"}', "{", "[]", "{}"):
        (tmp_path / "keras.json").write_text(content)
        assert command_backend() == "jax"
    (tmp_path / "keras.json").write_text('{"backend": "torch"}')
    assert command_backend() == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert command_backend() == "tensorflow"
    assert command_backend("jax") == "jax"


def test_command_line_and_doctor_follow_that_rule(monkeypatch, tmp_path):
    """Keras's settings file names the last installed backend: not the one that would be taken without it."""
    (tmp_path / "keras.json").write_text(f'{{"backend": "{installed_backends()[-1]}"}}')
    code = (
        "import os, click; from keras_transformer import cli, doctor; from keras_transformer.cli import options\n"
        "print(options._use_backend(click.Context(cli.main), None, None), *doctor._choice())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [sys.executable, "-c", f"import sys; sys.argv = ['keras-transformer']\n{code}"]
    environment |= {"KERAS_HOME": str(tmp_path)}
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert child.stdout.startswith(f"{installed_backends()[-1]} Observation(subject='backend'"), child.stderr
    assert f"text='{installed_backends()[-1]}, unless" in child.stdout


def test_unknown_backend():
    with pytest.raises(ValueError, match="No backend is called 'theano'. Choose one of 'tensorflow', 'jax', 'torch'"):
        check_backend("theano")


def test_missing_backend_is_one_clear_error():
    """As in an environment where one backend is not installed, by hiding it."""
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else find(name, *a)\n"
        "import keras_transformer"
    )
    child = run(code, KERAS_BACKEND="torch")
    assert child.returncode == 1
    last = child.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: Keras is to run on the backend 'torch', but PyTorch is not installed.")
    assert "pip install 'keras-transformer[torch]'" in last
    assert f"KERAS_BACKEND={next(name for name in installed_backends() if name != 'torch')}" in last


def test_what_jax_compiles_for_the_command_line_is_kept(tmp_path):
    """In the user's cache folder, or where JAX's own variable says."""
    pytest.importorskip("jax")
    command = [sys.executable, "-m", "keras_transformer", "translate", str(tmp_path / "nowhere"), "--backend", "jax"]
    for own in (None, str(tmp_path / "own")):
        environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        if own:
            environment["JAX_COMPILATION_CACHE_DIR"] = own
        subprocess.run(command, env=environment, capture_output=True, check=False)
        folder = Path(own) if own else tmp_path / "keras_transformer" / "jax"
        assert list(folder.iterdir())
