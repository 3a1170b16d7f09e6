"""Interruption: signals end training between two batches; tests/reliability/test_signals.py sends them to processes."""

import signal

import keras
import numpy as np
import pytest
from small_training import fit, make_training

from keras_transformer.callbacks import Checkpoints, Interrupted, Interruption
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint


class _Signals(keras.callbacks.Callback):
    """Sends a signal to this process at a place in ``fit``."""

    def __init__(self, hook, number, at):
        super().__init__()
        setattr(self, hook, lambda place, logs=None: signal.raise_signal(number) if place == at else None)


def _broken_off(model, batches, folder, hook, number, at):
    """Trains until that signal; returns the error and the checkpoint's state."""
    checkpoints, before = Checkpoints(folder), signal.getsignal(number)
    interruption = Interruption(checkpoints.save)
    callbacks = [checkpoints, _Signals(hook, number, at), interruption]
    with pytest.raises(Interrupted) as error, interruption:
        fit(model, batches, callbacks, epochs=3, validation_data=batches)
    checkpoints.wait()
    assert signal.getsignal(number) is before
    assert isinstance(error.value, KeyboardInterrupt) and error.value.signal == number
    state = load_checkpoint(model, latest_checkpoint(folder))
    return str(error.value), state["epoch"], state["position"]


@pytest.mark.usefixtures("ctrl_c")
def test_signals_end_training_between_two_batches(tmp_path):
    model, batches = make_training()
    last = len(batches) - 1
    told = _broken_off(model, batches, tmp_path, "on_train_batch_begin", signal.SIGTERM, last)
    assert told == ("Received SIGTERM.", 0, last)
    assert int(model.optimizer.iterations) == last
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    told = _broken_off(model, batches, tmp_path / "other", "on_test_batch_begin", signal.SIGINT, 1)
    assert told == ("Received SIGINT.", 0, len(batches))  # its training is whole, its validation will be done again
    assert int(model.optimizer.iterations) == last + len(batches)


@pytest.mark.usefixtures("ctrl_c")
def test_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
