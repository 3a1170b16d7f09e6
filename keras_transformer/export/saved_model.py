"""A TensorFlow SavedModel whose serving signature decodes: source ids in, translated ids and scores out.

Written by TensorFlow in any case. From JAX and PyTorch the weights go through files into a child process on the
TensorFlow backend: JAX's own conversion is an opaque call for one platform, and PyTorch has none.
"""

import hashlib
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

from keras_transformer.artifacts import check_manifest, new_folder, write_manifest
from keras_transformer.decoding.search import BeamSearch
from keras_transformer.model_files import TOKENIZER_FILE, load_model, save_model

CARD_FILE = "card.json"
GRAPH_FILE = "saved_model.pb"
_KIND = "SavedModel"


def export_saved_model(model, tokenizer, folder, beam_size=4, length_penalty=0.6, max_length=None):
    """Writes a SavedModel of ``model`` with the search inside, its tokenizer and a card beside it.

    The signature ``serving_default`` takes ``source`` (B, S) int32, rows ended by eos and filled up with pad, any B and
    S. It gives ``ids`` (B, W, L) int32, best first, and ``scores`` (B, W) float32. Plain TensorFlow loads it; this
    package is not needed. Before it returns, the artefact is loaded and compared with decoding in Python; a difference
    is an error. A failed export leaves nothing behind, and what an earlier one wrote stays.

    Args:
        model: a Transformer, on any backend.
        tokenizer: written beside it as tokenizer.model; None writes none.
        folder: where to; made if it is missing. An earlier export there is replaced as a whole.
        beam_size: W.
        length_penalty: see decoding.BeamSearch.
        max_length: most tokens a translation may have; None for twice the source's and ten more.

    Raises:
        ValueError: TensorFlow is not installed, ``folder`` holds something else than an export, an argument of the
            search is impossible, or the artefact does not answer as Python does.

    Example:

        translator = kt.Translator.load("run/translator")
        kt.export.export_saved_model(translator.model, translator.tokenizer, "saved_models/en-de")

        import tensorflow as tf
        serve = tf.saved_model.load("saved_models/en-de").signatures["serving_default"]
        serve(source=tf.constant([[5, 6, 3]]))["ids"]
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "A SavedModel is written by TensorFlow, which is not installed. Install it beside this backend: "
            "pip install 'keras-transformer[tensorflow]'."
        )
    options = {"beam_size": beam_size, "length_penalty": length_penalty, "max_length": max_length}
    BeamSearch(model, **options)  # raises for impossible options before the long work
    with new_folder(folder, GRAPH_FILE, complete=lambda new: write_manifest(new, _KIND)) as new:
        if keras.backend.backend() == "tensorflow":
            _write(model, new, options)
        else:
            _write_in_child_process(model, new, options)
        card = _card(model, options)
        if tokenizer is not None:
            tokenizer.save(new / TOKENIZER_FILE)
            card["tokenizer_sha256"] = hashlib.sha256((new / TOKENIZER_FILE).read_bytes()).hexdigest()
        (new / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_saved_model(folder):
    """tf.saved_model.load of what export_saved_model wrote, once every byte has been compared with the manifest.

    A SavedModel is a program: TensorFlow runs what is in it. Load none that you do not trust; the manifest tells damage, not
    intent.

    Args:
        folder: path.

    Returns:
        What TensorFlow loads; ``.signatures["serving_default"]`` decodes.

    Raises:
        ArtifactError: a ValueError: the folder has no manifest, or a file is missing or damaged.

    Example:

        serve = kt.export.load_saved_model("saved_models/en-de").signatures["serving_default"]
    """
    check_manifest(folder, _KIND)
    import tensorflow as tf

    return tf.saved_model.load(str(folder))


def _card(model, options):
    """What someone who finds the folder needs to know."""
    return {
        "kind": "TensorFlow SavedModel",
        "use": (
            "serve = tf.saved_model.load(FOLDER).signatures['serving_default']; serve(source=ids)['ids'][:, 0] is the "
            f"best translation of each row. {TOKENIZER_FILE}, if it is here, is a SentencePiece model that makes ids "
            "of text and text of ids: append eos_id to a source, drop what follows eos_id in a translation. Only "
            "TensorFlow and SentencePiece are needed."
        ),
        "signature": {
            "serving_default": {
                "inputs": {"source": "int32 (B, S), rows ended by eos_id and filled up with pad_id"},
                "outputs": {"ids": "int32 (B, W, L), best first", "scores": "float32 (B, W)"},
            }
        },
        "pad_id": model.pad_id,
        "eos_id": model.eos_id,
        "search": options,
        "model": model.get_config(),
        "parameters": model.count_params(),
        "trained_on": keras.backend.backend(),
        "keras": keras.__version__,
    }


def _write(model, folder, options):
    """On the TensorFlow backend: traces the search with open dimensions, saves it, and compares."""
    import tensorflow as tf

    search = BeamSearch(model, **options)
    module = tf.Module()
    module.variables_of_the_model = [variable.value for variable in model.variables]

    @tf.function(input_signature=[tf.TensorSpec((None, None), "int32", name="source")])
    def serve(source):
        ids, scores = search.search(source)
        return {"ids": ids, "scores": scores}

    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    _compare(search, tf.saved_model.load(str(folder)).signatures["serving_default"])


def _compare(search, serve):
    """Raises if the loaded artefact and the search in Python differ on a few shapes of made-up sources."""
    import tensorflow as tf

    model = search.model
    generator = np.random.default_rng(0)
    special = (model.pad_id, model.bos_id, model.eos_id)
    words = [word for word in range(model.vocabulary_size) if word not in special] or [model.eos_id]
    for rows, length in ((1, 2), (3, 7)):
        source = generator.choice(words, (rows, length)).astype("int32")
        source[:, -1] = model.eos_id
        ids, scores = search(source)
        served = {name: value.numpy() for name, value in serve(source=tf.constant(source)).items()}
        if not np.array_equal(ids, served["ids"]) or not np.allclose(scores, served["scores"], atol=1e-4, rtol=1e-4):
            raise ValueError(
                f"The exported SavedModel does not answer as the model does for source {source.tolist()}: "
                f"{served['ids'].tolist()} instead of {ids.tolist()}. Do not use it; please report this."
            )


def _write_in_child_process(model, folder, options):
    """Hands weights and options to ``python -m keras_transformer.export.saved_model`` on the TensorFlow backend."""
    with tempfile.TemporaryDirectory() as files:
        save_model(model, files)
        command = [sys.executable, "-m", __name__, files, str(folder), json.dumps(options)]
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONPATH": os.pathsep.join(paths)}
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
@click.argument("model_folder")
@click.argument("output_folder")
@click.argument("options")
def main(model_folder, output_folder, options):
    """The child process: writes the SavedModel of the model in MODEL_FOLDER."""
    _write(load_model(model_folder), Path(output_folder), json.loads(options))


if __name__ == "__main__":
    main()
