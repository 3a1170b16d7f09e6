"""``keras-transformer score``."""

import click

from keras_transformer.cli.options import backend_option, load_translator


@click.command()
@click.argument("run")
@backend_option
@click.option("--source", required=True, help="Text, a sentence a line, plain or .gz.")
@click.option("--target", required=True, help="The translations of --source, line by line.")
@click.option("--alignments", is_flag=True, help="Adds a tab and the word alignment in Pharaoh's format.")
def score(run, backend, source, target, alignments):
    """Prints the log-probability of each translation by the model in RUN."""
    from keras_transformer.decoding.errors import RowError
    from keras_transformer.text.corpus import read_lines

    sources, targets = list(read_lines(source)), list(read_lines(target))
    if len(sources) != len(targets):
        raise ValueError(
            f"{source} has {len(sources)} lines, {target} has {len(targets)}. Line n of one must translate line n of the other."
        )
    try:
        found = load_translator(run).score(sources, targets)
    except RowError as error:
        raise error.of("lines", range(1, len(sources) + 1)) from None
    for scored in found:
        click.echo(f"{scored.log_probability:.6f}" + (f"\t{scored.pharaoh}" if alignments else ""))
