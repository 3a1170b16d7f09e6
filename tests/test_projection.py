import keras
import numpy as np
import pytest
from layer_contract import as_numpy, check_layer

from keras_transformer.layers import Projection

GENERATOR = np.random.default_rng(0)


def test_projection_keeps_the_contract():
    x = GENERATOR.normal(size=(2, 3, 4)).astype("float32")
    check_layer(lambda **k: Projection(5, **k), (x,), [(4, 5), (5,)], (2, 3, 5))


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (2, 3, 5, 4), (0, 3, 4)])
def test_projection_is_the_product_over_the_last_axis_at_every_rank(shape):
    x = GENERATOR.normal(size=shape).astype("float32")
    layer = Projection(5, activation="relu")
    layer.build(shape)
    layer.set_weights([GENERATOR.normal(size=w.shape) for w in layer.get_weights()])
    kernel, bias = (w.astype("float64") for w in layer.get_weights())
    np.testing.assert_allclose(as_numpy(layer(x)), np.maximum(x @ kernel + bias, 0.0), atol=1e-5)


def test_projection_takes_the_weights_and_arguments_of_dense():
    x = GENERATOR.normal(size=(2, 3, 4)).astype("float32")
    dense, layer = keras.layers.Dense(5, use_bias=False), Projection(5, use_bias=False)
    dense(x), layer(x)
    layer.set_weights(dense.get_weights())
    np.testing.assert_allclose(as_numpy(layer(x)), as_numpy(dense(x)), atol=1e-6)


def test_lora_works_as_in_dense():
    x = GENERATOR.normal(size=(2, 3, 4)).astype("float32")
    layer = Projection(5)
    layer(x)
    layer.enable_lora(2)
    layer.set_weights([GENERATOR.normal(size=w.shape) for w in layer.get_weights()])
    weights = {w.path.rsplit("/", 1)[-1]: as_numpy(w) for w in layer.weights}
    kernel = weights["kernel"] + weights["lora_kernel_a"] @ weights["lora_kernel_b"]
    np.testing.assert_allclose(as_numpy(layer(x)), x @ kernel + weights["bias"], atol=1e-5)


def test_int8_quantisation_works_as_in_dense():
    x = GENERATOR.normal(size=(2, 3, 8)).astype("float32")
    layer = Projection(5)
    plain = as_numpy(layer(x))
    layer.quantize("int8")
    assert str(layer.kernel.dtype).endswith("int8")
    np.testing.assert_allclose(as_numpy(layer(x)), plain, atol=0.1 * np.abs(plain).max())
