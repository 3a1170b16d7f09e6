import keras
import numpy as np
import pytest
from layer_contract import as_numpy, check_layer
from numpy_oracle import attention, dropout_masks, encoder_layer, layer_norm, self_attention, which

from keras_transformer.layers import Encoder, EncoderLayer, padding_mask

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(2, 5, 8)).astype("float32")
IDS = np.array([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
LAYER_SHAPES = [(8, 24), (24,), (8, 8), (8,), (8,), (8,), (8, 12), (12,), (12, 8), (8,), (8,), (8,)]
NORMS = ["post", "pre"]


def randomised(layer, x=X):
    layer(x)
    layer.set_weights([GENERATOR.normal(size=w.shape) * 0.5 for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize("norm", NORMS)
def test_encoder_layer_keeps_the_contract(norm):
    check_layer(lambda **k: EncoderLayer(8, 2, d_ff=12, dropout=0.0, norm=norm, **k), (X,), LAYER_SHAPES, (2, 5, 8))


@pytest.mark.parametrize("norm", NORMS)
def test_encoder_keeps_the_contract(norm):
    final_norm = [(8,), (8,)] if norm == "pre" else []
    check_layer(
        lambda **k: Encoder(2, d_model=8, num_heads=2, d_ff=12, dropout=0.0, norm=norm, **k),
        (X,),
        LAYER_SHAPES * 2 + final_norm,
        (2, 5, 8),
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("position", ["branch", "sum"])
def test_encoder_layer_agrees_with_numpy(norm, position):
    layer = randomised(EncoderLayer(8, 2, d_ff=12, norm=norm, residual_dropout_position=position))
    expected = encoder_layer(X.astype("float64"), layer.get_weights(), IDS[:, None] > 0, 2, norm)
    np.testing.assert_allclose(as_numpy(layer(X, attention_mask=padding_mask(IDS))), expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_encoder_agrees_with_numpy_and_pre_ln_ends_with_a_norm(norm):
    layer = randomised(Encoder(2, d_model=8, num_heads=2, d_ff=12, norm=norm))
    weights = layer.get_weights()
    expected = X.astype("float64")
    for start in (0, 12):
        expected = encoder_layer(expected, weights[start : start + 12], IDS[:, None] > 0, 2, norm)
    if norm == "pre":
        expected = layer_norm(expected, *weights[24:])
    assert len(weights) == (26 if norm == "pre" else 24)
    np.testing.assert_allclose(as_numpy(layer(X, attention_mask=padding_mask(IDS))), expected, atol=2e-5)


def test_what_stands_at_padding_does_not_reach_the_tokens():
    layer = randomised(Encoder(2, d_model=8, num_heads=2))
    changed = np.where(IDS[..., None] > 0, X, 100.0).astype("float32")
    one, other = (as_numpy(layer(x, attention_mask=padding_mask(IDS))) for x in (X, changed))
    np.testing.assert_allclose(one[IDS > 0], other[IDS > 0], atol=1e-6)


def test_further_dropouts_default_to_dropout():
    layer = EncoderLayer(8, 2, dropout=0.3)
    assert (layer.attention_dropout, layer.activation_dropout) == (0.3, 0.3)
    layer = EncoderLayer(8, 2, dropout=0.3, attention_dropout=0.0, activation_dropout=0.2)
    assert (layer.attention_dropout, layer.activation_dropout) == (0.0, 0.2)
    assert EncoderLayer(8, 2).dropout == 0.1


def small(**dropouts):
    """One head of width 2, three activations, two positions: few enough masks to try all of them."""
    x = GENERATOR.normal(size=(32, 2, 2)).astype("float32")
    layer = randomised(EncoderLayer(2, 1, d_ff=3, norm="pre", **dropouts), x)
    return (
        layer,
        x,
        as_numpy(layer(x, training=True)).reshape(-1, 2),
        [w.astype("float64") for w in layer.get_weights()],
    )


def test_attention_dropout_acts_on_the_attention_weights_alone():
    _, x, rows, w = small(dropout=0.0, attention_dropout=0.5, activation_dropout=0.0)
    normed = layer_norm(x.astype("float64"), *w[4:6])
    query, key, value = np.split(normed @ w[0] + w[1], 3, axis=-1)
    scores = np.exp(query @ np.swapaxes(key, 1, 2) / np.sqrt(2.0))
    weights = (scores / scores.sum(-1, keepdims=True)).reshape(-1, 1, 2)  # a row for each position
    values = np.repeat(value, 2, axis=0)  # (N, S, K)
    mixed = x.reshape(-1, 1, 2) + (weights * dropout_masks(2)) @ values @ w[2] + w[3]
    candidates = mixed + np.maximum(layer_norm(mixed, *w[10:12]) @ w[6] + w[7], 0.0) @ w[8] + w[9]
    found = which(rows, candidates)
    assert (found >= 0).all()
    assert set(found) == {0, 1, 2, 3}


def test_activation_dropout_acts_in_the_feed_forward_network_alone():
    _, x, rows, w = small(dropout=0.0, attention_dropout=0.0, activation_dropout=0.5)
    x = x.astype("float64")
    mixed = (x + self_attention(layer_norm(x, *w[4:6]), w[0:4], True, 1)).reshape(-1, 1, 2)
    active = np.maximum(layer_norm(mixed, *w[10:12]) @ w[6] + w[7], 0.0)
    found = which(rows, mixed + active * dropout_masks(3) @ w[8] + w[9])
    assert (found >= 0).all()
    assert len(set(found)) > 2  # zero activations make some masks equal


def test_dropout_acts_at_both_residuals():
    _, x, rows, w = small(dropout=0.5, attention_dropout=0.0, activation_dropout=0.0)
    x = x.astype("float64")
    query, key, value = np.split(layer_norm(x, *w[4:6]) @ w[0] + w[1], 3, axis=-1)
    branch = (attention(query, key, value, True, 1) @ w[2] + w[3]).reshape(-1, 1, 2)
    mixed = x.reshape(-1, 1, 2) + dropout_masks(2) * branch  # (N, 4, D)
    second = np.maximum(layer_norm(mixed, *w[10:12]) @ w[6] + w[7], 0.0) @ w[8] + w[9]
    candidates = mixed[:, :, None] + dropout_masks(2) * second[:, :, None]  # (N, 4, 4, D)
    found = which(rows, candidates.reshape(len(rows), 16, 2))
    assert (found >= 0).all()
    assert len(set(found)) > 8


def test_a_width_that_heads_do_not_divide_is_refused():
    for make in (lambda: EncoderLayer(8, 3), lambda: Encoder(1, d_model=8, num_heads=3)):
        with pytest.raises(ValueError, match="divisible by num_heads. Received: d_model=8, num_heads=3"):
            make()


def test_an_encoder_trains_inside_a_foreign_model():
    symbol = keras.Input((5, 8))
    model = keras.Model(symbol, keras.layers.Dense(1)(Encoder(1, d_model=8, num_heads=2, dropout=0.0)(symbol)))
    model.compile(keras.optimizers.SGD(0.01), loss="mse")
    history = model.fit(X, np.ones((2, 5, 1)), epochs=5, verbose=0).history["loss"]
    assert history[-1] < history[0]
