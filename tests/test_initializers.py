"""Initial weights. The hard-coded numbers are NumPy's, so that they hold on every backend."""

import keras
import numpy as np
import pytest
from layer_contract import as_numpy

import keras_transformer as kt
from keras_transformer.initializers import ScaledNormal, SeedStream, XavierUniform
from keras_transformer.layers import CrossAttention, SelfAttention


def model(**arguments):
    return kt.Transformer(
        **{"vocabulary_size": 5, "d_model": 4, "num_heads": 2, "num_layers": 1, "seed": 1} | arguments
    )


def test_xavier_uniform_is_numpys_uniform_within_the_limit():
    limit = np.sqrt(6.0 / (2 + 3))
    expected = np.random.Generator(np.random.PCG64(0)).uniform(-limit, limit, (2, 3))
    values = as_numpy(XavierUniform(seed=0)((2, 3)))
    np.testing.assert_allclose(values, expected, rtol=1e-7)
    np.testing.assert_allclose(values.ravel()[:3], [0.30006802, -0.50437206, -1.00567663], rtol=1e-7)


def test_xavier_uniform_has_the_papers_limit_and_variance():
    values = as_numpy(XavierUniform(seed=3)((200, 300)))
    assert np.abs(values).max() <= np.sqrt(6 / 500)
    np.testing.assert_allclose(values.var(), 2 / 500, rtol=0.02)
    assert abs(values.mean()) < 1e-3


def test_projections_side_by_side_each_count_alone():
    values = as_numpy(XavierUniform(seed=3, blocks=3)((100, 300)))
    assert np.sqrt(6 / 200) * 0.99 < np.abs(values).max() <= np.sqrt(6 / 200)
    with pytest.raises(ValueError, match="divisible by blocks. Received: shape=\\(4, 5\\), blocks=2"):
        XavierUniform(blocks=2)((4, 5))


def test_gain_multiplies_the_limit():
    expected = 0.5 * as_numpy(XavierUniform(seed=3)((4, 6)))
    np.testing.assert_allclose(as_numpy(XavierUniform(seed=3, gain=0.5)((4, 6))), expected, rtol=1e-6)


def test_scaled_normal_is_numpys_normal():
    expected = np.random.Generator(np.random.PCG64(0)).normal(0.0, 0.5, (2, 2))
    values = as_numpy(ScaledNormal(0.5, seed=0)((2, 2)))
    np.testing.assert_allclose(values, expected, rtol=1e-7)
    np.testing.assert_allclose(values.ravel(), [0.06286511, -0.06605243, 0.32021132, 0.05245006], rtol=1e-7)


@pytest.mark.parametrize("make", [lambda: XavierUniform(seed=5, blocks=2), lambda: ScaledNormal(0.1, seed=5)])
def test_config_round_trip(make):
    initializer = make()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(initializer))
    assert copy.get_config() == initializer.get_config()
    np.testing.assert_array_equal(as_numpy(copy((4, 6))), as_numpy(initializer((4, 6))))


def test_seed_stream_gives_one_sequence_a_seed():
    stream = SeedStream(1)
    assert [stream.next(), stream.next()] == [1641411168, 1454127163]
    other = SeedStream(2)
    assert other.next() not in (1641411168, 1454127163)


def test_one_seed_gives_one_model_on_every_backend():
    weights = {w.path.split("/", 1)[1]: as_numpy(w.value).ravel()[:3] for w in model().weights}
    golden = {
        "target_embedding/embeddings": [0.10363776, -0.0322615, -0.12737794],
        "encoder/layer_0/self_attention/query_key_value/kernel": [-0.43802372, -0.59733923, -0.38882500],
        "encoder/layer_0/feed_forward/outer/kernel": [0.18011697, 0.37950155, 0.491339],
        "decoder/layer_0/cross_attention/key_value/kernel": [0.32200913, -0.18793076, -0.47454191],
    }
    for name, values in golden.items():
        np.testing.assert_allclose(weights[name], values, rtol=1e-6)


def test_kernels_are_xavier_uniform_biases_zero_tables_normal():
    """Query, key and value kernels are sqrt(2) smaller, as in torch.nn.MultiheadAttention and fairseq."""
    made = model(vocabulary_size=500, d_model=64, d_ff=96, num_layers=2, tie_embeddings=None, norm="pre")
    blocks = {"query_key_value": 3, "key_value": 2}
    seen = set()
    for weight in made.weights:
        owner, kind = weight.path.split("/")[-2:]
        values = as_numpy(weight.value)
        seen.add(kind)
        if kind == "kernel":
            gain = 2**-0.5 if owner in ("query", "key_value", "query_key_value") else 1.0
            limit = gain * np.sqrt(6 / (values.shape[0] + values.shape[1] / blocks.get(owner, 1)))
            assert 0.99 * limit < np.abs(values).max() <= limit * (1 + 1e-6), weight.path
            np.testing.assert_allclose(values.std(), limit / np.sqrt(3), rtol=0.05, err_msg=weight.path)
        elif kind == "embeddings":
            np.testing.assert_allclose(values.std(), 64**-0.5, rtol=0.02)
        else:
            np.testing.assert_array_equal(values, {"bias": 0.0, "beta": 0.0, "gamma": 1.0}[kind], err_msg=weight.path)
    assert seen == {"kernel", "bias", "embeddings", "gamma", "beta"}


def test_no_two_weights_of_a_model_are_drawn_alike():
    """Compared without their scale, by their first entries."""
    kernels = [as_numpy(w.value).ravel() for w in model(num_layers=3, tie_embeddings=None).weights if w.ndim == 2]
    beginnings = {tuple(np.round(k[1:4] / k[0], 4)) for k in kernels}
    assert len(beginnings) == len(kernels) == 3 * 4 + 3 * 7 + 3


@pytest.mark.parametrize("kind", [SelfAttention, CrossAttention])
def test_another_seed_gives_other_weights(kind):
    x = np.ones((1, 2, 4), "float32")
    kernels = []
    for seed in (1, 2):
        layer = kind(4, 2, seed=seed)
        layer(*[x] * (1 if kind is SelfAttention else 2))
        kernels.append(layer.get_weights()[0])
    assert np.abs(kernels[0] - kernels[1]).min() > 0


def test_without_a_seed_keras_set_random_seed_decides():
    def weights(seed):
        keras.utils.set_random_seed(seed)
        return model(seed=None).get_weights()

    for one, same in zip(weights(3), weights(3), strict=True):
        np.testing.assert_array_equal(one, same)
    assert np.abs(weights(3)[0] - weights(4)[0]).max() > 0
    assert np.abs(model(seed=None).get_weights()[0] - model(seed=None).get_weights()[0]).max() > 0


@pytest.mark.parametrize("make", [XavierUniform, lambda: ScaledNormal(1.0)])
def test_weights_in_16_bits_are_the_rounded_ones(make):
    initializer = make()
    half = initializer((4, 4), dtype="bfloat16")
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"
    np.testing.assert_allclose(as_numpy(keras.ops.cast(half, "float32")), as_numpy(initializer((4, 4))), rtol=2**-8)
