"""The examination of an environment."""

import keras
from click.testing import CliRunner

from keras_transformer import doctor
from keras_transformer.cli import main


def test_all_is_well_here(monkeypatch):
    monkeypatch.setattr(doctor, "installed_backends", lambda: [keras.backend.backend()])
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "GFLOP/s" in result.output.splitlines()[-1]


def test_what_is_amiss_is_told_and_fails(monkeypatch):
    monkeypatch.setattr(doctor, "installed_backends", lambda: [])
    monkeypatch.setattr(doctor, "_LIBRARIES", ("keras", "no-such-library"))
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "BAD  no-such-library: is missing: pip install no-such-library" in result.output
    assert "BAD  backend: none is installed" in result.output


def test_backend_that_does_not_start(monkeypatch):
    monkeypatch.setattr(doctor, "_TRIAL", "raise RuntimeError('no device')")
    seen = doctor._backend(keras.backend.backend())
    assert not seen.ok
    assert seen.text.endswith("RuntimeError: no device")


def test_settings_file_of_keras_with_a_missing_backend(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND")
    (tmp_path / "keras.json").write_text('{"backend": "tensorflow"}')
    for module in ("doctor", "environment"):
        monkeypatch.setattr(f"keras_transformer.{module}.installed_backends", lambda: ["jax"])
    (seen,) = doctor._choice()
    assert not seen.ok
    assert seen.text.startswith("commands use 'jax', but Keras in Python is set to 'tensorflow'")
    assert seen.text.endswith("set KERAS_BACKEND=jax")
