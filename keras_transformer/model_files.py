"""A model as files: its architecture as JSON and its weights as HDF5, readable on every backend.

What a translator's folder holds and what an export starts from. Keras's own ``.keras`` format works too; this one
leaves out the optimizer, and its parts can be looked at one by one. Files are data: before a layer is made or memory is taken, the
architecture is known to name our classes alone, and the weights to hold what it asks for.
"""

import io
import json
import math
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_transformer.artifacts import ArtifactError, check_hdf5, check_sidecar, parse_json, write_with_sidecar
from keras_transformer.backend_training import copy_to_host
from keras_transformer.model_configs import check_config

CONFIG_FILE = "model.json"
WEIGHTS_FILE = "model.weights.h5"
TOKENIZER_FILE = "tokenizer.model"  # beside a model, in the folder of a translator or an export
_MOST_CONFIG = 2**24  # bytes


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
        _write_weights(model, folder / WEIGHTS_FILE)
    finally:
        model.optimizer = optimizer


def load_model(folder, allow_non_finite=False, config_file=CONFIG_FILE):
    """Reads what save_model wrote; the model is not compiled.

    Args:
        folder: path.
        allow_non_finite: whether weights may be NaN or infinite.
        config_file: name of the file with the architecture.

    Returns:
        The model, its weights loaded.

    Raises:
        ArtifactError: a ValueError: a file is missing or damaged, the architecture names other classes than Transformer and
            registered subclasses of it, or the weights do not fit the architecture.
    """
    folder = Path(folder)
    for name in (config_file, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise ArtifactError(
                folder,
                f"it holds no model: {name} is missing",
                "Expected a folder written by Translator.save or save_model.",
            )
    arrays = check_hdf5(folder / WEIGHTS_FILE)
    model = _read_architecture(folder / config_file, sum(math.prod(shape) for shape, _ in arrays.values()))
    _load(model, folder / WEIGHTS_FILE, arrays, allow_non_finite)
    return model


def save_weights(model, path):
    """Keras's ``model.save_weights``, so that a kill or a full disk leaves the old file or the new, with its sha256 beside it.

    Args:
        model: any built keras.Model.
        path: of the file; it must end in ".weights.h5". FILE.sha256.json is written beside it.

    Raises:
        ValueError: the path ends otherwise.
        OSError: the disk is full or fails; the old file is as it was.

    Example:

    >>> import os, tempfile
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kt.save_weights(model, os.path.join(folder, "a.weights.h5"))
    ...     kt.load_weights(model, os.path.join(folder, "a.weights.h5"))
    """
    if not str(path).endswith(".weights.h5"):
        raise ValueError(f'The path must end in ".weights.h5". Received: {str(path)!r}.')
    write_with_sidecar(path, lambda new: _write_weights(model, new))


def _write_weights(model, path):
    """Keras's file, made in memory: under HDF5 a full disk ends the process with signal 11, or raises RuntimeError."""
    file = _WeightsInMemory()
    model.save_weights(file)
    path.write_bytes(file.getbuffer())


class _WeightsInMemory(io.BytesIO):
    """Keras writes into a BytesIO, but judges the name of what it is given first."""

    def __str__(self):
        return WEIGHTS_FILE


def load_weights(model, path, allow_non_finite=False):
    """Loads what kt.save_weights wrote, all or nothing, once every byte has been compared with the sha256 beside it.

    Args:
        model: a built keras.Model. If it is compiled its optimizer's state comes too, where the file holds it.
        path: of the file.
        allow_non_finite: whether weights may be NaN or infinite.

    Raises:
        ArtifactError: a ValueError: the file or its sidecar is missing or damaged, or weights or the optimizer's state are another
            model's or not finite. Model and optimizer are then as they were.
    """
    check_sidecar(path)
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)  # else Keras would drop its state with no more than a warning
    arrays = check_hdf5(path)
    own = {name: array for name, array in arrays.items() if not name.startswith("optimizer/")}
    _load(model, path, own, allow_non_finite)


def _read_architecture(path, elements):
    if path.stat().st_size > _MOST_CONFIG:
        raise ArtifactError(path, f"its size, {path.stat().st_size} bytes, is none of an architecture")
    config = parse_json(path.read_bytes(), path)
    check_config(config, path, elements)
    advice = "Write the folder anew."
    try:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as error:  # Keras raises anything, depending on what is damaged
        raise ArtifactError(path, f"it does not describe a model of this release: {error}", advice) from error
    if not isinstance(model, keras.Model):
        raise ArtifactError(path, f"it does not describe a model, but a {type(model).__name__}", advice)
    return model


def _load(model, path, arrays, allow_non_finite):
    """Keras leaves out silently what the file holds beyond the model, so the arrays are compared first, as far as names allow."""
    advice = f"Expected the two files of one save; {CONFIG_FILE} and {WEIGHTS_FILE} come from different models."
    reason = "the weights do not fit the architecture"
    found = sorted(shape for shape, _ in arrays.values())
    expected = sorted(tuple(weight.shape) for weight in model.weights)
    if len(found) != len(expected):
        raise ArtifactError(path, f"{reason}: it holds {len(found)} arrays, the model has {len(expected)}", advice)
    if found != expected:
        raise ArtifactError(path, f"{reason}: its arrays have other shapes than the model's", advice)
    variables = [*model.weights, *(model.optimizer.variables if getattr(model, "optimizer", None) else [])]
    before = copy_to_host(variables)
    try:
        model.load_weights(path)
        bad = None if allow_non_finite else _first_non_finite(variables)
        if bad is not None:
            raise ArtifactError(
                path,
                f"{bad} holds numbers that are not finite",
                "In Python, allow_non_finite=True loads it all the same.",
            )
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(path, f"{reason}: {error}", advice) from error


def _first_non_finite(variables):
    for variable in variables:
        if not np.isfinite(np.asarray(ops.convert_to_numpy(ops.cast(variable, "float32")))).all():
            return variable.path
    return None
