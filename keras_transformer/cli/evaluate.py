"""``keras-transformer evaluate``."""

import click

from keras_transformer.cli.options import backend_option, beam_size_option, length_penalty_option, load_translator


@click.command()
@click.argument("run")
@backend_option
@click.option("--source", required=True, help="Text to translate, plain or .gz.")
@click.option("--target", required=True, help="Reference translations, line by line.")
@beam_size_option
@length_penalty_option
def evaluate(run, backend, source, target, beam_size, length_penalty):
    """Prints BLEU of the model in RUN, with sacreBLEU's signature."""
    from keras_transformer.evaluation import bleu
    from keras_transformer.text.corpus import read_pairs

    pairs = read_pairs(source, target)
    translations = load_translator(run).translate(pairs.source, beam_size=beam_size, length_penalty=length_penalty)
    click.echo(str(bleu(translations, pairs.target)))
