import keras
import numpy as np
import pytest
from layer_contract import as_numpy, check_layer
from numpy_oracle import dropout_masks, layer_norm, which

from keras_transformer.layers.residual import Residual

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(4, 16, 3)).astype("float32")
KINDS = [(norm, position) for norm in ("post", "pre") for position in ("branch", "sum")]


def sublayer(x):
    return x * x + 1.0


@keras.saving.register_keras_serializable(package="test_residual")
class SquaringResidual(Residual):
    """Residual with its sub-layer inside, so that it can be called on tensors alone."""

    def call(self, x, training=None):
        return super().call(x, sublayer=sublayer, training=training)


def formula(norm, position, x, mask, gamma, beta, epsilon=1e-6):
    """The four formulas of the class's docstring; ``mask`` stands for Dropout."""
    if norm == "post":
        inner = x + mask * sublayer(x) if position == "branch" else mask * (x + sublayer(x))
        return layer_norm(inner, gamma, beta, epsilon)
    branch = sublayer(layer_norm(x, gamma, beta, epsilon))
    return x + mask * branch if position == "branch" else mask * (x + branch)


def made(norm, position, **kwargs):
    layer = Residual(norm=norm, residual_dropout_position=position, **kwargs)
    layer(X, sublayer=sublayer)
    gamma, beta = GENERATOR.uniform(0.5, 1.5, 3), GENERATOR.normal(size=3)
    layer.set_weights([gamma, beta])
    return layer, gamma, beta


@pytest.mark.parametrize(("norm", "position"), KINDS)
def test_residual_keeps_the_contract(norm, position):
    check_layer(
        lambda **k: SquaringResidual(norm=norm, residual_dropout_position=position, **k),
        (X,),
        [(3,), (3,)],
        (4, 16, 3),
    )


@pytest.mark.parametrize(("norm", "position"), KINDS)
def test_without_dropout_the_formula_holds(norm, position):
    layer, gamma, beta = made(norm, position, dropout=0.5, epsilon=0.1)
    expected = formula(norm, position, X.astype("float64"), 1.0, gamma, beta, epsilon=0.1)
    np.testing.assert_allclose(as_numpy(layer(X, sublayer=sublayer, training=False)), expected, atol=2e-5)


@pytest.mark.parametrize(("norm", "position"), KINDS)
def test_dropout_stands_where_the_formula_has_it(norm, position):
    """Each row of a training pass is one of the 2^3 that the formula allows, and not one of the other position's."""
    layer, gamma, beta = made(norm, position, dropout=0.5)
    rows = as_numpy(layer(X, sublayer=sublayer, training=True)).reshape(-1, 3)
    x = X.astype("float64").reshape(-1, 1, 3)
    found = which(rows, formula(norm, position, x, dropout_masks(3), gamma, beta))
    assert (found >= 0).all()
    assert len(set(found)) > 4
    other = "sum" if position == "branch" else "branch"
    assert (which(rows, formula(norm, other, x, dropout_masks(3), gamma, beta)) < 0).any()


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match='norm must be "post" or "pre". Received: norm=\'middle\''):
        Residual(norm="middle")
    with pytest.raises(ValueError, match="residual_dropout_position must be .*Received: 'before'"):
        Residual(residual_dropout_position="before")
