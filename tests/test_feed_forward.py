import keras
import numpy as np
from layer_contract import as_numpy, check_layer
from numpy_oracle import dropout_masks, feed_forward, which

from keras_transformer.layers import FeedForward

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(2, 3, 4)).astype("float32")


def randomised(layer):
    layer(X)
    layer.set_weights([GENERATOR.normal(size=w.shape) for w in layer.get_weights()])
    return layer, [w.astype("float64") for w in layer.get_weights()]


def test_feed_forward_keeps_the_contract():
    check_layer(lambda **k: FeedForward(4, 6, **k), (X,), [(4, 6), (6,), (6, 4), (4,)], (2, 3, 4))


def test_feed_forward_follows_equation_2():
    layer, weights = randomised(FeedForward(4, 6))
    np.testing.assert_allclose(as_numpy(layer(X)), feed_forward(X, *weights), atol=1e-5)


def test_inner_width_is_four_times_d_model_unless_given():
    layer, weights = randomised(FeedForward(4))
    assert [w.shape for w in weights] == [(4, 16), (16,), (16, 4), (4,)]
    assert layer.d_ff == 16


def test_another_activation_is_used_and_survives_the_config():
    layer, (w1, b1, w2, b2) = randomised(FeedForward(4, 6, activation="tanh"))
    np.testing.assert_allclose(as_numpy(layer(X)), np.tanh(X @ w1 + b1) @ w2 + b2, atol=1e-5)
    assert FeedForward.from_config(layer.get_config()).activation is keras.activations.tanh


def test_dropout_acts_on_the_activations_and_nowhere_else():
    """Every row of a training pass is one of the 2^d_ff that dropping activations can give, and several occur."""
    x = GENERATOR.normal(size=(4, 16, 4)).astype("float32")
    layer, (w1, b1, w2, b2) = randomised(FeedForward(4, 3, activation="sigmoid", dropout=0.5))
    rows = as_numpy(layer(x, training=True)).reshape(-1, 4)
    active = 1.0 / (1.0 + np.exp(-(x.reshape(-1, 1, 4) @ w1 + b1)))  # (N, 1, d_ff), all positive
    found = which(rows, active * dropout_masks(3) @ w2 + b2)
    assert (found >= 0).all()
    assert len(set(found)) > 4
    np.testing.assert_array_equal(as_numpy(layer(x)), as_numpy(layer(x, training=False)))
