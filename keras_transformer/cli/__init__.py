"""The command line, ``keras-transformer COMMAND``: a file a command.

Last in the flow. Nothing that imports Keras is imported before a command has chosen its backend; so ``--help`` answers at once.
"""

import signal

import click

from keras_transformer._version import __version__
from keras_transformer.cli.average import average
from keras_transformer.cli.certify import certify
from keras_transformer.cli.check import check
from keras_transformer.cli.demo import demo
from keras_transformer.cli.doctor import doctor
from keras_transformer.cli.evaluate import evaluate
from keras_transformer.cli.export import export
from keras_transformer.cli.inspect import inspect
from keras_transformer.cli.prepare import prepare
from keras_transformer.cli.score import score
from keras_transformer.cli.serve import serve
from keras_transformer.cli.train import train
from keras_transformer.cli.translate import translate


class _Commands(click.Group):
    """Turns what a user can mend into one line and exit code 1; anything else keeps its traceback, for it is a bug.

    What a signal ended has 128 and its number as exit code, as in a shell: 129 after SIGHUP, 130 after Ctrl-C, 143 after SIGTERM.
    """

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise click.ClickException(str(error) or type(error).__name__) from error
        except KeyboardInterrupt as error:
            click.echo(f"Stopped. {error}".rstrip(), err=True)
            ctx.exit(128 + getattr(error, "signal", signal.SIGINT))


@click.group(cls=_Commands, context_settings={"max_content_width": 110, "show_default": True})
@click.version_option(__version__)
def main():
    """The encoder-decoder Transformer for Keras 3: text pairs in, a translator out."""


_COMMANDS = (demo, inspect, prepare, train, average, translate, score, evaluate, export, serve, certify, check, doctor)
for _command in _COMMANDS:
    main.add_command(_command)
