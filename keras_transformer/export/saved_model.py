"""A TensorFlow SavedModel with the search inside: source ids in, translated ids and scores out.

Written by TensorFlow in any case. From JAX and PyTorch the weights go through files into a child process on the
TensorFlow backend: JAX's own conversion is an opaque call for one platform, and PyTorch has none.
"""

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import keras
import numpy as np

from keras_transformer.decoding.precision import at_precision
from keras_transformer.decoding.search import BeamSearch
from keras_transformer.export import saved_model_check
from keras_transformer.export.card import write_card
from keras_transformer.export.folders import checked_tokenizer, new_export
from keras_transformer.export.loaded import newest_version
from keras_transformer.export.signatures import DESCRIPTIONS, example_inputs, make_signatures, make_text_signature
from keras_transformer.export.warm_up import write_warm_up
from keras_transformer.model_files import TOKENIZER_FILE, load_model, save_model
from keras_transformer.text.tokenizer import Tokenizer

_CHECK_FILE = "check.npz"
_REPORT_FILE = "report.json"
_USE = (
    "serve = tf.saved_model.load(FOLDER + '/{version}').signatures['serving_default']; serve(source=ids)['ids'][:, 0] is the best "
    "translation of each row. {tokenizer}, if it is here, is a SentencePiece model that makes ids of text and text of ids: append "
    "eos_id to a source, drop what follows eos_id in a translation. Only TensorFlow and SentencePiece are needed. TensorFlow "
    "Serving takes FOLDER as model_base_path."
)


def export_saved_model(
    model,
    tokenizer,
    folder,
    beam_size: int = 4,
    length_penalty: float = 0.6,
    max_length: int | None = None,
    sentences: list[str] | None = None,
    text: bool | None = None,
    facts: dict | None = None,
) -> None:
    """Writes a SavedModel of ``model`` with the search inside, its tokenizer and a card beside it.

    The layout is TensorFlow Serving's: the SavedModel is ``folder/1``, or one more than the highest number there already, with
    warm-up requests. Its signatures are those of export.signatures: ``serving_default`` takes ``source`` (B, S) int32, rows
    ended by eos and filled up with pad, any B and S, and gives ``ids`` (B, W, L) int32, best first, and ``scores`` (B, W)
    float32; ``encode``, ``decode_step`` and ``score`` are its parts. Plain TensorFlow loads it; this package and Keras are not
    needed. It computes in float32, whatever policy the model was trained under.

    Before it returns, the artefact is loaded and compared with decoding in Python, on the backend that is active, for 50
    sentences; what was compared is written on the card, and a difference is an error. A failed export leaves nothing behind, and
    what an earlier one wrote stays.

    Args:
        model: a Transformer, on any backend.
        tokenizer: written beside it as tokenizer.model; None writes none.
        folder: where to; made if it is missing. An earlier export there is replaced as a whole.
        beam_size: W.
        length_penalty: see decoding.BeamSearch.
        max_length: most tokens a translation may have, twice the source's and ten at most; None for these.
        sentences: texts to compare with, of which 50 are taken; None for made-up ids.
        text: whether to write ``folder/text`` too: a SavedModel whose signature translate_text takes strings and gives strings. It
            needs tensorflow-text to write, and to load. None writes it where that is installed and the tokenizer a kt.Tokenizer.
        facts: dict of what else the card is to say; see export.card.

    Raises:
        ValueError: TensorFlow is not installed, ``folder`` holds something else than an export, an argument of the
            search is impossible, the tokenizer cannot be saved as a file, or the artefact does not answer as Python does.

    Example:

        translator = kt.Translator.load("run/translator")
        kt.export.export_saved_model(translator.model, translator.tokenizer, "saved_models/en-de")

        import tensorflow as tf
        serve = tf.saved_model.load("saved_models/en-de/1").signatures["serving_default"]
        serve(source=tf.constant([[5, 6, 3]]))["ids"]
    """
    _check_installed(text)
    if tokenizer is not None or text or sentences:
        checked_tokenizer(model, tokenizer, "A SavedModel of texts", sentencepiece=bool(text))
    search_options = {"beam_size": beam_size, "length_penalty": length_penalty, "max_length": max_length}
    if model.compute_dtype != "float32":  # in 16 bits two backends find other translations
        model = at_precision(model, "float32")
    search = BeamSearch(model, **search_options)  # raises for impossible options before the long work
    text = isinstance(tokenizer, Tokenizer) and _has_tensorflow_text() if text is None else text
    options = {"search": search_options, "version": newest_version(folder) + 1, "text": text}
    with new_export(folder) as new:
        if tokenizer is not None:
            tokenizer.save(new / TOKENIZER_FILE)  # which not all can; known before the long work
        source = saved_model_check.sources(model, tokenizer, sentences)
        with _full_precision():
            ids, scores = search(source)
        report = _write_anywhere(model, tokenizer, new, options, {"source": source, "ids": ids, "scores": scores})
        report["sentences_are"] = "given" if sentences else "made-up ids"
        use = _USE.format(version=options["version"], tokenizer=TOKENIZER_FILE)
        found = {"signature": DESCRIPTIONS, "search": search_options, "compared_with_python": report}
        write_card(new, model, "TensorFlow SavedModel", use, found | (facts or {}))


