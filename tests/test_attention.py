import keras
import numpy as np
import pytest
from layer_contract import as_numpy, check_layer
from numpy_oracle import attention_weights, cross_attention, double, self_attention

from keras_transformer.layers import CrossAttention, SelfAttention, causal_mask, padding_mask

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(2, 4, 8)).astype("float32")
ENCODED = GENERATOR.normal(size=(2, 5, 8)).astype("float32")


def randomised(layer, *inputs):
    layer(*inputs)
    layer.set_weights([GENERATOR.normal(size=w.shape) * 0.3 for w in layer.get_weights()])
    return layer


def test_self_attention_keeps_the_contract():
    check_layer(lambda **k: SelfAttention(8, 2, **k), (X,), [(8, 24), (24,), (8, 8), (8,)], (2, 4, 8))


def test_cross_attention_keeps_the_contract():
    check_layer(
        lambda **k: CrossAttention(8, 2, **k),
        (X, ENCODED),
        [(8, 8), (8,), (8, 16), (16,), (8, 8), (8,)],
        (2, 4, 8),
    )


def test_self_attention_agrees_with_numpy_under_every_mask():
    layer = randomised(SelfAttention(8, 2), X)
    kernel, bias, *_ = weights = double(layer.get_weights())
    query, key, _ = np.split(X @ kernel + bias, 3, axis=-1)
    ids = np.array([[5, 6, 7, 0], [5, 0, 0, 0]])
    padding = np.asarray(padding_mask(ids))
    for mask in (None, padding, np.asarray(causal_mask(4)), padding & np.asarray(causal_mask(4))):
        full = np.ones((2, 4, 4), bool) if mask is None else np.broadcast_to(mask[:, 0], (2, 4, 4))
        expected, scores = self_attention(X, weights, full, 2), attention_weights(query, key, full, 2)
        np.testing.assert_allclose(as_numpy(layer(X, attention_mask=mask)), expected, atol=2e-6)
        np.testing.assert_allclose(as_numpy(layer.attention_scores(X, attention_mask=mask)), scores, atol=2e-6)


def test_cross_attention_agrees_with_numpy():
    layer = randomised(CrossAttention(8, 2), X, ENCODED)
    weights = double(layer.get_weights())
    q_kernel, q_bias, kv_kernel, kv_bias, *_ = weights
    mask = np.asarray(padding_mask(np.array([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])))
    full = np.broadcast_to(mask[:, 0], (2, 4, 5))
    expected = cross_attention(X, ENCODED, weights, full, 2)
    np.testing.assert_allclose(as_numpy(layer(X, ENCODED, attention_mask=mask)), expected, atol=2e-6)
    scores = attention_weights(X @ q_kernel + q_bias, (ENCODED @ kv_kernel + kv_bias)[..., :8], full, 2)
    np.testing.assert_allclose(as_numpy(layer.attention_scores(X, ENCODED, attention_mask=mask)), scores, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_fully_masked_row_gives_zeros_in_value_and_gradient(dtype, dropout):
    """Zeros before the output projection, so its bias remains; training with such rows keeps weights finite."""
    layer = SelfAttention(8, 2, dropout=dropout, dtype=dtype)
    layer(X)
    bias = GENERATOR.normal(size=8).astype("float32")
    layer.output_projection.bias.assign(bias)
    nothing = np.zeros((2, 1, 1, 4), bool)
    np.testing.assert_allclose(as_numpy(layer(X, attention_mask=nothing)), np.broadcast_to(bias, (2, 4, 8)), atol=1e-2)
    assert not as_numpy(layer.attention_scores(X, attention_mask=nothing)).any()
    symbol, mask = keras.Input((4, 8)), keras.Input((1, 1, 4), dtype="bool")
    model = keras.Model([symbol, mask], layer(symbol, attention_mask=mask))
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.train_on_batch([X, nothing], np.ones((2, 4, 8)))
    assert all(np.isfinite(w).all() for w in layer.get_weights())


def test_scores_are_scaled_before_a_float32_softmax():
    """Unscaled scores of 1e5 overflow float16 to inf, and their softmax to NaN; scaled and in float32 they do not."""
    layer = SelfAttention(64, 1, dtype="mixed_float16")
    x = np.full((1, 2, 64), 30.0, "float32")
    layer(x)
    identity = np.concatenate([np.eye(64)] * 3, axis=1)
    layer.set_weights([identity, np.zeros(192), np.eye(64), np.zeros(64)])
    np.testing.assert_allclose(as_numpy(layer.attention_scores(x)), 0.5, atol=1e-3)
    np.testing.assert_allclose(as_numpy(layer(x)), 30.0, rtol=1e-2)


def test_dropout_acts_on_the_weights_in_training_alone():
    layer = randomised(SelfAttention(8, 2, dropout=0.5), X)
    np.testing.assert_array_equal(as_numpy(layer(X)), as_numpy(layer(X, training=False)))
    assert np.abs(as_numpy(layer(X, training=True)) - as_numpy(layer(X))).max() > 1e-3


def test_cached_steps_equal_the_whole_under_a_causal_mask():
    layer = randomised(SelfAttention(8, 2), X)
    whole = as_numpy(layer(X, attention_mask=causal_mask(4)))
    cache = layer.init_cache(2, beam_size=1, max_length=6)
    for step in range(4):
        visible = keras.ops.convert_to_tensor(np.arange(6) <= step)[None, None, None]
        out, cache = layer.step(keras.ops.convert_to_tensor(X[:, step : step + 1]), cache, step, visible)
        np.testing.assert_allclose(as_numpy(out)[:, 0], whole[:, step], atol=1e-5)


def test_hypotheses_side_by_side_equal_one_at_a_time():
    """Three hypotheses a sentence against a cache that holds each sentence once."""
    layer = randomised(CrossAttention(8, 2), X, ENCODED)
    mask = padding_mask(np.array([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]]))
    x = GENERATOR.normal(size=(6, 1, 8)).astype("float32")
    out = as_numpy(
        layer.step(keras.ops.convert_to_tensor(x), layer.init_cache(keras.ops.convert_to_tensor(ENCODED)), mask)
    )
    expected = as_numpy(layer(x, np.repeat(ENCODED, 3, axis=0), attention_mask=keras.ops.repeat(mask, 3, axis=0)))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="divisible by num_heads. Received: d_model=8, num_heads=3"):
        SelfAttention(8, 3)


@pytest.mark.parametrize("length", [6, 600])
def test_masks_of_two_and_three_axes_as_in_keras(length):
    """600 is long enough for attention in blocks."""
    x = GENERATOR.normal(size=(2, length, 8)).astype("float32")
    layer = SelfAttention(8, 2)
    expected = as_numpy(layer(x, attention_mask=causal_mask(length)))
    flat = np.tril(np.ones((length, length), bool))
    for mask in (flat, np.stack([flat, flat])):
        np.testing.assert_allclose(as_numpy(layer(x, attention_mask=mask)), expected, atol=1e-6)
    other = np.stack([flat, np.ones_like(flat)])  # a mask a sentence: the second axis is no head
    seen = as_numpy(layer(x, attention_mask=other))
    np.testing.assert_allclose(seen[0], expected[0], atol=1e-6)
    assert np.abs(seen[1] - expected[1]).max() > 1e-3


def test_masks_of_one_axis_are_refused():
    with pytest.raises(ValueError, match=r"Received: shape \(4,\).*mask\[:, None, None, :\]"):
        SelfAttention(8, 2)(X, attention_mask=np.ones(4, bool))
