"""The seed of a layer decides what each of its dropouts drops."""

import keras
import numpy as np
import pytest
from layer_contract import as_numpy

from keras_transformer.initializers import SeedStream
from keras_transformer.layers import (
    CrossAttention,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    FeedForward,
    SelfAttention,
)
from keras_transformer.layers.residual import Residual
from keras_transformer.layers.seeded_dropout import seeded_dropout

X = np.random.default_rng(0).normal(size=(2, 4, 8)).astype("float32")
KINDS = {
    "SelfAttention": lambda **k: SelfAttention(8, 2, dropout=0.5, **k),
    "CrossAttention": lambda **k: CrossAttention(8, 2, dropout=0.5, **k),
    "FeedForward": lambda **k: FeedForward(8, dropout=0.5, **k),
    "Residual": lambda **k: Residual(dropout=0.5, **k),
    "EncoderLayer": lambda **k: EncoderLayer(8, 2, dropout=0.5, **k),
    "DecoderLayer": lambda **k: DecoderLayer(8, 2, dropout=0.5, **k),
    "Encoder": lambda **k: Encoder(2, 8, 2, dropout=0.5, **k),
    "Decoder": lambda **k: Decoder(2, 8, 2, dropout=0.5, **k),
}


def dropped(kind, seed):
    """Two training passes; the weights are the same for every seed, so that dropout alone can differ."""
    layer = KINDS[kind](seed=seed)
    inputs = (X, X) if kind in ("CrossAttention", "DecoderLayer", "Decoder") else (X,)
    further = {"sublayer": lambda x: x * x} if kind == "Residual" else {}
    layer(*inputs, **further)
    generator = np.random.default_rng(1)
    layer.set_weights([generator.normal(size=w.shape) for w in layer.get_weights()])
    return np.stack([as_numpy(layer(*inputs, training=True, **further)) for _ in range(2)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_dropout(kind):
    one = dropped(kind, 7)
    np.testing.assert_array_equal(dropped(kind, 7), one)
    assert np.abs(dropped(kind, 8) - one).max() > 1e-3
    assert np.abs(one[0] - one[1]).max() > 1e-3  # each pass drops anew


def test_all_dropouts_of_a_stack_have_seeds_of_their_own():
    encoder = Encoder(2, 8, 2, dropout=0.5, seed=1)
    encoder(X)
    seeds = [float(as_numpy(v).reshape(-1)[0]) for v in encoder.variables if "seed" in v.path]
    assert len(seeds) == len(set(seeds)) == 2 * 4  # attention, activation, two residuals


def test_large_seeds_fit_every_backend():
    """A stream gives numbers below 2**32; PyTorch keeps the seed as int32."""
    stream = SeedStream(0)
    layers = [seeded_dropout(0.5, stream) for _ in range(20)]
    assert all(0 <= layer.seed < 2**31 for layer in layers)
    assert len({layer.seed for layer in layers}) == 20
    assert seeded_dropout(0.5, stream, keras.DTypePolicy("mixed_bfloat16")).compute_dtype == "bfloat16"
