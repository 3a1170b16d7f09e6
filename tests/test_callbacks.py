"""Callbacks around fit: what stands in the logs, the files and on the screen."""

import errno
import io
import signal
import threading
from unittest.mock import MagicMock

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.callbacks import (
    Bleu,
    Checkpoints,
    Interrupted,
    Interruption,
    LearningCurves,
    LearningRate,
    Limit,
    ProgressBar,
    SpikeRollback,
    TensorBoard,
    progress,
)
from keras_transformer.callbacks import checkpoints as checkpoints_module
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps"] * 4
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft"] * 4
TOKENIZER = kt.Tokenizer.train(EN + DE, vocabulary_size=300)


@pytest.fixture
def batches():
    return kt.Batches(EN, DE, TOKENIZER, batch_tokens=32, num_buckets=1)


@pytest.fixture
def model():
    model = kt.Transformer(TOKENIZER.vocabulary_size, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    model.compile(optimizer=keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=10)))
    return model


def fit(model, batches, callbacks, epochs=1, **kwargs):
    return model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=0, **kwargs).history


def test_bleu_reaches_history_and_stock_callbacks(model, batches, tmp_path):
    bleu = Bleu(EN[:4], DE[:4], TOKENIZER)
    stop = keras.callbacks.EarlyStopping(monitor="val_bleu", mode="max", patience=0)
    keep = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.keras"), monitor="val_bleu", mode="max", save_best_only=True
    )
    history = fit(model, batches, [bleu, keep, stop], epochs=5)
    assert history["val_bleu"][-1] == bleu.score.value
    assert len(history["val_bleu"]) < 5  # an untrained model scores 0 again, so EarlyStopping has seen val_bleu
    assert (tmp_path / "best.keras").is_file()
    assert bleu.translations == kt.Translator(model, TOKENIZER).translate(EN[:4], beam_size=1)


def test_bleu_every_second_epoch_on_some_sentences(model, batches):
    bleu = Bleu(EN, DE, TOKENIZER, every=2, max_sentences=5)
    assert len(bleu.source) == 4  # every fourth of 16: at most 5, evenly spread
    assert len(fit(model, batches, [bleu], epochs=3).get("val_bleu", [])) == 1


def test_learning_rate_of_the_schedule(model, batches):
    history = fit(model, batches, [LearningRate()], epochs=2)
    updates = [len(batches), 2 * len(batches)]
    expected = [8**-0.5 * min(n**-0.5, n * 10**-1.5) for n in updates]
    assert history["learning_rate"] == pytest.approx(expected, rel=1e-5)
    assert int(model.optimizer.iterations) == updates[-1]


@pytest.mark.parametrize("steps", [None, 2])
def test_learning_rate_without_schedule_and_where_keras_accumulates(model, batches, steps):
    model.compile(optimizer=keras.optimizers.SGD(0.25, gradient_accumulation_steps=steps))
    assert fit(model, batches, [LearningRate()])["learning_rate"] == [0.25]


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="there Keras converts the logs of each batch itself"
)
def test_no_step_waits_for_the_device(model, batches, tmp_path, monkeypatch):
    """Keras converts logs of tensors in the thread that trains only when an epoch ends, with all that the command line uses."""
    from keras.src.callbacks import callback_list

    pythonify, converted = callback_list.python_utils.pythonify_logs, []

    def counted(logs):
        if any(keras.ops.is_tensor(value) for value in (logs or {}).values()):
            converted.append(threading.current_thread() is threading.main_thread())
        return pythonify(logs)

    monkeypatch.setattr(callback_list.python_utils, "pythonify_logs", counted)
    numbers = MagicMock(wraps=progress._numbers)
    monkeypatch.setattr(progress, "_numbers", numbers)
    limit = Limit(minutes=60, updates=10**6)
    limit._look = MagicMock(wraps=limit._look)
    callbacks = [LearningRate(), ProgressBar(12.0, seconds=60, file=io.StringIO()), LearningCurves(tmp_path / "curves")]
    callbacks += [TensorBoard(tmp_path / "tensorboard"), Checkpoints(tmp_path / "checkpoints"), limit]
    with Interruption() as interruption:
        fit(model, batches, [*callbacks, interruption], epochs=2)
    assert len(batches) > 3 and len(converted) >= 2 * len(batches)
    assert sum(converted) == 3  # the ends of two epochs, and of training
    assert numbers.call_count == 2 and limit._look.call_count == 1


