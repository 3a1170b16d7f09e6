"""The Transformer's parts written again in NumPy, float64, from the paper's formulas; and gradients on any backend."""

import itertools

import keras
import numpy as np


def double(weights):
    return [np.asarray(w, dtype="float64") for w in weights]


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, gamma=1.0, beta=0.0, epsilon=1e-6):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def attention_weights(query, key, mask, heads):
    """query (B, T, D), key (B, S, D), mask broadcastable to (B, T, S): (B, H, T, S); a fully masked row gives zeros."""
    width = query.shape[-1] // heads
    weights = []
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        scores = query[..., columns] @ np.swapaxes(key[..., columns], -1, -2) / np.sqrt(width)
        weights.append(softmax(np.where(mask, scores, -1e30)) * mask)
    return np.stack(weights, 1)


def attention(query, key, value, mask, heads):
    """Each head's weights over its columns of value (B, S, D), side by side: (B, T, D)."""
    weights = attention_weights(query, key, mask, heads)
    columns = np.split(value, heads, axis=-1)
    return np.concatenate([weights[:, head] @ columns[head] for head in range(heads)], -1)


def residual(x, sublayer, gamma, beta, norm):
    if norm == "pre":
        return x + sublayer(layer_norm(x, gamma, beta))
    return layer_norm(x + sublayer(x), gamma, beta)


def feed_forward(x, w1, b1, w2, b2):
    return np.maximum(x @ w1 + b1, 0.0) @ w2 + b2


def self_attention(x, weights, mask, heads):
    kernel, bias, out_kernel, out_bias = weights
    return attention(*np.split(x @ kernel + bias, 3, axis=-1), mask, heads) @ out_kernel + out_bias


def cross_attention(x, encoded, weights, mask, heads):
    q_kernel, q_bias, kv_kernel, kv_bias, out_kernel, out_bias = weights
    key, value = np.split(encoded @ kv_kernel + kv_bias, 2, axis=-1)
    return attention(x @ q_kernel + q_bias, key, value, mask, heads) @ out_kernel + out_bias


def encoder_layer(x, weights, mask, heads, norm):
    """weights: the 12 of an EncoderLayer, in the order of get_weights()."""
    w = double(weights)
    x = residual(x, lambda y: self_attention(y, w[0:4], mask, heads), *w[4:6], norm)
    return residual(x, lambda y: feed_forward(y, *w[6:10]), *w[10:12], norm)


def decoder_layer(x, encoded, weights, mask, encoder_mask, heads, norm):
    """weights: the 20 of a DecoderLayer, in the order of get_weights()."""
    w = double(weights)
    x = residual(x, lambda y: self_attention(y, w[0:4], mask, heads), *w[4:6], norm)
    x = residual(x, lambda y: cross_attention(y, encoded, w[6:12], encoder_mask, heads), *w[12:14], norm)
    return residual(x, lambda y: feed_forward(y, *w[14:18]), *w[18:20], norm)


def dropout_masks(width, rate=0.5):
    """All ways in which inverted dropout can treat a row: (2^width, width) of 0 and 1 / (1 - rate)."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=width))) / (1.0 - rate)


def which(rows, candidates, atol=2e-5):
    """For each of rows (N, D) the index of the row it equals in candidates (N, C, D); -1 for none."""
    distance = np.abs(rows[:, None] - candidates).max(-1)
    return np.where(distance.min(1) < atol, distance.argmin(1), -1)


def value_and_gradient(function, x):
    """A scalar function's value and its gradient at x, both as the backend gives them."""
    value, (gradient,) = value_and_gradients(function, x)
    return value, gradient


def value_and_gradients(function, *xs):
    """A scalar function's value and its gradients by each of xs, all as the backend gives them."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        xs = [tf.constant(x) for x in xs]
        with tf.GradientTape() as tape:
            tape.watch(xs)
            value = function(*xs)
        return value, tape.gradient(value, xs)
    if backend == "jax":
        import jax

        return jax.value_and_grad(function, argnums=range(len(xs)))(*map(jax.numpy.asarray, xs))
    import torch

    xs = [torch.tensor(x, requires_grad=True) for x in xs]
    value = function(*xs)
    value.backward()
    return value.detach(), [x.grad for x in xs]
