"""A model as files: its architecture as JSON and its weights as HDF5, readable on every backend.

What a translator's folder holds and what an export starts from. Keras's own ``.keras`` format works too; this one
leaves out the optimizer, and its parts can be looked at one by one.
"""

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import h5py
import keras

CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.weights.h5"
TOKENIZER_FILE = "tokenizer.model"  # beside a model, in the folder of a translator or an export


@contextlib.contextmanager
def new_folder(folder, mark):
    """A folder to write into: it becomes ``folder`` as a whole when the block ends well, and vanishes when it does not.

    Args:
        folder: path; what is there already is replaced, if it holds a file called ``mark`` or nothing.
        mark: the file by which such folders are known.

    Raises:
        ValueError: ``folder`` holds other things, which would be lost.

    Example:

    >>> import tempfile
    >>> from keras_transformer.model_files import new_folder
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_folder(parent + "/a", mark="readme.txt") as folder:
    ...         _ = (folder / "readme.txt").write_text("A folder of its own.")
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds other files, which would be lost: there is no {mark}. Name a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield new
        new.chmod(0o755)
        _replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _replace_folder(new, folder):
    """Renames ``new`` to ``folder``; what was there is kept until the rename has happened."""
    old = new.with_name(new.name + "-old")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


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
    optimizer = getattr(model, "optimizer", None)
    model.optimizer = None  # Keras would write its moments too: twice the model's size
    try:
        model.save_weights(folder / WEIGHTS_FILE)
    finally:
        model.optimizer = optimizer


def load_model(folder, config_file=CONFIG_FILE):
    """Reads what save_model wrote; the model is not compiled.

    Args:
        folder: path.
        config_file: name of the file with the architecture.

    Returns:
        The model, its weights loaded.

    Raises:
        ValueError: a file is missing or damaged, or the weights do not fit the architecture.
    """
    folder = Path(folder)
    for name in (config_file, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} holds no model: {name} is missing. Expected a folder written by Translator.save or "
                "save_model."
            )
    model = _read_architecture(folder / config_file)
    _read_weights(model, folder / WEIGHTS_FILE)
    return model


def _read_architecture(path):
    try:
        model = keras.saving.deserialize_keras_object(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, KeyError, ValueError) as error:  # what Keras and json raise, depending on what is damaged
        raise ValueError(f"{path} does not describe a model of this release: {error} Write the folder anew.") from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{path} does not describe a model, but a {type(model).__name__}. Write the folder anew.")
    return model


def _read_weights(model, path):
    """Keras leaves out silently what the file holds beyond the model, so the arrays are counted first."""
    arrays = []
    try:
        with h5py.File(path) as file:
            file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
    except OSError as error:
        raise ValueError(f"{path} is damaged: {error}. Write the folder anew.") from error
    advice = f"Expected the two files of one save; {CONFIG_FILE} and {WEIGHTS_FILE} come from different models."
    if len(arrays) != len(model.weights):
        raise ValueError(
            f"The weights do not fit the architecture: {path} holds {len(arrays)} arrays, the model has "
            f"{len(model.weights)}. {advice}"
        )
    try:
        model.load_weights(path)
    except ValueError as error:
        raise ValueError(f"The weights do not fit the architecture: {error} {advice}") from error
