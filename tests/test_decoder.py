import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy, check_layer
from numpy_oracle import decoder_layer, layer_norm

from keras_transformer.layers import Decoder, DecoderLayer, padding_mask

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(2, 4, 8)).astype("float32")
ENCODED = GENERATOR.normal(size=(2, 5, 8)).astype("float32")
IDS = np.array([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
CAUSAL = np.tril(np.ones((4, 4), bool))
LAYER_SHAPES = [
    *[(8, 24), (24,), (8, 8), (8,), (8,), (8,)],
    *[(8, 8), (8,), (8, 16), (16,), (8, 8), (8,), (8,), (8,)],
    *[(8, 12), (12,), (12, 8), (8,), (8,), (8,)],
]
NORMS = ["post", "pre"]


def randomised(layer):
    layer(X, ENCODED)
    layer.set_weights([GENERATOR.normal(size=w.shape) * 0.5 for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize("norm", NORMS)
def test_decoder_layer_keeps_the_contract(norm):
    check_layer(
        lambda **k: DecoderLayer(8, 2, d_ff=12, dropout=0.0, norm=norm, **k), (X, ENCODED), LAYER_SHAPES, (2, 4, 8)
    )


@pytest.mark.parametrize("norm", NORMS)
def test_decoder_keeps_the_contract(norm):
    final_norm = [(8,), (8,)] if norm == "pre" else []
    check_layer(
        lambda **k: Decoder(2, d_model=8, num_heads=2, d_ff=12, dropout=0.0, norm=norm, **k),
        (X, ENCODED),
        LAYER_SHAPES * 2 + final_norm,
        (2, 4, 8),
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("position", ["branch", "sum"])
def test_decoder_layer_agrees_with_numpy(norm, position):
    layer = randomised(DecoderLayer(8, 2, d_ff=12, norm=norm, residual_dropout_position=position))
    expected = decoder_layer(
        X.astype("float64"), ENCODED.astype("float64"), layer.get_weights(), CAUSAL, IDS[:, None] > 0, 2, norm
    )
    np.testing.assert_allclose(as_numpy(layer(X, ENCODED, encoder_mask=padding_mask(IDS))), expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_decoder_agrees_with_numpy_and_pre_ln_ends_with_a_norm(norm):
    layer = randomised(Decoder(2, d_model=8, num_heads=2, d_ff=12, norm=norm))
    weights = layer.get_weights()
    expected = X.astype("float64")
    for start in (0, 20):
        expected = decoder_layer(expected, ENCODED, weights[start : start + 20], CAUSAL, IDS[:, None] > 0, 2, norm)
    if norm == "pre":
        expected = layer_norm(expected, *weights[40:])
    assert len(weights) == (42 if norm == "pre" else 40)
    np.testing.assert_allclose(as_numpy(layer(X, ENCODED, encoder_mask=padding_mask(IDS))), expected, atol=2e-5)


def test_no_position_sees_a_later_one():
    layer = randomised(Decoder(2, d_model=8, num_heads=2))
    changed = X.copy()
    changed[:, 2:] = 100.0
    one, other = as_numpy(layer(X, ENCODED)), as_numpy(layer(changed, ENCODED))
    np.testing.assert_allclose(one[:, :2], other[:, :2], atol=1e-6)
    assert np.abs(one[:, 2:] - other[:, 2:]).max() > 1e-2


def test_padding_of_the_source_does_not_change_the_outputs():
    layer = randomised(Decoder(2, d_model=8, num_heads=2))
    short = as_numpy(layer(X, ENCODED, encoder_mask=padding_mask(np.ones((2, 5), int))))
    padded = np.concatenate([ENCODED, np.full((2, 3, 8), 50.0, "float32")], axis=1)
    ids = np.array([[1] * 5 + [0] * 3] * 2)
    np.testing.assert_allclose(as_numpy(layer(X, padded, encoder_mask=padding_mask(ids))), short, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("beam_size", [1, 3])
def test_cached_steps_equal_the_uncached_pass_at_every_position(norm, beam_size):
    """Hypotheses of a sentence lie next to each other; each has its own tokens. The cache is longer than needed."""
    layer = randomised(Decoder(2, d_model=8, num_heads=2, norm=norm))
    x = GENERATOR.normal(size=(2 * beam_size, 4, 8)).astype("float32")
    mask = padding_mask(IDS)
    whole = as_numpy(
        layer(x, np.repeat(ENCODED, beam_size, axis=0), encoder_mask=padding_mask(np.repeat(IDS, beam_size, axis=0)))
    )
    cache = layer.init_cache(ops.convert_to_tensor(ENCODED), beam_size, max_length=6)
    for step in range(4):
        out, cache = layer.step(ops.convert_to_tensor(x[:, step : step + 1]), cache, step, mask)
        np.testing.assert_allclose(as_numpy(out)[:, 0], whole[:, step], atol=1e-5)


def test_a_hypothesis_sees_what_its_ancestors_wrote():
    """Parents change at each step, a hypothesis has several children, and the cache grows; no key or value is moved."""
    layer, width, length = randomised(Decoder(2, d_model=8, num_heads=2)), 3, 5
    x = GENERATOR.normal(size=(2, width, length, 8)).astype("float32")  # what slot w is given at each step
    parents = GENERATOR.integers(0, width, (length, 2, width), dtype="int32")
    paths = np.zeros((2, width, 0, 8), "float32")
    cache = layer.init_cache(ops.convert_to_tensor(ENCODED), width, max_length=3)
    for step in range(length):
        if step == 3:
            cache = layer.grow_cache(cache, 6)
        rows = ops.convert_to_tensor(x[:, :, step].reshape(6, 1, 8))
        out, cache = layer.step(rows, cache, step)
        paths = np.concatenate([paths, x[:, :, step : step + 1]], axis=2)
        whole = layer(paths.reshape(6, step + 1, 8), np.repeat(ENCODED, width, axis=0))
        np.testing.assert_allclose(as_numpy(out)[:, 0], as_numpy(whole)[:, -1], atol=1e-5)
        cache = layer.reorder_cache(cache, ops.convert_to_tensor(parents[step]))
        paths = np.take_along_axis(paths, parents[step][:, :, None, None], axis=1)


def test_several_positions_in_one_step_equal_one_after_the_other():
    layer = randomised(Decoder(2, d_model=8, num_heads=2))
    whole = as_numpy(layer(X, ENCODED))
    cache = layer.init_cache(ops.convert_to_tensor(ENCODED), 1, max_length=6)
    _, cache = layer.step(ops.convert_to_tensor(X[:, :1]), cache, 0)
    out, cache = layer.step(ops.convert_to_tensor(X[:, 1:3]), cache, 1)
    np.testing.assert_allclose(as_numpy(out), whole[:, 1:3], atol=1e-5)
    # Position 2 again: what stood there is written over.
    out, _ = layer.step(ops.convert_to_tensor(X[:, 2:4]), cache, 2)
    np.testing.assert_allclose(as_numpy(out), whole[:, 2:4], atol=1e-5)


def test_dropout_is_active_in_training_and_in_no_cached_step():
    layer = randomised(Decoder(1, d_model=8, num_heads=2, dropout=0.5))
    assert np.abs(as_numpy(layer(X, ENCODED, training=True)) - as_numpy(layer(X, ENCODED))).max() > 1e-2
    cache = layer.init_cache(ops.convert_to_tensor(ENCODED), 1, 4)
    one, other = (as_numpy(layer.step(ops.convert_to_tensor(X[:, :1]), cache, 0)[0]) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("active", ["dropout", "attention_dropout", "activation_dropout"])
def test_each_dropout_is_set_alone(active):
    dropouts = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    off = randomised(DecoderLayer(8, 2, **dropouts))
    np.testing.assert_allclose(as_numpy(off(X, ENCODED, training=True)), as_numpy(off(X, ENCODED)), atol=1e-6)
    on = randomised(DecoderLayer(8, 2, **dropouts | {active: 0.5}))
    assert np.abs(as_numpy(on(X, ENCODED, training=True)) - as_numpy(on(X, ENCODED))).max() > 1e-2


def test_further_dropouts_default_to_dropout():
    layer = DecoderLayer(8, 2, dropout=0.3)
    assert (layer.attention_dropout, layer.activation_dropout) == (0.3, 0.3)
    assert layer.self_attention.dropout == layer.cross_attention.dropout == layer.feed_forward.dropout == 0.3


def test_a_width_that_heads_do_not_divide_is_refused():
    for make in (lambda: DecoderLayer(8, 3), lambda: Decoder(1, d_model=8, num_heads=3)):
        with pytest.raises(ValueError, match="divisible by num_heads. Received: d_model=8, num_heads=3"):
            make()
