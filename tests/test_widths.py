"""A layer that gets another width than it was made for says so."""

import keras
import numpy as np
import pytest

from keras_transformer.layers import CrossAttention, Decoder, Encoder, FeedForward, SelfAttention

WIDE = np.ones((2, 3, 6), "float32")
RIGHT = np.ones((2, 3, 4), "float32")


@pytest.mark.parametrize(
    ("layer", "inputs", "name"),
    [
        (SelfAttention(4, 2), (WIDE,), "x"),
        (CrossAttention(4, 2), (WIDE, RIGHT), "x"),
        (CrossAttention(4, 2), (RIGHT, WIDE), "encoder_output"),
        (FeedForward(4), (WIDE,), "x"),
        (Encoder(1, 4, 2), (WIDE,), "x"),
        (Decoder(1, 4, 2), (RIGHT, WIDE), "encoder_output"),
    ],
)
def test_another_width_is_refused(layer, inputs, name):
    message = rf"made for d_model=4. Received: {name} of shape \(2, 3, 6\). Expected: \(\.\.\., 4\). Make .* d_model=6"
    with pytest.raises(ValueError, match=message):
        layer(*inputs)


def test_in_a_functional_model_too():
    with pytest.raises(ValueError, match="d_model=4"):
        FeedForward(4)(keras.Input((None, 6)))
