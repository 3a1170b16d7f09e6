"""Options that several commands share, and what they do."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from keras_transformer.environment import BACKENDS, check_backend, command_backend, keep_compiled


def _use_backend(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Sets KERAS_BACKEND; see environment.command_backend."""
    if context.resilient_parsing:
        return name
    name = command_backend(name)
    try:
        check_backend(name)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keep_compiled()
    return name


def _start_keras(name: str) -> None:
    """Imports Keras and lets the backend find its devices, without what TensorFlow's C++ parts say of missing GPUs meanwhile."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras

        keras.ops.zeros(())
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
    if (used := keras.backend.backend()) != name:
        raise click.ClickException(
            f"Keras has already started with another backend. Received: --backend {name}. It uses: {used}. "
            f"Set KERAS_BACKEND={name} instead."
        )


def backend_option(command: Callable) -> Callable:
    """Decorates a command with ``--backend``. Keras starts when all its options have been read: to refuse one takes no import."""

    @functools.wraps(command)
    def started(*arguments, backend, **options):
        _start_keras(backend)
        return command(*arguments, backend=backend, **options)

    option = click.option(
        "--backend",
        metavar="|".join(BACKENDS),
        callback=_use_backend,
        is_eager=True,
        help="Sets KERAS_BACKEND; else that variable, Keras's own settings file, or the first installed.",
    )
    return option(started)


beam_size_option = click.option(
    "--beam-size", type=click.IntRange(1), default=4, help="Hypotheses searched for each sentence; 1 is greedy search."
)
length_penalty_option = click.option(
    "--length-penalty", type=click.FloatRange(0), default=0.6, help="The higher, the longer the translations."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "int8"]),
    help="Precision to translate at; what each costs in BLEU is in docs/decoding.md.",
)


def find_translator(run: str | Path) -> Path:
    """The folder of the translator in a run folder, or that folder itself."""
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {run}. Give the run folder of keras-transformer train, or a saved translator."
        )
    return folder / "translator" if (folder / "translator").is_dir() else folder


def load_translator(run: str | Path, precision: str | None = None):
    from keras_transformer.translator import Translator

    return Translator.load(find_translator(run), precision)