def _full_precision():
    """Inside it JAX multiplies float32 as float32; by itself it takes fewer bits on a GPU or TPU, and the comparison sees it."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.default_matmul_precision("highest")


def _check_installed(text):
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "A SavedModel is written by TensorFlow, which is not installed. Install it beside this backend: "
            "pip install 'keras-transformer[tensorflow]'."
        )
    if text and not _has_tensorflow_text():
        raise ValueError("text=True needs TensorFlow Text, which is not installed: pip install tensorflow-text.")


def _has_tensorflow_text():
    return importlib.util.find_spec("tensorflow_text") is not None


def _write_anywhere(model, tokenizer, folder, options, expected):
    """Writes and compares, here or in a child process; returns what was compared."""
    serialized = tokenizer.to_bytes() if options["text"] else b""
    if keras.backend.backend() == "tensorflow":
        return _write(model, folder, options, expected, serialized)
    with tempfile.TemporaryDirectory() as files:
        save_model(model, files)
        np.savez(Path(files) / _CHECK_FILE, **expected)
        (Path(files) / TOKENIZER_FILE).write_bytes(serialized)
        _run_child(files, folder, options)
        return json.loads((Path(files) / _REPORT_FILE).read_text(encoding="utf-8"))


def _write(model, folder, options, expected, serialized_tokenizer):
    """On the TensorFlow backend: traces the signatures with open dimensions, saves them, and compares."""
    search = BeamSearch(model, **options["search"])
    version = Path(folder) / str(options["version"])
    _save(model, make_signatures(search), version)
    write_warm_up(version, Path(folder).name, example_inputs(model))
    report = saved_model_check.compare(model, version, expected)
    if options["text"]:
        tokenizer = Tokenizer.from_bytes(serialized_tokenizer)
        translate, pieces = make_text_signature(search, tokenizer)
        version_of_texts = Path(folder) / "text" / str(options["version"])
        _save(model, {"translate_text": translate}, version_of_texts, pieces)
        report["texts"] = saved_model_check.compare_texts(version, version_of_texts, tokenizer, expected["source"])
    return report


def _save(model, functions, folder, *resources):
    import tensorflow as tf

    module = tf.Module()
    module.variables_of_the_model = [variable.value for variable in model.variables]
    module.resources = list(resources)
    for name, function in functions.items():
        setattr(module, name, function)
    signatures = functions | ({"serving_default": functions["translate_text"]} if "translate_text" in functions else {})
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _run_child(files, folder, options):
    """Hands weights and options to ``python -m keras_transformer.export.saved_model`` on the TensorFlow backend."""
    command = [sys.executable, "-m", __name__, str(files), str(folder), json.dumps(options)]
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(paths)}
    # No GPU: its memory is this process's, and TensorFlow rounds products to TF32 there, which the comparison would see.
    environment["CUDA_VISIBLE_DEVICES"] = "-1"
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if child.returncode:
        raise ValueError(
            f"The SavedModel could not be written by the TensorFlow backend (exit status {child.returncode}): "
            f"{_reason(child.stderr)}"
        )


def _reason(stderr):
    """The exception in what a Python process wrote; TensorFlow may log lines behind it."""
    exceptions = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b.*$", stderr, flags=re.MULTILINE)
    return exceptions[-1] if exceptions else stderr.strip()[-500:] or "it gave no reason."


@click.command()
@click.argument("files")
@click.argument("output_folder")
@click.argument("options")
def main(files, output_folder, options):
    """The child process: writes the SavedModel of the model in FILES."""
    files = Path(files)
    expected = dict(np.load(files / _CHECK_FILE))
    serialized = (files / TOKENIZER_FILE).read_bytes()
    report = _write(load_model(files), Path(output_folder), json.loads(options), expected, serialized)
    (files / _REPORT_FILE).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
