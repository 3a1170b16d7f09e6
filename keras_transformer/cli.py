"""The command line: ``keras-transformer demo | train | translate | evaluate | export | doctor``.

Last in the flow. Nothing that imports Keras is imported before a command has chosen its backend; so ``--help`` answers at once.
"""

import io
import os
import signal
import sys
from pathlib import Path

import click
import yaml

from keras_transformer._version import __version__
from keras_transformer.environment import BACKENDS, check_backend, command_backend, keep_compiled


class _Commands(click.Group):
    """Turns what a user can mend into one line and exit code 1; anything else keeps its traceback, for it is a bug.

    What a signal ended has 128 and its number as exit code, as in a shell: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise click.ClickException(str(error) or type(error).__name__) from error
        except KeyboardInterrupt as error:
            click.echo(f"Stopped. {error}".rstrip(), err=True)
            ctx.exit(128 + getattr(error, "signal", signal.SIGINT))


def _use_backend(context, parameter, name):
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
    _start_keras()
    return name


def _start_keras():
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


_backend = click.option(
    "--backend",
    metavar="|".join(BACKENDS),
    callback=_use_backend,
    is_eager=True,
    help="Sets KERAS_BACKEND; else that variable, Keras's own settings file, or the first installed.",
)


@click.group(cls=_Commands, context_settings={"max_content_width": 110, "show_default": True})
@click.version_option(__version__)
def main():
    """The encoder-decoder Transformer for Keras 3: text pairs in, a translator out."""


def _read_config(context, parameter, path):
    """The values of a YAML file become the defaults of the options."""
    if path is None:
        return
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.BadParameter(
            f"{path} is not a YAML file: {reason}. Write one option a line, as in 'epochs: 5'."
        ) from None
    if not isinstance(values, dict):
        raise click.BadParameter(
            f"{path} must hold a mapping of options to values. Received: a {type(values).__name__}."
        )
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    known = {option.name for option in context.command.params} - {parameter.name}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise click.BadParameter(
            f"{path} holds {', '.join(unknown)}, which train does not take. It takes {', '.join(sorted(known))}."
        )
    context.default_map = values


@main.command()
@_backend
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    callback=_read_config,
    is_eager=True,
    help="YAML file with any of these options.",
)
@click.option("--source", required=True, help="Training text, one sentence a line, plain or .gz.")
@click.option("--target", required=True, help="Its translations, line by line.")
@click.option("--valid-source", help="Validation text.")
@click.option("--valid-target", help="Its translations.")
@click.option("--output", required=True, help="Run folder; training again on it goes on where it stands.")
@click.option("--preset", default="tiny", help="tiny, small, base or large.")
@click.option("--epochs", type=click.IntRange(1), help="In all; 20 without any limit.")
@click.option("--steps", type=click.IntRange(1), help="Updates in all.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="From now on.")
@click.option(
    "--batch-tokens", type=click.IntRange(1), help="Most padded positions a batch; the preset's if not given."
)
@click.option("--vocabulary-size", type=click.IntRange(1), help="Pieces; the preset's if not given.")
@click.option("--seed", type=click.IntRange(0), default=1, help="Of weights and order.")
def train(backend, config, output, epochs, steps, minutes, **settings):
    """Trains a model from two aligned text files. Ctrl-C saves it first; the same command goes on."""
    from keras_transformer.callbacks import Interrupted
    from keras_transformer.runs import Run, Settings

    run = Run(output, Settings(**settings))
    click.echo(_describe(run), err=True)
    try:
        run.train(epochs=epochs, updates=steps, minutes=minutes)
    except Interrupted as error:
        error.args = (f"{error} {output} is saved: the same command goes on after update {run.updates}.",)
        raise
    click.echo(f"{output}/translator holds the best model. Try: keras-transformer translate {output}", err=True)


def _describe(run):
    import keras

    batches = run.batches
    skipped = ", ".join(f"{count} for {reason}" for reason, count in batches.skipped.items() if count) or "none"
    begun = f", going on after epoch {run.epoch}" if run.epoch else ""
    return (
        f"{run.settings.preset} on {keras.backend.backend()}: {run.model.count_params():,} parameters, "
        f"{run.tokenizer.vocabulary_size:,} pieces\n"
        f"{batches.num_pairs:,} pairs ({skipped} left out), {batches.num_tokens:,} target tokens an epoch in "
        f"{len(batches)} batches of {len(batches.shapes)} shapes, {batches.padding_share:.0%} padding{begun}"
    )


_beam_size = click.option("--beam-size", type=click.IntRange(1), default=4, help="1 is greedy search.")
_length_penalty = click.option("--length-penalty", type=click.FloatRange(0), default=0.6, help="The higher the longer.")


@main.command()
@click.argument("run")
@_backend
@click.option("--source", type=click.Path(allow_dash=True), default="-", help="Text, a sentence a line, plain or .gz.")
@click.option("--output", type=click.Path(allow_dash=True), default="-", help="Where the translations go.")
@_beam_size
@_length_penalty
def translate(run, backend, source, output, beam_size, length_penalty):
    """Translates line by line with the model in RUN, a run folder or a saved translator."""
    from keras_transformer.text.corpus import read_lines

    _find(run)  # what is wrong is told before the work, and before standard input is waited for
    _check_output(output)
    lines = list(read_lines(io.BufferedReader(io.BytesIO(sys.stdin.buffer.read())) if source == "-" else source))
    translations = _load(run).translate(lines, beam_size=beam_size, length_penalty=length_penalty)
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


@main.command()
@click.argument("run")
@_backend
@click.option("--source", required=True, help="Text to translate, plain or .gz.")
@click.option("--target", required=True, help="Reference translations, line by line.")
@_beam_size
@_length_penalty
def evaluate(run, backend, source, target, beam_size, length_penalty):
    """Prints BLEU of the model in RUN, with sacreBLEU's signature."""
    from keras_transformer.evaluation import bleu
    from keras_transformer.text.corpus import read_pairs

    pairs = read_pairs(source, target)
    translations = _load(run).translate(pairs.source, beam_size=beam_size, length_penalty=length_penalty)
    click.echo(str(bleu(translations, pairs.target)))


