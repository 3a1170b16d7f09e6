"""ProgressBar: lines in a file, a bar on a terminal, and a training that does not feel it."""

import io

import keras
import pytest
from small_model import INPUTS, LABELS, make_model

import keras_transformer as kt
from keras_transformer.callbacks import ProgressBar

BATCHES = 4


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make():
    model = make_model(dropout=0.0)
    model.compile(keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=10)))
    return model


def fit(model, *callbacks, **kwargs):
    return model.fit(
        INPUTS, LABELS, batch_size=2, shuffle=False, callbacks=list(callbacks), verbose=0, **kwargs
    ).history


def test_progress_in_a_file():
    file = io.StringIO()
    fit(make(), ProgressBar(12.0, seconds=0, file=file), validation_data=(INPUTS, LABELS))
    lines = file.getvalue().splitlines()
    assert len(lines) == BATCHES  # one before each batch but the first, and one for the epoch
    assert lines[0].startswith("  epoch 1, batch 1: ")
    for word in ("loss", "perplexity", "learning rate", "tokens/s", "min left"):
        assert word in lines[0]
    assert "val_loss" in lines[-1]


def test_a_bar_on_a_terminal_comes_and_goes(monkeypatch):
    """After training only the line of each epoch stands there, also when an error has ended it in the middle of one."""
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    progress = ProgressBar(12.0, seconds=0, file=file)
    history = fit(make(), progress, epochs=2)
    assert progress._bar is None
    assert f"{BATCHES - 1}/{BATCHES}" in file.getvalue() and "tokens/s" in file.getvalue()
    for epoch, loss in enumerate(history["loss"], start=1):
        assert f"epoch {epoch}, loss {loss:.4g}, " in file.getvalue()

    class Break(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                raise KeyError("broken off")

    with pytest.raises(KeyError):
        fit(make(), progress, Break())
    assert progress._bar is not None
    progress.on_train_end()  # as Run does
    assert progress._bar is None


def test_progress_leaves_jax_state_whole():
    """Looking at the optimizer within an epoch must not change what is trained."""
    before = fit(make())["loss"]
    assert fit(make(), ProgressBar(12.0, seconds=0, file=io.StringIO()))["loss"] == pytest.approx(before, rel=1e-6)
