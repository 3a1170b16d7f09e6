import keras
import numpy as np
import pytest
from layer_contract import as_numpy, check_layer

from keras_transformer.layers import OutputProjection, SinusoidalPositions, TokenEmbedding

IDS = np.array([[1, 2, 2], [3, 0, 4]], dtype="int32")


def test_token_embedding_keeps_the_contract():
    check_layer(lambda **k: TokenEmbedding(6, 4, **k), (IDS,), [(6, 4)], (2, 3, 4))


def test_output_projection_keeps_the_contract():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    check_layer(lambda **k: OutputProjection(6, 4, **k), (x,), [(6, 4)], (2, 3, 6))


def test_positions_keep_the_contract():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    check_layer(SinusoidalPositions, (x,), [], (2, 3, 4))


def test_token_embedding_scales_rows_and_ties_the_projection():
    layer = TokenEmbedding(6, 4, seed=0)
    out = as_numpy(layer(IDS))
    table = as_numpy(layer.embeddings)
    np.testing.assert_allclose(out, table[IDS] * 2.0, rtol=1e-6)
    np.testing.assert_allclose(as_numpy(layer.logits(out.astype("float32"))), out @ table.T, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int16", "int64", "float32"])
def test_ids_may_be_numbers_of_any_kind(dtype, policy):
    layer, ids = TokenEmbedding(300, 4, seed=0, dtype=policy), np.array([[257, 5]], "int32")
    np.testing.assert_array_equal(as_numpy(layer(ids.astype(dtype))), as_numpy(layer(ids)))


def test_table_starts_as_normal_with_deviation_of_the_inverse_root_of_d_model():
    layer = TokenEmbedding(5000, 64, seed=0)
    layer.build()
    table = as_numpy(layer.embeddings)
    assert abs(table.std() * 8.0 - 1.0) < 0.01
    assert abs(table.mean()) < 1e-3


def test_gradient_sums_duplicate_rows_before_adam_squares_them():
    """Adam's second moment after one step is (1 - beta_2) g^2 with g the summed row, for a token that occurs twice."""
    layer = TokenEmbedding(6, 4, seed=0)
    symbol = keras.Input((3,), dtype="int32")
    model = keras.Model(symbol, layer(symbol))
    optimizer = keras.optimizers.Adam(0.001, beta_1=0.0, beta_2=0.5)
    model.compile(optimizer, loss=lambda y, p: keras.ops.sum(p * y) / keras.ops.cast(keras.ops.shape(p)[0], p.dtype))
    model.train_on_batch(np.array([[2, 2, 5]]), np.ones((1, 3, 4), "float32"))
    second_moment = next(as_numpy(v) for v in optimizer.variables if "velocity" in v.path)
    gradient = np.zeros((6, 4))
    gradient[2], gradient[5] = 4.0, 2.0  # twice and once, times sqrt(d_model) = 2
    np.testing.assert_allclose(second_moment, 0.5 * gradient**2, rtol=1e-5)


def sinusoids(length, width):
    """The paper's formula, in float64."""
    table = np.zeros((length, width))
    for position in range(length):
        for i in range(width // 2):
            angle = position / 10000 ** (2 * i / width)
            table[position, 2 * i : 2 * i + 2] = np.sin(angle), np.cos(angle)
    return table


@pytest.mark.parametrize("start", [0, 5])
def test_positions_follow_the_papers_formula_interleaved(start):
    zeros = np.zeros((1, 40, 6), "float32")
    # float32 angles of up to 45 carry a rounding of 4e-6
    np.testing.assert_allclose(
        as_numpy(SinusoidalPositions()(zeros, start=start))[0], sinusoids(45, 6)[start : start + 40], atol=1e-5
    )


def test_positions_stay_apart_in_bfloat16():
    """Angles in bfloat16 would give positions 1000 and 1001 the same row."""
    rows = as_numpy(SinusoidalPositions(dtype="mixed_bfloat16")(np.zeros((1, 1002, 64), "float32")))[0]
    np.testing.assert_allclose(rows[1000:], sinusoids(1002, 64)[1000:], atol=0.01)  # bfloat16 keeps 8 bits


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="even"):
        SinusoidalPositions()(np.zeros((1, 2, 3), "float32"))


@pytest.mark.parametrize("size", [0, -1, 2.5, "8"])
def test_an_impossible_size_is_refused(size):
    with pytest.raises(ValueError, match="vocabulary_size must be a positive integer"):
        TokenEmbedding(size, 4)
