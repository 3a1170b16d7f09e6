"""A bar on a terminal, lines in a file: how training stands.

Libraries that only this needs are imported where it is made, so that importing the package stays quick.
"""

import sys
import time
from typing import TextIO

import keras
from keras import ops

from keras_transformer.callbacks.learning_rate import last_rate


class ProgressBar(keras.callbacks.Callback):
    """Shows loss, perplexity, learning rate, tokens a second and the time an epoch still takes.

    On a terminal a bar moves; a file gets a line an epoch, and in long ones a line after ten seconds and one every ``seconds``.

    Args:
        tokens_per_batch: mean of real target tokens a batch; see Batches.num_tokens.
        seconds: between two looks at the model's metrics; None for 1 on a terminal, 60 in a file. Each look makes the host wait
            for the device, so not every batch has one.
        file: where to print; None for standard error.

    Example:

        progress = kt.callbacks.ProgressBar(train.num_tokens / len(train))
        model.fit(train, epochs=20, callbacks=[progress], verbose=0)
    """

    def __init__(self, tokens_per_batch: float, seconds: float | None = None, file: TextIO | None = None):
        from rich.console import Console

        super().__init__()
        self.tokens_per_batch = tokens_per_batch
        self.console = Console(file=file or sys.stderr, highlight=False)
        self.seconds = (1.0 if self.console.is_terminal else 60.0) if seconds is None else seconds
        # The first look comes sooner, as a first sign that training goes on.
        self._wait = self.seconds if seconds is not None else min(self.seconds, 10.0)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
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

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """``batch`` batches of this epoch are done."""
        if not batch or time.monotonic() - self._looked < self._wait:
            return
        self._looked = time.monotonic()
        self._wait = self.seconds
        numbers = _numbers(self.model.get_metrics_result(), self._speed(batch), self.model.optimizer)
        if self._bar is not None:
            self._bar.update(self._task, completed=batch, numbers=numbers)
        else:
            left = (self.params.get("steps") or batch) - batch
            minutes = left * (self._looked - self._begin) / batch / 60
            self.console.print(
                f"  epoch {self._epoch + 1}, batch {batch}: {numbers}, {minutes:.1f} min left of it", soft_wrap=True
            )

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._stop()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._stop()
        seconds = time.monotonic() - self._begin
        shown = [f"epoch {epoch + 1}", _numbers(logs, None, self.model.optimizer), f"{seconds:.0f} s"]
        shown += [
            f"{name} {logs[name]:.4g}" for name in ("val_loss", "val_perplexity", "val_bleu") if name in logs or {}
        ]
        self.console.print(", ".join(shown), soft_wrap=True)

    def on_train_end(self, logs: dict | None = None) -> None:
        self._stop()

    def _stop(self):
        if getattr(self, "_bar", None) is not None:
            self._bar.stop()
            self._bar = None

    def _speed(self, batches: int) -> float:
        return batches * self.tokens_per_batch / (time.monotonic() - self._begin)


def _numbers(logs: dict | None, tokens_per_second: float | None, optimizer: keras.optimizers.Optimizer) -> str:
    logs = {name: float(ops.convert_to_numpy(logs[name])) for name in ("loss", "perplexity") if name in (logs or {})}
    shown = [f"{name} {value:.4g}" for name, value in logs.items()]
    shown.append(f"learning rate {last_rate(optimizer):.3g}")
    if tokens_per_second is not None:
        shown.append(f"{tokens_per_second:.0f} tokens/s")
    return ", ".join(shown)
