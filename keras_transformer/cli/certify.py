"""``keras-transformer certify``."""

import functools
import json
import sys
import tempfile
from pathlib import Path

import click

from keras_transformer.cli.options import find_translator
from keras_transformer.environment import keep_compiled

_text = click.Path(exists=True, dir_okay=False)


@click.command()
@click.argument("run", required=False)
@click.option(
    "--preset", help="Certify a model of this preset instead, trained for a moment: tiny, small, base or large."
)
@click.option("--source", type=_text, help="Text to compute with; the built-in corpus if not given.")
@click.option("--target", type=_text, help="The translations of --source, line by line.")
@click.option("--steps", type=click.IntRange(1), default=50, help="Adam updates of the loss curve.")
@click.option("--sentences", type=click.IntRange(1), default=200, help="How many sentences are decoded.")
@click.option("--timeout", type=click.FloatRange(1), default=3600.0, help="Seconds that a backend may take.")
@click.option("--output", help="Where the certificate goes: certificate.json in RUN, or in this folder for --preset.")
def certify(run, preset, output, timeout, **plan):
    """Proves that all installed backends compute the same from the model in RUN, a run folder or a saved translator.

    Exit code 1 if they do not; the first disagreement is named.
    """
    from keras_transformer.artifacts.disk import write_file
    from keras_transformer.certify import certify, preset_checkpoint, table
    from keras_transformer.certify.plan import Plan

    if (run is None) == (preset is None):
        raise click.UsageError("Give either RUN or --preset NAME.")
    # What is wrong is told before the work.
    Plan("", **plan)
    translator = None if run is None else find_translator(run)
    output = Path(run or "", "certificate.json") if output is None else Path(output)
    _check_writable(output)
    keep_compiled()
    echo = functools.partial(click.echo, err=True)
    with tempfile.TemporaryDirectory() as folder:
        name = f"preset {preset}" if run is None else Path(run).resolve().name
        if run is None:
            translator = preset_checkpoint(preset, folder, echo, timeout)
        certificate = certify(translator, name=name, echo=echo, timeout=timeout, **plan)
    click.echo("\n".join(table(certificate)))
    write_file(output, (json.dumps(certificate, indent=1) + "\n").encode())
    sys.exit(0 if certificate["verdict"] == "agree" else 1)


def _check_writable(output):
    """Raises ValueError where the certificate could not be written."""
    if output.is_dir():
        raise ValueError(f"The certificate is a file. Received: --output {output}, a folder. Give a file in it.")
    try:
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise ValueError(
            f"No certificate can be written to {output}: {error.strerror}. Give another file with --output."
        ) from None
