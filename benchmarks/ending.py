"""How long `keras-transformer train` takes to save and end after a signal, and that the same command goes on.

python benchmarks/ending.py --backend jax --preset small

SIGTERM comes at three moments: while the first step is compiled or done, in a later step, and while sentences are translated for
BLEU at the end of an epoch. Told are the seconds to the end of the process, and how many of these passed from the end of the
step or compilation that was under way. (JAX computes behind the host's back: steps that it has begun are waited for in saving.)
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click

# What stands on standard error when the moment is near; the signal comes a second later.
MOMENTS = {"first step": "target tokens an epoch", "a later step": ", batch ", "translating for BLEU": "translating"}
# The command line, which says so when it begins to translate.
TRAIN = """
import sys
from keras_transformer.cli import main
from keras_transformer import translator
from keras_transformer.callbacks import Interruption

look = Interruption._raise_if_received

def told_look(interruption):
    if interruption._received:
        print("answering", file=sys.stderr, flush=True)
    look(interruption)

Interruption._raise_if_received = told_look
translate = translator.Translator.translate

def told(*arguments, **options):
    print("translating", file=sys.stderr, flush=True)
    return translate(*arguments, **options)

translator.Translator.translate = told
main(["train", *sys.argv[1:]])
"""


class Training:
    """A process that trains, and what it has said so far."""

    def __init__(self, backend, options):
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", TRAIN, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.said, self.times, self._ended, self._changed = [], [], False, threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            with self._changed:
                self.said.append(line.strip())
                self.times.append(time.monotonic())
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, words):
        """The first line that holds ``words``."""
        found = lambda: next((line for line in self.said if words in line), None)  # noqa: E731
        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, timeout=600)
            if not found():
                self.process.kill()
                raise click.ClickException(f"Training has not said {words!r}, but {self.said[-3:]}")
            return found()

    def end(self, number):
        """(seconds from the signal to the end, seconds of these from when it was answered, exit code)."""
        begin = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait()
        end = time.monotonic()
        self._reader.join()
        self.process.stderr.close()
        answered = self.times[self.said.index("answering")] if "answering" in self.said else begin
        return end - begin, end - max(begin, answered), code


@click.command()
@click.option("--backend", default="torch")
@click.option("--preset", default="small")
@click.option("--batch-tokens", default=1024)
@click.option("--pairs", default=3000, help="Of the built-in corpus; 500 others are for BLEU.")
@click.option("--only", multiple=True, type=click.Choice(list(MOMENTS)), help="Moments; all if none is given.")
def main(backend, preset, batch_tokens, pairs, only):
    """Prints a line for each moment."""
    from keras_transformer.text.demo import write_demo_corpus

    with tempfile.TemporaryDirectory() as folder:
        corpus = write_demo_corpus(Path(folder) / "corpus", num_train=pairs)
        files = {"source": "train.en", "target": "train.de", "valid-source": "valid.en", "valid-target": "valid.de"}
        options = [word for name, file in files.items() for word in (f"--{name}", str(corpus / file))]
        options += [
            "--preset",
            preset,
            "--batch-tokens",
            str(batch_tokens),
            "--vocabulary-size",
            "1000",
            "--epochs",
            "2",
        ]
        for moment in only or MOMENTS:
            arguments = [*options, "--output", str(Path(folder) / moment.replace(" ", "-"))]
            training = Training(backend, arguments)
            training.wait_for(MOMENTS[moment])
            time.sleep(1)
            seconds, answering, code = training.end(signal.SIGTERM)
            told = training.said[-1].split(": ")[-1]
            again = Training(backend, arguments)
            begun = again.wait_for("target tokens an epoch").split("padding")[-1].strip(", ") or "from the beginning"
            again.end(signal.SIGKILL)
            times = f"{seconds:.1f} s, {answering:.1f} of them after the step"
            click.echo(f"{backend} {preset}, {moment}: {times}, exit code {code}, {told}; then: {begun}")


if __name__ == "__main__":
    main()
