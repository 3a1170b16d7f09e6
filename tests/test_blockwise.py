"""Attention in blocks against NumPy and against the plain form, values and gradients, on whatever backend KERAS_BACKEND says."""

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy
from numpy_oracle import attention as oracle
from numpy_oracle import value_and_gradients

from keras_transformer.layers import CrossAttention, SelfAttention, attention, causal_mask
from keras_transformer.layers.blockwise import blockwise_attention, masked_softmax

GENERATOR = np.random.default_rng(0)
QUERY, KEY, VALUE, FACTORS = (GENERATOR.normal(size=(2, 3, length, 4)).astype("float32") for length in (7, 5, 5, 7))
MASKS = {
    "none": None,
    "of keys": GENERATOR.uniform(size=(2, 1, 1, 5)) < 0.7,
    "of queries and keys": GENERATOR.uniform(size=(1, 1, 7, 5)) < 0.7,
    "of everything": GENERATOR.uniform(size=(2, 3, 7, 5)) < 0.7,
}


def heads_side_by_side(x):
    return x.astype("float64").transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


@pytest.mark.parametrize("block_size", [1, 3, 7, 100])
@pytest.mark.parametrize("mask", MASKS)
def test_equals_the_formula_head_by_head(mask, block_size):
    mask = MASKS[mask]
    attended = as_numpy(blockwise_attention(QUERY, KEY, VALUE, mask, 0.5, block_size=block_size))
    mask = np.broadcast_to(True if mask is None else mask, (2, 3, 7, 5))
    for head in range(3):
        one = [heads_side_by_side(x[:, head : head + 1]) for x in (QUERY, KEY, VALUE)]
        np.testing.assert_allclose(attended[:, head], oracle(*one, mask[:, head], heads=1), atol=1e-6)


@pytest.mark.parametrize("mask", MASKS)
def test_gradients_equal_those_of_the_plain_form(mask):
    mask = None if MASKS[mask] is None else ops.convert_to_tensor(MASKS[mask])
    factors = ops.convert_to_tensor(FACTORS)

    def in_blocks(query, key, value):
        return ops.sum(blockwise_attention(query, key, value, mask, 0.5, block_size=3) * factors)

    def plain(query, key, value):
        weights = masked_softmax(ops.matmul(query * 0.5, ops.transpose(key, (0, 1, 3, 2))), mask)
        return ops.sum(ops.matmul(weights, value) * factors)

    both = [value_and_gradients(function, QUERY, KEY, VALUE) for function in (in_blocks, plain)]
    np.testing.assert_allclose(*(as_numpy(value) for value, _ in both), rtol=1e-5)
    for one, other in zip(*(gradients for _, gradients in both), strict=True):
        np.testing.assert_allclose(as_numpy(one), as_numpy(other), atol=2e-6)


def test_backward_drops_what_forward_dropped():
    """With values 1 and one channel the output is the sum of what is left of a query's weights; by value it is linear."""
    seed = keras.random.SeedGenerator(3).next()
    ones = np.ones((1, 1, 300, 1), "float32")

    def total(value):
        return ops.sum(blockwise_attention(ones, ones, value, None, 1.0, 0.5, seed, block_size=100))

    value, (by_value,) = value_and_gradients(total, ones)
    np.testing.assert_allclose(as_numpy(value), as_numpy(by_value).sum(), rtol=1e-5)
    kept = as_numpy(blockwise_attention(ones, ones, ones, None, 1.0, 0.5, seed, block_size=100))
    np.testing.assert_allclose(kept.mean(), 1.0, atol=0.02)  # 90,000 coins: 0.02 is six standard deviations
    blocks = kept.reshape(3, 100)
    assert not np.allclose(blocks[0], blocks[1]), "each block draws bits of its own"


def test_dropout_of_long_sequences_has_seeds_that_are_positive():
    """PyTorch takes no other, and 32 bits overflow where positions count by 65,536: from 32,769 queries on."""
    seed = keras.random.SeedGenerator(3).next()
    query, keys = np.ones((1, 1, 33_000, 1), "float32"), np.ones((1, 1, 2, 1), "float32")
    attended = as_numpy(blockwise_attention(query, keys, keys, None, 1.0, 0.5, seed))
    np.testing.assert_allclose(attended.mean(), 1.0, atol=0.02)
    # 257 queries make two blocks, of 129: neither may have the other's bits.
    ones = np.ones((1, 1, 257, 1), "float32")
    one, other = np.split(as_numpy(blockwise_attention(ones, ones, ones, None, 1.0, 0.5, seed))[0, 0, 1:, 0], 2)
    assert not np.allclose(one[1:], other[:-1]) and not np.allclose(one, other)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("kind", [SelfAttention, CrossAttention])
def test_layers_take_it_for_long_sequences(kind, dropout, monkeypatch):
    x = GENERATOR.normal(size=(2, 7, 8)).astype("float32")
    inputs = (x,) if kind is SelfAttention else (x, GENERATOR.normal(size=(2, 5, 8)).astype("float32"))
    mask = causal_mask(7) if kind is SelfAttention else np.ones((1, 1, 1, 5), bool)
    layer = kind(8, num_heads=2, dropout=dropout, seed=1)
    plain = as_numpy(layer(*inputs, attention_mask=mask))
    monkeypatch.setattr(attention, "fused_attention", lambda *arguments: None)
    monkeypatch.setattr(attention, "_LONG", 10)
    calls = []
    monkeypatch.setattr(
        attention, "blockwise_attention", lambda *arguments: calls.append(1) or blockwise_attention(*arguments)
    )
    np.testing.assert_allclose(as_numpy(layer(*inputs, attention_mask=mask)), plain, atol=1e-6)
    assert calls
    trained = as_numpy(layer(*inputs, attention_mask=mask, training=True))
    assert np.isfinite(trained).all()
    assert np.allclose(trained, plain, atol=1e-6) == (dropout == 0)
