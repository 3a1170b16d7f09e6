"""A translator in the preset layout of keras-nlp (keras-hub), in which models are shared on Kaggle and Hugging Face.

    config.json            the model, as Keras serialises it        model.weights.h5                   its weights
    tokenizer.json         keras-nlp's SentencePieceTokenizer       assets/tokenizer/vocabulary.spm    its vocabulary
    metadata.json          versions and counts                     card.json, README.md, manifest.json    as exports have them

keras-nlp itself is not needed, neither to write nor to read. It loads the tokenizer by its own class; the model needs this package.
"""

import datetime
import json
from pathlib import Path

import keras

from keras_transformer.artifacts import MANIFEST_FILE, check_manifest, new_folder, write_manifest
from keras_transformer.export.card import write_card
from keras_transformer.export.folders import checked_tokenizer
from keras_transformer.model_files import CONFIG_FILE as MODEL_FILE
from keras_transformer.model_files import WEIGHTS_FILE, load_model, save_model
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.translator import Translator

CONFIG_FILE = "config.json"
TOKENIZER_CONFIG_FILE = "tokenizer.json"
METADATA_FILE = "metadata.json"
_KIND = "preset"
_USE = (
    "keras_transformer.interchange.load_preset(FOLDER) gives a Translator, on TensorFlow, JAX and PyTorch. keras-nlp's "
    "SentencePieceTokenizer reads assets/tokenizer/vocabulary.spm."
)
VOCABULARY_FILE = "assets/tokenizer/vocabulary.spm"
# The generic class that reads a SentencePiece file, as keras-hub 0.32 serialises it.
_TOKENIZER_CONFIG = {
    "module": "keras_hub.src.tokenizers.sentence_piece_tokenizer",
    "class_name": "SentencePieceTokenizer",
    "config": {
        "name": "sentence_piece_tokenizer",
        "trainable": True,
        "dtype": {
            "module": "keras",
            "class_name": "DTypePolicy",
            "config": {"name": "int32"},
            "registered_name": None,
        },
        "config_file": TOKENIZER_CONFIG_FILE,
        "proto": None,
        "sequence_length": None,
        "add_bos": False,
        "add_eos": False,
    },
    "registered_name": "keras_hub>SentencePieceTokenizer",
}


def save_preset(translator: Translator, folder, facts: dict | None = None) -> None:
    """Writes a translator as a preset; one already there is replaced as a whole.

    ``keras_hub.upload_preset("hf://NAME/MODEL", folder)`` shares it.

    Args:
        translator: a Translator.
        folder: path.
        facts: dict of what else the card is to say; see export.card.

    Raises:
        ValueError: ``folder`` holds something else than a preset, which would be lost; the tokenizer is no kt.Tokenizer.

    Example:

    >>> import tempfile
    >>> import keras_transformer as kt
    >>> from keras_transformer.interchange import load_preset, save_preset
    >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
    >>> model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_preset(kt.Translator(model, tokenizer), folder + "/preset")
    ...     load_preset(folder + "/preset").model.d_model
    8
    """
    checked_tokenizer(translator.model, translator.tokenizer, "A preset of keras-nlp")
    with new_folder(folder, mark=METADATA_FILE, complete=lambda new: write_manifest(new, _KIND)) as new:
        save_model(translator.model, new)
        (new / MODEL_FILE).rename(new / CONFIG_FILE)
        translator.tokenizer.save(new / VOCABULARY_FILE)
        _write(new / TOKENIZER_CONFIG_FILE, _TOKENIZER_CONFIG)
        metadata = {
            "keras_version": keras.__version__,
            "parameter_count": translator.model.count_params(),
            "date_saved": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d@%H:%M:%S"),
        }
        _write(new / METADATA_FILE, metadata)
        write_card(new, translator.model, "keras-nlp preset", _USE, facts or {})


def _write(path, content):
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def load_preset(folder) -> Translator:
    """Reads what save_preset wrote, on whatever backend is active; compares every byte with the manifest, if there is one.

    Args:
        folder: path of a preset on this machine.

    Returns:
        Translator.

    Raises:
        ValueError: a file is missing or changed, or they are those of another model.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} is no preset of a translator: {name} is missing. Expected what save_preset wrote."
            )
    if (folder / MANIFEST_FILE).exists():
        check_manifest(folder, _KIND)
    return Translator(load_model(folder, config_file=CONFIG_FILE), Tokenizer.load(folder / VOCABULARY_FILE))
