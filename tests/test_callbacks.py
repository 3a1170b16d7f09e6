"""Checkpoints while training goes on, and what no callback may do: make a step wait."""

import errno
import io
import threading
from unittest.mock import MagicMock

import keras
import pytest
from small_training import fit, make_training

import keras_transformer as kt
from keras_transformer.callbacks import (
    Checkpoints,
    Interruption,
    LearningCurves,
    LearningRate,
    Limit,
    ProgressBar,
    TensorBoard,
    progress,
)
from keras_transformer.callbacks import checkpoints as checkpoints_module
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow", reason="there Keras converts the logs of each batch itself"
)
def test_no_step_waits_for_the_device(tmp_path, monkeypatch):
    """Keras converts logs of tensors in the thread that trains only when an epoch ends, with all that the command line uses."""
    from keras.src.callbacks import callback_list

    model, batches = make_training()
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


def test_checkpoint_after_each_epoch(tmp_path):
    model, batches = make_training()
    history = fit(model, batches, [Checkpoints(tmp_path)], epochs=2)
    state = load_checkpoint(model, latest_checkpoint(tmp_path))
    assert (state["epoch"], state["position"], state["step"]) == (2, 0, 2 * len(batches))
    assert [row["loss"] for row in state["history"]] == pytest.approx(history["loss"])


def test_best_checkpoints_stay_beside_the_newest(tmp_path):
    model, batches = make_training()
    scores = iter([5.0, 9.0, 1.0, 8.0, 2.0])
    score = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(val_bleu=next(scores)))
    fit(model, batches, [score, Checkpoints(tmp_path, keep=1, best=2, monitor="val_bleu")], epochs=5)
    assert {path.name for path in tmp_path.glob("step-*")} == {f"step-{n * len(batches)}" for n in (2, 4, 5)}


def test_checkpoints_of_another_training_are_not_touched(tmp_path):
    model, batches = make_training()
    fit(model, batches, [Checkpoints(tmp_path)])
    fit(model, batches, [Checkpoints(tmp_path)])  # the same goes on
    other = kt.Transformer.from_config(model.get_config())
    other.compile(optimizer=keras.optimizers.Adam(1e-3))
    with pytest.raises(
        ValueError, match=r"holds checkpoints of a training that this one does not go on from. Put callb"
    ):
        fit(other, batches, [Checkpoints(tmp_path)])


def test_epoch_broken_off_will_go_on_at_the_batch(tmp_path):
    model, batches = make_training()
    assert len(batches) > 2
    fit(model, batches, [Checkpoints(tmp_path), Limit(updates=len(batches) + 2)], epochs=9)
    assert int(model.optimizer.iterations) == len(batches) + 2
    state = load_checkpoint(model, latest_checkpoint(tmp_path))
    assert (state["epoch"], state["position"]) == (1, 2)


def test_checkpoints_within_a_long_epoch(tmp_path):
    model, batches = make_training()
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


def test_checkpoints_every_so_many_steps(tmp_path):
    model, batches = make_training()
    fit(model, batches, [Checkpoints(tmp_path, keep=100, minutes=None, steps=3)])
    steps = sorted(int(path.name[5:]) for path in tmp_path.glob("step-*"))
    assert steps == [*range(3, len(batches), 3), len(batches)]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has one step an execution on PyTorch")
def test_an_execution_of_fewer_steps_than_the_others_counts_them(tmp_path):
    model, batches = make_training()
    assert len(batches) % 3
    model.compile(optimizer=keras.optimizers.SGD(0.1), steps_per_execution=3)
    fit(model, batches, [Checkpoints(tmp_path)], epochs=2)
    assert load_checkpoint(model, latest_checkpoint(tmp_path))["step"] == 2 * len(batches)


def test_two_checkpoints_of_one_fit_want_two_folders(tmp_path):
    model, batches = make_training()
    with pytest.raises(ValueError, match="Two Checkpoints write into"):
        fit(model, batches, [Checkpoints(tmp_path, steps=1), Checkpoints(tmp_path, steps=2)])
    fit(model, batches, [Checkpoints(tmp_path / "a"), Checkpoints(tmp_path / "b")])


def test_what_a_broken_fit_still_writes_comes_before_the_next(tmp_path, monkeypatch):
    """The folder is emptied and trained into again: nothing of the model before may come among it."""
    model, batches = make_training()
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


def test_a_best_that_nothing_is_judged_by_is_told(tmp_path):
    model, batches = make_training()
    with pytest.warns(
        UserWarning, match=r"best=2 keeps no checkpoint of epoch 1: its logs hold no 'val_loss'. They hold .*loss"
    ):
        fit(model, batches, [Checkpoints(tmp_path, best=2)])


def test_a_checkpoint_that_cannot_be_written_is_told_with_its_folder(tmp_path, monkeypatch):
    model, batches = make_training()

    def full(folder, *rest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "write_step", full)
    with pytest.raises(
        OSError, match=rf"step {len(batches)} could not be written into {tmp_path}: No space.*none before"
    ) as told:
        fit(model, batches, [Checkpoints(tmp_path)])
    assert told.value.errno == errno.ENOSPC
