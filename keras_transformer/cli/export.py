"""``keras-transformer export``."""

from pathlib import Path

import click

from keras_transformer.cli.options import backend_option, beam_size_option, length_penalty_option, load_translator

FORMATS = {
    "saved_model": "a TensorFlow SavedModel in TensorFlow Serving's layout",
    "onnx": "ONNX graphs of encoder and decoder step, with a driver that searches",
    "ctranslate2": "a CTranslate2 model, with a driver that ranks as training does",
    "keras_nlp": "a preset in keras-nlp's layout",
}


@click.command()
@click.argument("run")
@click.argument("output")
@backend_option
@click.option("--format", "kind", type=click.Choice(list(FORMATS)), default="saved_model", help="What to write.")
@beam_size_option
@length_penalty_option
@click.option(
    "--max-length",
    type=click.IntRange(1),
    help="saved_model: tokens a translation may have, never more than twice the source's and ten.",
)
@click.option(
    "--text/--no-text",
    default=None,
    help="saved_model: write OUTPUT/text too, which takes and gives texts; by default where tensorflow-text is installed.",
)
@click.option("--quantization", help="ctranslate2: float32, which is the default, float16, int8, int8_float16, ...")
@click.option("--source", help="Text to test the export with, and to score the model on; a sentence a line.")
@click.option("--target", help="Reference translations of --source, line by line: the card then has BLEU.")
@click.option("--licence", help="Licence of the model, for the card.")
def export(
    run, output, backend, kind, beam_size, length_penalty, max_length, text, quantization, source, target, licence
):
    """Writes the model in RUN into OUTPUT, for use without this package, with a card and SHA-256 sums.

    The search options are fixed in a SavedModel; other formats take them when they translate.
    """
    from keras_transformer import export as exports
    from keras_transformer.export.card import data_of_run, facts_of_run
    from keras_transformer.export.folders import check_export_folder
    from keras_transformer.interchange import save_preset

    _check_options(
        kind, saved_model={"--max-length": max_length, "--text": text}, ctranslate2={"--quantization": quantization}
    )
    check_export_folder(output)  # told before the work, not after it
    translator = load_translator(run)
    search = {"beam_size": beam_size, "length_penalty": length_penalty, "max_length": max_length}
    sentences = _lines(source)
    facts = facts_of_run(run) | data_of_run(run) | _scores(translator, sentences, target, search)
    facts |= {} if licence is None else {"licence": licence}
    model, tokenizer = translator.model, translator.tokenizer
    if kind == "saved_model":
        exports.export_saved_model(model, tokenizer, output, **search, sentences=sentences, text=text, facts=facts)
    elif kind == "onnx":
        exports.export_onnx(model, tokenizer, output, facts=facts)
    elif kind == "ctranslate2":
        exports.export_ctranslate2(model, tokenizer, output, quantization=quantization or "float32", facts=facts)
    else:
        save_preset(translator, output, facts)
    click.echo(f"{output} holds {FORMATS[kind]}.", err=True)


def _check_options(kind, **options):
    """Raises for an option that is given and belongs to another format; ``options`` are {format: {option: its value}}."""
    for owner, values in options.items():
        given = [name for name, value in values.items() if value is not None]
        if given and kind != owner:
            raise ValueError(
                f"{given[0]} is an option of --format {owner}. Received also: --format {kind}. Leave one out."
            )


def _lines(file):
    from keras_transformer.text.corpus import read_lines

    return None if file is None else list(read_lines(file))


def _scores(translator, sentences, target, search):
    """For the card: how the model that is exported scores in Python. An artefact of 8 bits is not scored itself."""
    if target is None:
        return {}
    if sentences is None:
        raise ValueError("--target holds references for the lines of --source. Give --source as well.")
    from keras_transformer.evaluation import bleu

    references = _lines(target)
    if len(references) != len(sentences):
        raise ValueError(f"--source has {len(sentences)} lines and --target {len(references)}. They must be aligned.")
    value = str(bleu(translator.translate(sentences, **search), references))
    return {
        "scores": {"of": "the model in Python, before the export", "on": Path(target).name, "bleu": value, **search}
    }
