"""``keras-transformer evaluate``."""

import click

from keras_transformer.cli.options import (
    backend_option,
    beam_size_option,
    length_penalty_option,
    load_translator,
    precision_option,
)


@click.command()
@click.argument("run")
@backend_option
@click.option("--source", required=True, help="Text to translate, plain or .gz.")
@click.option("--target", required=True, help="Reference translations, line by line.")
@click.option("--against", help="Another output for the same source, line by line, to be held against.")
@click.option(
    "--tokenize",
    default="13a",
    help='sacreBLEU\'s tokenizer for BLEU; "none" for text that is tokenised already. spm, flores101 and flores200 fetch their '
    "model from the network, ja-mecab and ko-mecab need packages of their own.",
)
@beam_size_option
@length_penalty_option
@precision_option
def evaluate(run, backend, source, target, against, tokenize, beam_size, length_penalty, precision):
    """Prints BLEU, chrF and TER of the model in RUN with sacreBLEU's signatures, their 95 % intervals, and paired tests.

    p of a paired test is two-sided. Of fewer than 30 sentences it prints the scores alone; a paired test needs as many.
    """
    from keras_transformer.evaluation import FEWEST, check_enough, compare, intervals, scores
    from keras_transformer.text.corpus import read_pairs

    pairs = read_pairs(source, target)
    if pairs.counts.empty:
        click.echo(
            f"Lines with a blank side, left out of the score: {pairs.counts.empty} of {pairs.counts.lines}.", err=True
        )
    others = None if against is None else _aligned(against, pairs)  # what is wrong is told before the work
    scores(["-"], ["-"], tokenize)
    if others is not None:
        check_enough(len(pairs.target))
    translations = load_translator(run, precision).translate(
        pairs.source, beam_size=beam_size, length_penalty=length_penalty
    )
    lines = scores(translations, pairs.target, tokenize)
    if len(pairs.target) >= FEWEST:
        lines += intervals(translations, pairs.target, tokenize)
    else:
        click.echo(f"No intervals: {len(pairs.target)} sentences are too few, {FEWEST} are needed.", err=True)
    for line in lines:
        click.echo(str(line))
    if others is not None:
        click.echo(f"against {against}, paired bootstrap:")
        for comparison in compare(translations, others, pairs.target, tokenize):
            click.echo(str(comparison))


def _aligned(file, pairs):
    """The lines of that file that belong to the pairs: pairs with a blank side are left out of the score."""
    from keras_transformer.text.corpus import read_lines

    lines = list(read_lines(file))
    if len(lines) != pairs.counts.lines:
        raise ValueError(
            f"--against must have a line for each of {pairs.counts.lines} lines of the source. Received: {file} with "
            f"{len(lines)}. Give the output for the same source."
        )
    return [lines[number - 1] for number in pairs.lines]
