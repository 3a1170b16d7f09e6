"""``keras-transformer certify``."""

import json
import sys
import tempfile
from pathlib import Path

import click

from keras_transformer.cli.options import find_translator
from keras_transformer.environment import keep_compiled


@click.command()
@click.argument("run", required=False)
@click.option(
    "--preset", help="Certify a model of this preset instead, trained for a moment: tiny, small, base or large."
)
@click.option("--source", help="Text to compute with; the built-in corpus if not given.")
@click.option("--target", help="Its translations, line by line.")
@click.option("--steps", type=click.IntRange(1), default=50, help="Adam updates of the loss curve.")
@click.option("--sentences", type=click.IntRange(1), default=200, help="How many are decoded.")
@click.option("--output", default="certificate.json", help="Where the certificate goes.")
def certify(run, preset, output, **plan):
    """Proves that all installed backends compute the same from the model in RUN, a run folder or a saved translator.

    Exit code 1 if they do not; the first disagreement is named.
    """
    from keras_transformer.certify import certify, preset_checkpoint, table

    if (run is None) == (preset is None):
        raise click.UsageError("Give either RUN or --preset NAME.")
    keep_compiled()
    echo = lambda line: click.echo(line, err=True)  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        name = f"preset {preset}" if run is None else Path(run).resolve().name
        translator = preset_checkpoint(preset, folder, echo) if run is None else find_translator(run)
        certificate = certify(translator, name=name, echo=echo, **plan)
    Path(output).write_text(json.dumps(certificate, indent=1) + "\n", encoding="utf-8")
    click.echo("\n".join(table(certificate)))
    sys.exit(0 if certificate["verdict"] == "agree" else 1)