def test_tensorboard_writes_all_logs(model, batches, tmp_path):
    fit(model, batches, [LearningRate(), TensorBoard(tmp_path)])
    (events,) = tmp_path.iterdir()
    for name in (b"loss", b"perplexity", b"learning_rate"):
        assert name in events.read_bytes()


def test_checkpoint_after_each_epoch(model, batches, tmp_path):
    history = fit(model, batches, [Checkpoints(tmp_path)], epochs=2)
    state = load_checkpoint(model, latest_checkpoint(tmp_path))
    assert (state["epoch"], state["position"], state["step"]) == (2, 0, 2 * len(batches))
    assert [row["loss"] for row in state["history"]] == pytest.approx(history["loss"])


def test_best_checkpoints_stay_beside_the_newest(model, batches, tmp_path):
    scores = iter([5.0, 9.0, 1.0, 8.0, 2.0])
    score = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(val_bleu=next(scores)))
    fit(model, batches, [score, Checkpoints(tmp_path, keep=1, best=2, monitor="val_bleu")], epochs=5)
    assert {path.name for path in tmp_path.glob("step-*")} == {f"step-{n * len(batches)}" for n in (2, 4, 5)}


def test_checkpoints_of_another_training_are_not_touched(model, batches, tmp_path):
    fit(model, batches, [Checkpoints(tmp_path)])
    fit(model, batches, [Checkpoints(tmp_path)])  # the same goes on
    other = kt.Transformer.from_config(model.get_config())
    other.compile(optimizer=keras.optimizers.Adam(1e-3))
    with pytest.raises(
        ValueError, match=r"holds checkpoints of a training that this one does not go on from. Put callb"
    ):
        fit(other, batches, [Checkpoints(tmp_path)])


