"""A CTranslate2 model from our weights: for serving on CPUs and GPUs without Keras.

Written with the public ``ctranslate2.specs`` package, from any backend. The architecture is CTranslate2's own Transformer; what
is ours is written out: the interleaved position table, LayerNorm's epsilon, and a bias that bars pad and bos from the output.
"""

import importlib.util

import keras
import numpy as np

from keras_transformer.export.card import write_card
from keras_transformer.export.drivers import write_driver
from keras_transformer.export.folders import checked_tokenizer, new_export
from keras_transformer.export.weights import Weights, position_table
from keras_transformer.model_files import TOKENIZER_FILE

QUANTIZATIONS = ("float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16")
_NEVER = -1e4  # added to the logits of pad and bos: so low that none is chosen, and within the range of float16
_MAX_POSITIONS = 4096  # rows of the position table; CTranslate2 refuses what is longer


def export_ctranslate2(model, tokenizer, folder, quantization: str = "float32", facts: dict | None = None) -> None:
    """Writes ``model`` as a CTranslate2 model, with its tokenizer, a driver and a card.

    ``python FOLDER/translate.py < text`` translates with ctranslate2 and sentencepiece alone; ``ctranslate2.Translator(FOLDER)``
    takes pieces. Greedy search gives the ids of Python. Beam search goes the same way, but CTranslate2 ranks hypotheses by
    log p / length ** length_penalty; the driver asks for all of them and ranks them as decoding.BeamSearch does, by
    log p / ((5 + length) / 6) ** length_penalty, so that its translations are Python's but for rounding.

    Args:
        model: a Transformer, on any backend.
        tokenizer: its Tokenizer; CTranslate2 needs the pieces.
        folder: where to; made if it is missing. An earlier export there is replaced as a whole.
        quantization: of the stored weights: "float32", "float16", "bfloat16", "int16", "int8", or "int8_" and a float type.
        facts: dict of what else the card is to say; see export.card.

    Raises:
        ValueError: ctranslate2 is not installed, ``folder`` holds something else, the activation is unknown to CTranslate2, or
            the weights are not those of a kt.Transformer.

    Example:

        translator = kt.Translator.load("run/translator")
        kt.export.export_ctranslate2(translator.model, translator.tokenizer, "saved_models/en-de-ct2", quantization="int8")

    Reference: Klein et al. 2020, "The OpenNMT Neural Machine Translation Toolkit"; https://opennmt.net/CTranslate2
    """
    if importlib.util.find_spec("ctranslate2") is None:
        raise ValueError(
            "A CTranslate2 model is written by the package ctranslate2, which is not installed: "
            "pip install 'keras-transformer[ctranslate2]'."
        )
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}. Received: {quantization!r}.")
    checked_tokenizer(model, tokenizer, "A CTranslate2 model")
    spec = _spec(model, tokenizer)
    spec.validate()
    spec.optimize(quantization=quantization)
    with new_export(folder) as new:
        spec.save(str(new))
        tokenizer.save(new / TOKENIZER_FILE)
        write_driver("ctranslate2", new)
        write_card(
            new,
            model,
            "CTranslate2 model",
            _USE,
            {
                "quantization": quantization,
                "positions": _MAX_POSITIONS,
                "special_ids": tokenizer.special_ids.tolist(),
            }
            | (facts or {}),
        )


_USE = (
    "python translate.py < source > translation needs ctranslate2 and sentencepiece alone (--help: its options). In "
    "Python: ctranslate2.Translator(FOLDER).translate_batch takes the pieces of tokenizer.model; eos is added. translate.py ranks "
    "hypotheses by log p / ((5 + length) / 6) ** length_penalty, as training's validation does; CTranslate2 itself by "
    "log p / length ** length_penalty."
)


def _spec(model, tokenizer):
    from ctranslate2.specs import transformer_spec

    spec = transformer_spec.TransformerSpec.from_config(
        (model.num_layers, model.num_decoder_layers),
        model.num_heads,
        pre_norm=model.norm == "pre",
        activation=_activation(model.activation),
    )
    weights = Weights(model, "A CTranslate2 model")
    _fill_embeddings(spec, model, weights)
    for name, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        if model.norm == "pre":
            _fill_norm(stack.layer_norm, weights, f"{name}/final_norm")
        for index, layer in enumerate(stack.layer):
            _fill_layer(layer, weights, f"{name}/layer_{index}")
    weights.finish()
    pieces = tokenizer.pieces(range(tokenizer.vocabulary_size))
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.bos_token = spec.config.decoder_start_token = pieces[tokenizer.bos_id]
    spec.config.eos_token = pieces[tokenizer.eos_id]
    spec.config.unk_token = pieces[tokenizer.unk_id]
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = model.epsilon
    return spec


def _activation(function):
    from ctranslate2.specs.common_spec import Activation

    known = {
        keras.activations.relu: Activation.RELU,
        keras.activations.gelu: Activation.GELU,
        keras.activations.silu: Activation.SWISH,
        keras.activations.tanh: Activation.Tanh,
        keras.activations.sigmoid: Activation.Sigmoid,
    }
    if function not in known:
        names = ", ".join(sorted(one.__name__ for one in known))
        raise ValueError(f"CTranslate2 knows the activations {names}. Received: activation={function!r}.")
    return known[function]


def _fill_embeddings(spec, model, weights):
    table = weights.take("target_embedding/embeddings")
    spec.decoder.embeddings.weight = table
    source = table if model.tie_embeddings == "all" else weights.take("source_embedding/embeddings")
    spec.encoder.embeddings[0].weight = source
    spec.decoder.projection.weight = table if model.tie_embeddings else weights.take("output_projection/kernel")
    spec.decoder.projection.bias = np.zeros(model.vocabulary_size, "float32")
    spec.decoder.projection.bias[[model.pad_id, model.bos_id]] = _NEVER
    positions = position_table(_MAX_POSITIONS, model.d_model)
    spec.encoder.position_encodings.encodings = spec.decoder.position_encodings.encodings = positions


def _fill_layer(layer, weights, path):
    """Self-attention, attention to the encoder where there is some, feed-forward network, each with its norm."""
    projections = {"self_attention": ("query_key_value", "output")}
    if hasattr(layer, "attention"):
        projections["cross_attention"] = ("query", "key_value", "output")
    for name, parts in projections.items():
        spec = layer.self_attention if name == "self_attention" else layer.attention
        for linear, part in zip(spec.linear, parts, strict=True):
            _fill_linear(linear, weights, f"{path}/{name}/{part}")
        _fill_norm(spec.layer_norm, weights, f"{path}/{name}_residual/layer_norm")
    _fill_linear(layer.ffn.linear_0, weights, f"{path}/feed_forward/inner")
    _fill_linear(layer.ffn.linear_1, weights, f"{path}/feed_forward/outer")
    _fill_norm(layer.ffn.layer_norm, weights, f"{path}/feed_forward_residual/layer_norm")


def _fill_linear(linear, weights, path):
    linear.weight = np.ascontiguousarray(weights.take(f"{path}/kernel").T)  # CTranslate2 has (units, D)
    linear.bias = weights.take(f"{path}/bias")


def _fill_norm(norm, weights, path):
    norm.gamma = weights.take(f"{path}/gamma")
    norm.beta = weights.take(f"{path}/beta")
