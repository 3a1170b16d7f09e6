"""Attention against NumPy in float64, over weights, inputs, heads and masks of all kinds."""

import functools

import numpy as np
from hypothesis import strategies as st
from layer_contract import as_numpy
from numpy_oracle import cross_attention, self_attention
from properties import forall, where_nothing_is_compiled

from keras_transformer.layers import CrossAttention, SelfAttention

SHAPES = where_nothing_is_compiled(  # B, T, S, K
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 6)), fixed=(2, 4, 5, 2)
)


@functools.cache
def layer_of(kind, width, heads):
    layer = kind(width, heads)
    layer(*(np.zeros((1, 1, width), "float32") for _ in range(1 if kind is SelfAttention else 2)))
    return layer


@forall(
    few=20,
    many=400,
    kind=st.sampled_from([SelfAttention, CrossAttention]),
    shape=SHAPES,
    heads=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([0.01, 1.0, 3.0]),
    kept=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
)
def test_attention_agrees_with_numpy(kind, shape, heads, seed, size, kept):
    """``kept`` is the share of entries a mask leaves; rows in which it leaves none give zeros before the output projection."""
    generator = np.random.default_rng(seed)
    rows, length, keys, width = shape
    width *= heads
    layer = layer_of(kind, width, heads)
    weights = [generator.normal(size=w.shape) * 0.4 for w in layer.get_weights()]
    layer.set_weights(weights)
    x = (size * generator.normal(size=(rows, length, width))).astype("float32")
    encoded = (size * generator.normal(size=(rows, keys, width))).astype("float32")
    keys = length if kind is SelfAttention else keys
    mask = generator.random((rows, 1, length, keys)) < kept
    weights = [np.asarray(w, "float32").astype("float64") for w in weights]
    if kind is SelfAttention:
        found, expected = layer(x, attention_mask=mask), self_attention(x.astype("float64"), weights, mask[:, 0], heads)
    else:
        found = layer(x, encoded, attention_mask=mask)
        expected = cross_attention(x.astype("float64"), encoded.astype("float64"), weights, mask[:, 0], heads)
    np.testing.assert_allclose(as_numpy(found), expected, rtol=0, atol=2e-5 * max(np.abs(expected).max(), 1.0))
