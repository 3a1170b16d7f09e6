"""Keras callbacks for what happens around ``fit``: BLEU in the logs, progress, learning curves, TensorBoard, checkpoints, limits.

After translator and evaluation. What Bleu writes into the logs stands there for the callbacks behind it, ModelCheckpoint and
EarlyStopping among them, and for the history. Libraries that only one callback needs are imported where it is made, so that
importing the package stays quick.

No callback here has ``on_train_batch_end``: on JAX and PyTorch Keras then leaves the logs of a batch to other threads, and the host
does not wait for the device at each step. ``on_train_batch_begin`` comes without logs, in the thread that trains, where the model
may be read. On TensorFlow Keras converts the logs of each batch whatever the callbacks are.
"""

import csv
import importlib.util
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import keras
from keras import ops

from keras_transformer.checkpoints import save_checkpoint
from keras_transformer.evaluation import bleu
from keras_transformer.plots import learning_curves
from keras_transformer.text.corpus import read_pairs
from keras_transformer.translator import Translator


class Bleu(keras.callbacks.Callback):
    """Translates validation text after an epoch and writes ``val_bleu`` into the logs.

    Put it before callbacks that look at val_bleu: ``ModelCheckpoint(..., monitor="val_bleu", mode="max")``.

    Args:
        source: path of a text file (plain or gzip), or a list of str.
        target: its translations, line by line.
        tokenizer: the Tokenizer of the model.
        beam_size: 1 for greedy search, the default, since it is run often.
        every: epochs from one time to the next.
        max_sentences: how many are translated, evenly spread over the text; None for all.

    Attributes:
        score: the last Score, with its signature.
        translations: the last translations, list of str.

    Raises:
        ValueError: the texts differ in length or are empty.

    Example:

        model.fit(train, validation_data=valid, epochs=20, callbacks=[kt.callbacks.Bleu("val.en", "val.de", tokenizer)])
    """

    def __init__(self, source, target, tokenizer, beam_size=1, every=1, max_sentences=None):
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1 epoch. Received: every={every}.")
        corpus = read_pairs(source, target)
        step = 1 if max_sentences is None else max(-(-len(corpus) // max_sentences), 1)
        self.source, self.target = corpus.source[::step], corpus.target[::step]
        self.tokenizer = tokenizer
        self.beam_size = beam_size
        self.every = every
        self.max_sentences = max_sentences
        self.score = None
        self.translations = None
        self._translator = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        if self._translator is None or self._translator.model is not self.model:
            self._translator = Translator(self.model, self.tokenizer)
        self.translations = self._translator.translate(self.source, beam_size=self.beam_size)
        self.score = bleu(self.translations, self.target)
        if logs is not None:
            logs["val_bleu"] = self.score.value


class LearningRate(keras.callbacks.Callback):
    """Writes ``learning_rate``, the rate of the last update, into the logs: with a schedule Keras does not."""

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = _last_rate(self.model.optimizer)


def _last_rate(optimizer):
    """The rate of the last update; an optimizer itself tells that of the next."""
    iterations = optimizer.iterations
    if not isinstance(
        iterations, keras.Variable
    ):  # a quotient, where Keras accumulates: its schedule counts micro-batches
        return float(ops.convert_to_numpy(optimizer.learning_rate))
    last = max(int(ops.convert_to_numpy(iterations)) - 1, 0)
    with keras.StatelessScope(state_mapping=[(iterations, ops.convert_to_tensor(last, iterations.dtype))]):
        return float(ops.convert_to_numpy(optimizer.learning_rate))


class ProgressBar(keras.callbacks.Callback):
    """Shows loss, perplexity, learning rate, tokens a second and the time an epoch still takes.

    On a terminal a bar moves; a file gets a line an epoch, and one every ``seconds`` in long ones.

    Args:
        tokens_per_batch: mean of real target tokens a batch; see Batches.num_tokens.
        seconds: between two looks at the model's metrics. Each makes the host wait for the device, so not every batch does.
        file: where to print; None for standard error.
    """

    def __init__(self, tokens_per_batch, seconds=None, file=None):
        from rich.console import Console

        super().__init__()
        self.tokens_per_batch = tokens_per_batch
        self.console = Console(file=file or sys.stderr, highlight=False)
        self.seconds = (1.0 if self.console.is_terminal else 60.0) if seconds is None else seconds

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._begin = self._looked = time.monotonic()
        self._bar = None
        if self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(bar_width=20),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._task = self._bar.add_task("", total=self.params.get("steps"), epoch=epoch + 1, numbers="")
            self._bar.start()

    def on_train_batch_begin(self, batch, logs=None):
        """``batch`` batches of this epoch are done."""
        if not batch or time.monotonic() - self._looked < self.seconds:
            return
        self._looked = time.monotonic()
        numbers = _numbers(self.model.get_metrics_result(), self._speed(batch), self.model.optimizer)
        if self._bar is not None:
            self._bar.update(self._task, completed=batch, numbers=numbers)
        else:
            left = (self.params.get("steps") or batch) - batch
            minutes = left * (self._looked - self._begin) / batch / 60
            self.console.print(
                f"  epoch {self._epoch + 1}, batch {batch}: {numbers}, {minutes:.1f} min left", soft_wrap=True
            )

    def on_test_begin(self, logs=None):
        self._stop()

    def on_epoch_end(self, epoch, logs=None):
        self._stop()
        seconds = time.monotonic() - self._begin
        shown = [f"epoch {epoch + 1}", _numbers(logs, None, self.model.optimizer), f"{seconds:.0f} s"]
        shown += [
            f"{name} {logs[name]:.4g}" for name in ("val_loss", "val_perplexity", "val_bleu") if name in logs or {}
        ]
        self.console.print(", ".join(shown), soft_wrap=True)

    def on_train_end(self, logs=None):
        self._stop()

    def _stop(self):
        if getattr(self, "_bar", None) is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self, batches):
        return batches * self.tokens_per_batch / (time.monotonic() - self._begin)


def _numbers(logs, tokens_per_second, optimizer):
    logs = {name: float(ops.convert_to_numpy(logs[name])) for name in ("loss", "perplexity") if name in (logs or {})}
    shown = [f"{name} {value:.4g}" for name, value in logs.items()]
    shown.append(f"learning rate {_last_rate(optimizer):.3g}")
    if tokens_per_second is not None:
        shown.append(f"{tokens_per_second:.0f} tokens/s")
    return ", ".join(shown)


class LearningCurves(keras.callbacks.Callback):
    """Keeps curves.csv, a row an epoch with all the logs hold, and draws it as curves.png.

    A run that goes on continues the table: rows of epochs that are done again are replaced.

    Args:
        folder: where the two files go; made if it is missing.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._draws = importlib.util.find_spec("matplotlib") is not None
        if not self._draws:
            warnings.warn(
                "curves.png will not be drawn, for Matplotlib is not installed: pip install 'keras-transformer[plots]'.",
                stacklevel=2,
            )

    def on_train_begin(self, logs=None):
        self._begin = time.monotonic()
        self.rows = read_curves(self.folder / "curves.csv")
        self._seconds_before = max((row.get("seconds") or 0 for row in self.rows), default=0)

    def on_epoch_end(self, epoch, logs=None):
        row = {
            "epoch": epoch + 1,
            "step": int(ops.convert_to_numpy(self.model.optimizer.iterations)),
            "seconds": round(self._seconds_before + time.monotonic() - self._begin, 1),
        }
        row |= {name: float(value) for name, value in (logs or {}).items()}
        self.rows = [other for other in self.rows if other["epoch"] <= epoch] + [row]
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        new = self.folder / ".curves.csv-new"
        with open(new, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        new.replace(self.folder / "curves.csv")
        if self._draws:
            learning_curves(self.rows, self.folder / "curves.png")


def read_curves(path):
    """Rows of a curves.csv as dicts of float, None where nothing was measured; none if there is no such file."""
    path = Path(path)
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]


class TensorBoard(keras.callbacks.Callback):
    """Writes all logs of an epoch for TensorBoard; unlike Keras's own callback it needs no TensorFlow.

    Args:
        folder: the log directory.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = str(folder)
        self._writer = None

    def on_train_begin(self, logs=None):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(self.folder)

    def on_epoch_end(self, epoch, logs=None):
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        for name, value in (logs or {}).items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch and within long ones; its state tells the next epoch: one broken off is begun anew.

    Args:
        folder: where checkpoints go; see checkpoints.save_checkpoint.
        keep: how many remain.
        minutes: between two within an epoch; None for none.

    Attributes:
        epoch: the next epoch, as the last checkpoint says.

    Raises:
        ValueError: minutes is not positive.
    """

    def __init__(self, folder, keep=2, minutes=10):
        super().__init__()
        if minutes is not None and not minutes > 0:
            raise ValueError(
                f"minutes must be positive, or None for no checkpoint within an epoch. Received: {minutes!r}."
            )
        self.folder = folder
        self.keep = keep
        self.minutes = minutes

    def on_train_begin(self, logs=None):
        self._steps_per_execution = self.model.steps_per_execution
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._batches = 0
        self._batches_ended = False

    def on_train_batch_begin(self, batch, logs=None):
        if batch and self.minutes is not None and time.monotonic() - self._saved >= 60 * self.minutes:
            self.save()
        self._batches = batch + self._steps_per_execution

    def on_test_begin(self, logs=None):
        self._batches_ended = True

    def on_epoch_end(self, epoch, logs=None):
        self._batches_ended = True
        self.save()

    def save(self):
        """Writes a checkpoint now. Within ``fit`` only from the hooks of a callback, where nothing is half done."""
        whole = self._batches_ended and self._batches >= (self.params.get("steps") or 0)
        self.epoch = self._epoch + 1 if whole else self._epoch
        save_checkpoint(self.model, self.folder, {"epoch": self.epoch}, self.keep)
        self._saved = time.monotonic()


class Limit(keras.callbacks.Callback):
    """Ends training after so many minutes or updates, within an epoch if need be; what follows an epoch still runs.

    An update is one of the optimizer's: a micro-batch of AccumulateGradients is none before the last, and neither is a step that
    loss scaling leaves out. They are counted on the device, which the host asks only when the batches since the last time could
    have reached the limit. Under ``steps_per_execution`` training ends with the execution that reaches it.

    Args:
        minutes: of training from now on, compilation and validation included; None for no such limit.
        updates: that the optimizer has done in all; None for no such limit.
    """

    def __init__(self, minutes=None, updates=None):
        super().__init__()
        self.minutes = minutes
        self.updates = updates

    def on_train_begin(self, logs=None):
        self._begin = time.monotonic()
        self._steps_per_execution = self.model.steps_per_execution
        self._look()
        others = self.model.stop_training
        self.model.stop_training = _Question(lambda: bool(others) or self._is_reached())

    def on_train_batch_begin(self, batch, logs=None):
        self._batches += self._steps_per_execution

    def on_train_end(self, logs=None):
        self.model.stop_training = bool(self.model.stop_training)

    def _is_reached(self):
        if self.minutes is not None and time.monotonic() - self._begin >= 60 * self.minutes:
            return True
        if self.updates is None:
            return False
        if self._batches and self._updates + self._batches >= self.updates:
            self._look()
        return self._updates >= self.updates

    def _look(self):
        self._updates = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        self._batches = 0


class _Question:
    """A truth that is found out when it is asked for.

    As ``model.stop_training``, which ``fit`` asks for in its own thread after each batch: the only place where a callback without
    on_train_batch_end can end training at once.
    """

    def __init__(self, answer):
        self._answer = answer

    def __bool__(self):
        return self._answer()


class Interrupted(KeyboardInterrupt):
    """Training was asked to end by a signal, and did between two batches.

    Attributes:
        signal: its number.
    """

    def __init__(self, number):
        super().__init__(f"Received {signal.Signals(number).name}.")
        self.signal = number


class Interruption(keras.callbacks.Callback):
    """While open, SIGINT (Ctrl-C) and SIGTERM end ``fit`` before its next batch, by raising Interrupted: nothing is half done.

    A second signal does at once what it would have done without this. Outside the main thread, which alone may handle signals,
    nothing changes.

    Example:

        checkpoints = kt.callbacks.Checkpoints("run/checkpoints")
        with kt.callbacks.Interruption() as interruption:
            try:
                model.fit(train, epochs=20, callbacks=[checkpoints, interruption])
            except kt.callbacks.Interrupted:
                checkpoints.save()
                raise
    """

    def __init__(self):
        super().__init__()
        self._handlers = {}
        self._received = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored, as under nohup, it stays ignored
                    self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _receive(self, number, frame):
        self._received = number
        self.__exit__()

    def _raise_if_received(self):
        if self._received is not None:
            raise Interrupted(self._received)

    def on_train_batch_begin(self, batch, logs=None):
        self._raise_if_received()

    def on_test_batch_begin(self, batch, logs=None):
        self._raise_if_received()

    def on_epoch_end(self, epoch, logs=None):
        self._raise_if_received()
