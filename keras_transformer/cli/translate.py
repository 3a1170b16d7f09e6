"""``keras-transformer translate``."""

import io
import os
import sys
from pathlib import Path

import click

from keras_transformer.cli.options import (
    backend_option,
    beam_size_option,
    find_translator,
    length_penalty_option,
    load_translator,
)


@click.command()
@click.argument("run")
@backend_option
@click.option("--source", type=click.Path(allow_dash=True), default="-", help="Text, a sentence a line, plain or .gz.")
@click.option("--output", type=click.Path(allow_dash=True), default="-", help="Where the translations go.")
@beam_size_option
@length_penalty_option
def translate(run, backend, source, output, beam_size, length_penalty):
    """Translates line by line with the model in RUN, a run folder or a saved translator."""
    from keras_transformer.text.corpus import read_lines

    find_translator(run)  # what is wrong is told before the work, and before standard input is waited for
    _check_output(output)
    lines = list(read_lines(io.BufferedReader(io.BytesIO(sys.stdin.buffer.read())) if source == "-" else source))
    translations = load_translator(run).translate(lines, beam_size=beam_size, length_penalty=length_penalty)
    # A line feed within a translation, which the vocabulary can spell, would shift all lines behind it.
    text = "".join(translation.replace("\n", " ") + "\n" for translation in translations).encode("utf-8")
    if output == "-":
        click.echo(text, nl=False)
    else:
        Path(output).write_bytes(text)


def _check_output(path):
    """Raises before the work if its result could not be written."""
    if path == "-":
        return
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise ValueError(f"--output must be a file. Received: the folder {path}. Name a file in it.")
    if not os.path.isdir(folder):
        raise ValueError(f"--output must be in a folder that exists. Received: {path}. Make {folder} first.")
    if not os.access(path if os.path.exists(path) else folder, os.W_OK):
        raise ValueError(f"--output must be a file that can be written. Received: {path}. Change its permissions.")
