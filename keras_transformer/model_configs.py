"""An architecture read from a file, judged before Keras makes anything of it."""

import keras

from keras_transformer.artifacts import ArtifactError
from keras_transformer.transformer import Transformer

_SIZES = ("vocabulary_size", "d_model", "d_ff", "num_layers", "num_decoder_layers")
_POLICIES = ("DTypePolicy", "DTypePolicyMap", "QuantizedDTypePolicy", "QuantizedFloat8DTypePolicy")


def check_config(config, path, elements):
    """Raises unless ``config`` describes a Transformer, or a registered subclass, of no more than ``elements`` weights.

    Keras makes whatever a config names: it imports modules by name, and layers of any size. So every class named must be
    Transformer, registered by who runs this, or a dtype policy of Keras; and the weights that the sizes ask for must not be more
    than the file of weights holds.

    Args:
        config: what JSON gave.
        path: of the file, for errors.
        elements: numbers in the file of weights.

    Raises:
        ArtifactError: it does not.

    Example:

    >>> import keras_transformer as kt
    >>> import keras
    >>> from keras_transformer.model_configs import check_config
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> check_config(keras.saving.serialize_keras_object(model), "model.json", elements=10_000)
    """
    advice = "Expected a model of this package, or a subclass that is registered before it is loaded."
    kind = _registered(config)
    if not (isinstance(kind, type) and issubclass(kind, Transformer)) or not isinstance(config.get("config"), dict):
        raise ArtifactError(path, "it does not describe a model", advice)
    for value in config["config"].values():
        _check_nested(value, path, advice)
    least = _least_parameters(config["config"])
    if least is None or least > elements:
        raise ArtifactError(
            path, f"its sizes ask for {least or 'no known number of'} parameters, the file of weights holds {elements}"
        )


def _registered(config):
    if not isinstance(config, dict) or not isinstance(config.get("registered_name"), str):
        return None
    return keras.saving.get_registered_object(config["registered_name"])


def _check_nested(value, path, advice, depth=0):
    if depth > 50:
        raise ArtifactError(path, "it is nested too deep", advice)
    if isinstance(value, list):
        for item in value:
            _check_nested(item, path, advice, depth + 1)
    if isinstance(value, dict):
        if "class_name" in value or "module" in value or "registered_name" in value:
            policy = value.get("module") in ("keras", "keras.dtype_policies") and value.get("class_name") in _POLICIES
            if not policy and _registered(value) is None:
                raise ArtifactError(
                    path, f"it names {value.get('module')!r}.{value.get('class_name')!r}, which it may not", advice
                )
        for item in value.values():
            _check_nested(item, path, advice, depth + 1)


def _least_parameters(config):
    """How many parameters a Transformer of these arguments has at least; None if the sizes are no numbers."""
    sizes = {name: config.get(name) for name in _SIZES}
    for name, default in (("d_ff", 4 * (sizes["d_model"] or 0)), ("num_decoder_layers", sizes["num_layers"])):
        sizes[name] = default if sizes[name] is None else sizes[name]
    if any(type(value) is not int or not 0 < value < 2**63 for value in sizes.values()):
        return None
    source = config.get("source_vocabulary_size")
    own_rows = source if type(source) is int and 0 < source < 2**63 else 0
    attention, feed_forward = 4 * sizes["d_model"] ** 2, 2 * sizes["d_model"] * sizes["d_ff"]
    return (
        (sizes["vocabulary_size"] + own_rows) * sizes["d_model"]
        + sizes["num_layers"] * (attention + feed_forward)
        + sizes["num_decoder_layers"] * (2 * attention + feed_forward)
    )
