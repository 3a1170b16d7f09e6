"""Keras callbacks for what happens around ``fit``: BLEU in the logs, progress, learning curves, TensorBoard, checkpoints, limits.

After translator and evaluation. What Bleu writes into the logs stands there for the callbacks behind it, ModelCheckpoint and
EarlyStopping among them, and for the history. Libraries that only one callback needs are imported where it is made, so that
importing the package stays quick.
"""

import csv
import importlib.util
import sys
import time
import warnings
from pathlib import Path

import keras
from keras import ops

from keras_transformer.backend import sync_state
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
            logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))


class ProgressBar(keras.callbacks.Callback):
    """Shows loss, perplexity, learning rate, tokens a second and the time an epoch still takes.

    On a terminal a bar moves; a file gets a line an epoch, and one every ``seconds`` in long ones.

    Args:
        tokens_per_batch: mean of real target tokens a batch; see Batches.num_tokens.
        seconds: between two looks at the numbers. Reading them makes the host wait for the device, so not every batch does.
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

    def on_train_batch_end(self, batch, logs=None):
        if time.monotonic() - self._looked < self.seconds:
            return
        self._looked = time.monotonic()
        sync_state(self.model)
        numbers = _numbers(logs, self._speed(batch + 1), self.model.optimizer)
        if self._bar is not None:
            self._bar.update(self._task, completed=batch + 1, numbers=numbers)
        else:
            left = (self.params.get("steps") or batch + 1) - batch - 1
            minutes = left * (self._looked - self._begin) / (batch + 1) / 60
            self.console.print(
                f"  epoch {self._epoch + 1}, batch {batch + 1}: {numbers}, {minutes:.1f} min left", soft_wrap=True
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
    shown = [f"{name} {float(logs[name]):.4g}" for name in ("loss", "perplexity") if name in (logs or {})]
    shown.append(f"learning rate {float(ops.convert_to_numpy(optimizer.learning_rate)):.3g}")
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

    def on_train_begin(self, logs=None):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(self.folder)

    def on_epoch_end(self, epoch, logs=None):
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        for name, value in (logs or {}).items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, whose state tells the next: an epoch broken off will be begun anew.

    Args:
        folder: where checkpoints go; see checkpoints.save_checkpoint.
        keep: how many remain.
    """

    def __init__(self, folder, keep=2):
        super().__init__()
        self.folder = folder
        self.keep = keep

    def on_epoch_begin(self, epoch, logs=None):
        self._batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self._batches = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        whole = self._batches >= (self.params.get("steps") or 0)
        save_checkpoint(self.model, self.folder, {"epoch": epoch + 1 if whole else epoch}, self.keep)


class Limit(keras.callbacks.Callback):
    """Ends training after so many minutes or updates, within an epoch if need be; what follows an epoch still runs.

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
        self._updates = int(ops.convert_to_numpy(self.model.optimizer.iterations))

    def on_train_batch_end(self, batch, logs=None):
        self._updates += 1
        if self.minutes is not None and time.monotonic() - self._begin >= 60 * self.minutes:
            self.model.stop_training = True
        if self.updates is not None and self._updates >= self.updates:
            self.model.stop_training = True
