"""Attention against NumPy in float64, over weights, inputs, heads and masks of all kinds."""

import functools

import numpy as np
from hypothesis import strategies as st
from layer_contract import as_numpy
from numpy_oracle import cross_attention, self_attention
from properties import forall

from keras_transformer.layers import CrossAttention, SelfAttention

B, T, S, D = 2, 4, 5, 8  # each shape compiles anew on JAX, so there is one


@functools.cache
def layer_of(kind, heads):
    layer = kind(D, heads)
    layer(*(np.zeros((B, length, D), "float32") for length in ((T,) if kind is SelfAttention else (T, S))))
    return layer


@forall(
    few=8,
    many=400,
    kind=st.sampled_from([SelfAttention, CrossAttention]),
    heads=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0.01, 1.0, 3.0]),
    kept=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
)
def test_attention_agrees_with_numpy(kind, heads, seed, size, kept):
    """``kept`` is the share of entries a mask leaves; rows in which it leaves none give zeros before the output projection."""
    generator = np.random.default_rng(seed)
    layer = layer_of(kind, heads)
    weights = [generator.normal(size=w.shape) * 0.4 for w in layer.get_weights()]
    layer.set_weights(weights)
    x = (size * generator.normal(size=(B, T, D))).astype("float32")
    encoded = (size * generator.normal(size=(B, S, D))).astype("float32")
    keys = T if kind is SelfAttention else S
    mask = generator.random((B, 1, T, keys)) < kept
    weights = [np.asarray(w, "float32").astype("float64") for w in weights]
    if kind is SelfAttention:
        found, expected = layer(x, attention_mask=mask), self_attention(x.astype("float64"), weights, mask[:, 0], heads)
    else:
        found = layer(x, encoded, attention_mask=mask)
        expected = cross_attention(x.astype("float64"), encoded.astype("float64"), weights, mask[:, 0], heads)
    np.testing.assert_allclose(as_numpy(found), expected, rtol=0, atol=2e-5 * max(np.abs(expected).max(), 1.0))
