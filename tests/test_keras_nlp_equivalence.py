"""EncoderLayer and DecoderLayer give what keras_nlp's TransformerEncoder and TransformerDecoder give."""

import numpy as np
import pytest
from layer_contract import as_numpy

from keras_transformer.layers import DecoderLayer, EncoderLayer, padding_mask

keras_nlp = pytest.importorskip("keras_nlp")

GENERATOR = np.random.default_rng(0)
D, F, HEADS = 16, 24, 4
X = GENERATOR.normal(size=(2, 4, D)).astype("float32")
ENCODED = GENERATOR.normal(size=(2, 5, D)).astype("float32")
IDS = np.array([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
NORMS = ["post", "pre"]


def randomised(layer, *inputs):
    layer(*inputs)
    layer.set_weights([GENERATOR.normal(size=w.shape) * 0.4 for w in layer.get_weights()])
    return layer


def parts(layer):
    """{"self_attention/query/kernel": array, ...}; keras_nlp's names without their varying prefix and suffix."""
    weights = {}
    for weight, value in zip(layer.weights, layer.get_weights(), strict=True):
        name = "/".join(weight.path.split("/")[-3:]).replace("self_attention_layer/", "self_attention/")
        weights["/".join(name.split("/")[-3:] if "attention/" in name else name.split("/")[-2:])] = value
    return weights


def attention_block(theirs, name, columns):
    """Their kernels (D, H, K) and biases (H, K) side by side, as ours lie."""
    kernel = np.concatenate([theirs[f"{name}/{column}/kernel"].reshape(D, D) for column in columns], axis=1)
    bias = np.concatenate([theirs[f"{name}/{column}/bias"].reshape(D) for column in columns])
    return [kernel, bias]


def output_block(theirs, name):
    """Their kernel (H, K, D) as (D, D)."""
    return [theirs[f"{name}/attention_output/kernel"].reshape(D, D), theirs[f"{name}/attention_output/bias"]]


def pair(theirs, name, kinds):
    return [theirs[f"{name}/{kind}"] for kind in kinds]


def encoder_weights(theirs):
    return [
        *attention_block(theirs, "self_attention", ("query", "key", "value")),
        *output_block(theirs, "self_attention"),
        *pair(theirs, "self_attention_layer_norm", ("gamma", "beta")),
        *feed_forward_weights(theirs),
    ]


def feed_forward_weights(theirs):
    return [
        *pair(theirs, "feedforward_intermediate_dense", ("kernel", "bias")),
        *pair(theirs, "feedforward_output_dense", ("kernel", "bias")),
        *pair(theirs, "feedforward_layer_norm", ("gamma", "beta")),
    ]


def decoder_weights(theirs):
    return [
        *encoder_weights(theirs)[:6],
        *attention_block(theirs, "cross_attention", ("query",)),
        *attention_block(theirs, "cross_attention", ("key", "value")),
        *output_block(theirs, "cross_attention"),
        *pair(theirs, "cross_attention_layer_norm", ("gamma", "beta")),
        *feed_forward_weights(theirs),
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_encoder_layer(norm):
    theirs = keras_nlp.layers.TransformerEncoder(F, HEADS, layer_norm_epsilon=1e-6, normalize_first=norm == "pre")
    randomised(theirs, ENCODED)
    ours = EncoderLayer(D, HEADS, d_ff=F, norm=norm)
    ours(ENCODED)
    ours.set_weights(encoder_weights(parts(theirs)))
    np.testing.assert_allclose(as_numpy(ours(ENCODED)), as_numpy(theirs(ENCODED)), atol=1e-5)
    np.testing.assert_allclose(
        as_numpy(ours(ENCODED, attention_mask=padding_mask(IDS))),
        as_numpy(theirs(ENCODED, padding_mask=IDS != 0)),
        atol=1e-5,
    )


@pytest.mark.parametrize("norm", NORMS)
def test_decoder_layer(norm):
    theirs = keras_nlp.layers.TransformerDecoder(F, HEADS, layer_norm_epsilon=1e-6, normalize_first=norm == "pre")
    randomised(theirs, X, ENCODED)
    ours = DecoderLayer(D, HEADS, d_ff=F, norm=norm)
    ours(X, ENCODED)
    ours.set_weights(decoder_weights(parts(theirs)))
    np.testing.assert_allclose(as_numpy(ours(X, ENCODED)), as_numpy(theirs(X, ENCODED)), atol=1e-5)
    np.testing.assert_allclose(
        as_numpy(ours(X, ENCODED, encoder_mask=padding_mask(IDS))),
        as_numpy(theirs(X, ENCODED, encoder_padding_mask=IDS != 0)),
        atol=1e-5,
    )