@main.command()
@click.argument("run")
@click.argument("output")
@_backend
@_beam_size
@_length_penalty
@click.option(
    "--max-length", type=click.IntRange(1), help="Tokens a translation may have; twice the source's and ten more."
)
def export(run, output, backend, beam_size, length_penalty, max_length):
    """Writes the model in RUN as a TensorFlow SavedModel into OUTPUT."""
    _load(run).export(output, beam_size=beam_size, length_penalty=length_penalty, max_length=max_length)
    click.echo(
        f"{output} holds a SavedModel with the signature serving_default, its tokenizer and card.json.", err=True
    )


def _find(run):
    """The folder of the translator in a run folder, or that folder itself."""
    folder = Path(run)
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {run}. Give the run folder of keras-transformer train, or a saved translator."
        )
    return folder / "translator" if (folder / "translator").is_dir() else folder


def _load(run):
    from keras_transformer.translator import Translator

    return Translator.load(_find(run))


@main.command()
@_backend
@click.option("--output", default="saved_models/demo", help="Where the SavedModel goes.")
@click.option("--seed", type=click.IntRange(0), default=1, help="Of weights and order.")
def demo(backend, output, seed):
    """Trains on the built-in English-German corpus, translates unseen sentences and exports: three minutes."""
    from keras_transformer.demo_run import run_demo

    run_demo(output, seed, echo=click.echo)


@main.command()
def doctor():
    """Examines Python, the installed backends and what else is needed; exit code 1 if something is amiss."""
    from keras_transformer.doctor import examine

    findings = examine()
    for finding in findings:
        click.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.subject}: {finding.text}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)
