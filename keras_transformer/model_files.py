"""A model as files: its architecture as JSON and its weights as HDF5, readable on every backend.

What a translator's folder holds and what an export starts from. Keras's own ``.keras`` format works too; this one leaves out the
optimizer, and its parts can be looked at one by one.
"""

import json
from pathlib import Path

import keras

CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.weights.h5"


def save_model(model, folder):
    """Writes ``model`` into ``folder`` (made if it is missing) as model.json and model.weights.h5.

    Args:
        model: a keras.Model of registered classes.
        folder: path.

    Example:

    >>> import tempfile
    >>> import keras_transformer as kt
    >>> from keras_transformer.model_files import load_model, save_model
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(model, folder)
    ...     load_model(folder).d_model
    8
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)  # how it was trained is not what it is
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    model.save_weights(folder / WEIGHTS_FILE)


def load_model(folder):
    """Reads what save_model wrote; the model is not compiled.

    Args:
        folder: path.

    Returns:
        The model, its weights loaded.

    Raises:
        ValueError: a file is missing, or the weights do not fit the architecture.
    """
    folder = Path(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} holds no model: {name} is missing. Expected a folder written by Translator.save or save_model."
            )
    model = keras.saving.deserialize_keras_object(json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")))
    model.load_weights(folder / WEIGHTS_FILE)
    return model
