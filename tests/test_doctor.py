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
    finding = doctor._backend(keras.backend.backend())
    assert not finding.ok
    assert finding.text.endswith("RuntimeError: no device")