def test_a_loss_that_jumps_is_gone_back_from(model, tmp_path):
    """The embeddings are spoilt before the eighth batch; a batch later the weights are those before the seventh again."""
    batches = kt.Batches(EN, DE, TOKENIZER, batch_tokens=24, num_buckets=2)
    assert len(batches) >= 10
    seen = {}

    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            embeddings = self.model.target_embedding.embeddings
            if batch == 7:
                embeddings.assign(50 * embeddings)
            seen[batch] = [np.array(weight) for weight in self.model.get_weights()]

    checkpoints = Checkpoints(tmp_path, steps=2, keep=9)
    rollback = SpikeRollback(checkpoints, factor=1.5, every=2, window=3)
    fit(model, batches, [checkpoints, rollback, Spoil()])
    (told,) = rollback.rollbacks
    assert (told["step"], told["to"]) == (8, 6) and told["loss"] > 1.5 * told["median"]
    for one, other in zip(seen[6], seen[8], strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(model.optimizer.iterations) == len(batches) - 2
    for name, value in {"factor": 1, "every": 0, "window": 0, "most": 0}.items():
        with pytest.raises(ValueError, match=f"{name}"):
            SpikeRollback(checkpoints, **{name: value})


def test_epoch_broken_off_will_go_on_at_the_batch(model, batches, tmp_path):
    assert len(batches) > 2
    fit(model, batches, [Checkpoints(tmp_path), Limit(updates=len(batches) + 2)], epochs=9)
    assert int(model.optimizer.iterations) == len(batches) + 2
    state = load_checkpoint(model, latest_checkpoint(tmp_path))
    assert (state["epoch"], state["position"]) == (1, 2)


def test_checkpoints_within_a_long_epoch(model, batches, tmp_path):
    fit(model, batches, [Checkpoints(tmp_path, keep=100, minutes=1e-9)])
    states = [load_checkpoint(model, tmp_path / f"step-{number + 1}") for number in range(len(batches))]
    places = [(state["epoch"], state["position"]) for state in states]
    assert places == [(0, number + 1) for number in range(len(batches) - 1)] + [(1, 0)]
    with pytest.raises(ValueError, match="minutes must be positive"):
        Checkpoints(tmp_path, minutes=0)
    for name in ("keep", "best", "steps"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            Checkpoints(tmp_path, **{name: -1})
    with pytest.raises(ValueError, match="mode='up'"):
        Checkpoints(tmp_path, mode="up")
    with pytest.raises(ValueError, match="'val_nonsense' does not tell whether more or less of it is better"):
        Checkpoints(tmp_path, best=1, monitor="val_nonsense")


def test_checkpoints_every_so_many_steps(model, batches, tmp_path):
    fit(model, batches, [Checkpoints(tmp_path, keep=100, minutes=None, steps=3)])
    steps = sorted(int(path.name[5:]) for path in tmp_path.glob("step-*"))
    assert steps == [*range(3, len(batches), 3), len(batches)]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has one step an execution on PyTorch")
def test_an_execution_of_fewer_steps_than_the_others_counts_them(model, batches, tmp_path):
    assert len(batches) % 3
    model.compile(optimizer=keras.optimizers.SGD(0.1), steps_per_execution=3)
    fit(model, batches, [Checkpoints(tmp_path)], epochs=2)
    assert load_checkpoint(model, latest_checkpoint(tmp_path))["step"] == 2 * len(batches)


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
def test_signals_end_training_between_two_batches(model, batches, tmp_path):
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


def test_impossible_arguments():
    with pytest.raises(ValueError, match="every=0"):
        Bleu(EN, DE, TOKENIZER, every=0)
    with pytest.raises(ValueError, match="lines"):
        Bleu(EN, DE[:3], TOKENIZER)


def test_two_checkpoints_of_one_fit_want_two_folders(model, batches, tmp_path):
    with pytest.raises(ValueError, match="Two Checkpoints write into"):
        fit(model, batches, [Checkpoints(tmp_path, steps=1), Checkpoints(tmp_path, steps=2)])
    fit(model, batches, [Checkpoints(tmp_path / "a"), Checkpoints(tmp_path / "b")])


def test_what_a_broken_fit_still_writes_comes_before_the_next(model, batches, tmp_path, monkeypatch):
    """The folder is emptied and trained into again: nothing of the model before may come among it."""
    entered, go_on = threading.Event(), threading.Event()
    write, begun = checkpoints_module.write_step, []

    def slowly(folder, step, *rest):
        begun.append(step)
        if len(begun) == 1:
            entered.set()
            go_on.wait(60)
        write(folder, step, *rest)

    monkeypatch.setattr(checkpoints_module, "write_step", slowly)

    class Break(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if entered.is_set():
                raise KeyError("broken off")

    first = Checkpoints(tmp_path, steps=1)
    with pytest.raises(KeyError):
        fit(model, batches, [first, Break()], epochs=50)
    second = Checkpoints(tmp_path, steps=1)
    threading.Timer(0.2, go_on.set).start()
    with pytest.raises(ValueError, match="a training that this one does not go on from"):  # it is there by then
        fit(model, batches, [second])
    assert first._writing is None or first._writing.done()


def test_a_best_that_nothing_is_judged_by_is_told(model, batches, tmp_path):
    with pytest.warns(
        UserWarning, match=r"best=2 keeps no checkpoint of epoch 1: its logs hold no 'val_loss'. They hold .*loss"
    ):
        fit(model, batches, [Checkpoints(tmp_path, best=2)])


def test_a_checkpoint_that_cannot_be_written_is_told_with_its_folder(model, batches, tmp_path, monkeypatch):
    def full(folder, *rest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "write_step", full)
    with pytest.raises(
        OSError, match=rf"step {len(batches)} could not be written into {tmp_path}: No space.*none before"
    ) as told:
        fit(model, batches, [Checkpoints(tmp_path)])
    assert told.value.errno == errno.ENOSPC
