"""Signals at awkward moments: what was trained is saved, the exit code is the documented one, and the run goes on."""

import signal
import threading

import keras
import pytest

import keras_transformer as kt
from keras_transformer.artifacts import steps
from keras_transformer.callbacks import Interrupted, LearningRate
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint
from keras_transformer.runs import Run, Settings

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps", "a bird sings"] * 8
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft", "ein Vogel singt"] * 8
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

pytestmark = [
    pytest.mark.usefixtures("tiny_is_one_layer", "as_in_a_terminal"),
    pytest.mark.skipif(keras.backend.backend() != "torch", reason="depends on no backend, and runs on one"),
]


@pytest.fixture
def as_in_a_terminal():
    """A shell starts what runs in the background, or under nohup, with some of these ignored."""
    before = [signal.signal(number, signal.default_int_handler) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, lines in (("train.en", EN), ("train.de", DE)):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    files = str(folder / "train.en"), str(folder / "train.de")
    return Settings(*files, *files, batch_tokens=100, vocabulary_size=300)


def before_the_first_batch(patch, number):
    patch.setattr(LearningRate, "on_train_batch_begin", lambda *_, **__: signal.raise_signal(number), raising=False)
    return 0, 0


def in_a_step(patch, number, times=1):
    step = kt.Transformer.train_step

    def signalled(*arguments):
        for _ in range(times):
            signal.raise_signal(number)
        return step(*arguments)

    patch.setattr(kt.Transformer, "train_step", signalled)
    return 0, 1


def twice_in_a_step(patch, number):
    return in_a_step(patch, number, times=2)


def once_more_during_the_save(patch, number):
    """The second one reaches the main thread while another writes."""
    write, left = steps.write_arrays, [number]

    def signalled(*arguments):
        if left:
            signal.pthread_kill(MAIN, left.pop())
        return write(*arguments)

    patch.setattr(steps, "write_arrays", signalled)
    return in_a_step(patch, number)


def in_validation(patch, number):
    patch.setattr(LearningRate, "on_test_batch_begin", lambda *_, **__: signal.raise_signal(number), raising=False)
    return 0, None


def in_translating_for_bleu(patch, number):
    """Which is as long as an epoch may be: it is broken off, and the validation done again."""

    def signalled(*_, **__):
        signal.raise_signal(number)
        pytest.fail("the translating went on")

    patch.setattr(kt.Translator, "translate", signalled)
    return 0, None


MAIN = threading.main_thread().ident


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    "moment",
    [
        before_the_first_batch,
        in_a_step,
        twice_in_a_step,
        once_more_during_the_save,
        in_validation,
        in_translating_for_bleu,
    ],
)
def test_saves_and_goes_on(settings, tmp_path, monkeypatch, moment, number, figure):
    run = Run(tmp_path / "run", settings)
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with monkeypatch.context() as patch:
        epoch, position = moment(patch, number)
        with pytest.raises(Interrupted) as error:
            run.train(epochs=1)
    assert error.value.signal == number
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    state = load_checkpoint(run.model, latest_checkpoint(tmp_path / "run" / "checkpoints"))
    position = len(run.batches) if position is None else position
    assert (state["epoch"], state["position"]) == (epoch, position)
    again = Run(tmp_path / "run", settings)
    again.train(epochs=1)
    assert again.updates == len(again.batches)
    figure("signals: SIGINT, SIGTERM and SIGHUP, at six moments each", 1, "saved and gone on with", backend=False)
