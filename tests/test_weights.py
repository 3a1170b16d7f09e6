"""Weights by their paths. What the converters make of them is in test_onnx_graph.py and test_ctranslate2.py."""

import keras
import numpy as np
import pytest
from exported_models import make_model

import keras_transformer as kt
from keras_transformer.export.weights import Weights, position_table

once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


@once
def test_what_is_not_taken_or_not_there_is_told():
    weights = Weights(make_model(), "A format")
    with pytest.raises(ValueError, match="A format needs the weight decoder/nothing, which the model does not have"):
        weights.take("decoder/nothing")
    with pytest.raises(ValueError, match="A format has no place for the weights decoder/layer_0"):
        weights.finish()


@once
def test_weights_of_16_bits_come_in_float32():
    weights = Weights(kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, seed=0, dtype="bfloat16"), "A format")
    assert weights.take("target_embedding/embeddings").dtype == np.float32


@once
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(broken):
    model = make_model()
    kernel = model.decoder.layers[0].feed_forward.inner.kernel
    kernel.assign(np.full(kernel.shape, broken))
    with pytest.raises(ValueError, match="Received: decoder/layer_0/feed_forward/inner/kernel with NaN or infinity"):
        Weights(model, "A format")


def test_positions_are_the_layers():
    embedded = kt.layers.SinusoidalPositions()(np.zeros((1, 50, 8), "float32"))
    np.testing.assert_allclose(position_table(50, 8), keras.ops.convert_to_numpy(embedded)[0], atol=1e-5)
