"""The functions that are written once a backend."""

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy
from numpy_oracle import attention, value_and_gradient, value_and_gradients

from keras_transformer import backend
from keras_transformer.backend import (
    compiled,
    fused_attention,
    gather_rows,
    matrix_product,
    max_and_argmax,
    product_with_rows,
    top_k,
    write_slice,
    written_part,
)

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(6, 4)).astype("float32")
IDS = np.array([[2, 2, 5], [2, 0, 5]], dtype="int32")


def test_gather_rows_takes_rows():
    np.testing.assert_array_equal(
        as_numpy(gather_rows(ops.convert_to_tensor(TABLE), IDS)), TABLE[IDS].astype("float64")
    )


def test_gather_rows_gradient_is_dense_and_sums_duplicate_rows():
    upstream = GENERATOR.normal(size=(2, 3, 4)).astype("float32")
    ids, factors = ops.convert_to_tensor(IDS), ops.convert_to_tensor(upstream)
    _, gradient = value_and_gradient(lambda table: ops.sum(gather_rows(table, ids) * factors), TABLE)
    assert ops.is_tensor(gradient)
    assert type(gradient).__name__ != "IndexedSlices"
    assert not getattr(gradient, "is_sparse", False)
    expected = np.zeros((6, 4))
    np.add.at(expected, IDS.ravel(), upstream.reshape(-1, 4).astype("float64"))
    assert tuple(gradient.shape) == (6, 4)
    np.testing.assert_allclose(as_numpy(gradient), expected, atol=1e-6)
    assert not as_numpy(gradient)[[1, 3, 4]].any()


@pytest.mark.parametrize("width", [12, 3000, 131, 1000])
def test_top_k_gives_ties_to_the_lowest_index(width):
    """Small integers tie everywhere, also across the k-th place; NumPy's stable sort is the judge."""
    values = GENERATOR.integers(0, 4, size=(50, width)).astype("float32")
    for k in (1, 2, 5, 12):
        top, indices = top_k(ops.convert_to_tensor(values), k)
        expected = np.argsort(-values, axis=-1, kind="stable")[:, :k]
        np.testing.assert_array_equal(ops.convert_to_numpy(indices), expected)
        np.testing.assert_array_equal(as_numpy(top), np.take_along_axis(values, expected, axis=-1))


def test_top_k_of_one_row_with_a_tie_only_beyond_the_kth_place():
    values = ops.convert_to_tensor(np.array([[1.0, 9.0, 1.0, 1.0, 7.0]], "float32"))
    assert ops.convert_to_numpy(top_k(values, 2)[1]).tolist() == [[1, 4]]
    assert ops.convert_to_numpy(top_k(values, 3)[1]).tolist() == [[1, 4, 0]]


def test_top_k_of_minus_infinities():
    values = np.full((2, 6), -np.inf, "float32")
    values[1, 4] = 0.0
    assert ops.convert_to_numpy(top_k(ops.convert_to_tensor(values), 3)[1]).tolist() == [[0, 1, 2], [4, 0, 1]]


@pytest.mark.parametrize("rows", [1, 4])
def test_products_with_the_rows_of_a_table(rows):
    x = GENERATOR.normal(size=(rows, 4)).astype("float32")
    product = product_with_rows(ops.convert_to_tensor(x), ops.convert_to_tensor(TABLE))
    np.testing.assert_allclose(as_numpy(product), x @ TABLE.T, atol=1e-5)


def test_a_slice_is_written_and_the_part_to_its_end_can_be_read():
    x, values = GENERATOR.normal(size=(2, 3, 6)).astype("float32"), np.ones((2, 3, 2), "float32")
    start = ops.convert_to_tensor(3, dtype="int32")
    written = write_slice(ops.convert_to_tensor(x.copy()), ops.convert_to_tensor(values), start, axis=2)
    expected = x.copy()
    expected[:, :, 3:5] = 1
    np.testing.assert_array_equal(as_numpy(written), expected)
    part = as_numpy(written_part(written, start + 2, axis=2, width=1))
    np.testing.assert_array_equal(part, expected[:, :, : part.shape[2]])
    assert part.shape[2] >= 5


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_agrees_with_numpy_where_there_is_one(masked):
    query, key, value = (GENERATOR.normal(size=(2, 1, length, 8)).astype("float32") for length in (3, 5, 5))
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)[:, None, None] if masked else None
    fused = fused_attention(
        *(ops.convert_to_tensor(x) for x in (query, key, value)),
        None if mask is None else ops.convert_to_tensor(mask),
        8**-0.5,
    )
    if keras.backend.backend() != "torch":
        assert fused is None
        return
    allowed = True if mask is None else mask[:, 0]
    expected = attention(*(x[:, 0].astype("float64") for x in (query, key, value)), allowed, heads=1)
    np.testing.assert_allclose(as_numpy(fused)[:, 0], expected, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's kernel")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("mask_shape", [(2, 1, 1, 4), (1, 1, 6, 4), (2, 1, 1, 5), None])
def test_on_a_gpu_jax_is_asked_for_cudnns_kernel(dtype, mask_shape, monkeypatch):
    """What is compiled for a GPU that is not there: the kernel's call, forward and backward, in 16 bits alone."""
    import jax
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    keys = 4 if mask_shape is None else mask_shape[-1]
    shapes = (2, 4, 6, 8), (2, 4, keys, 8), (2, 4, keys, 8)
    generator = np.random.default_rng(0)
    query, key, value = (ops.convert_to_tensor(generator.normal(size=shape), dtype=dtype) for shape in shapes)
    mask = None if mask_shape is None else ops.convert_to_tensor(generator.random(mask_shape) < 0.8)
    monkeypatch.setattr(backend, "_jax_platform", lambda: "gpu")

    def total(*tensors):
        attended = fused_attention(*tensors, mask, 0.5)
        return attended.astype("float32").sum()

    if dtype == "float32" or keys == 5:  # cuDNN has no gradient of a mask with an odd length
        assert fused_attention(query, key, value, mask, 0.5) is None
        return
    here = as_numpy(ops.cast(fused_attention(query, key, value, mask, 0.5), "float32"))  # Keras's plain form
    scores = as_numpy(ops.cast(query, "float32")) @ as_numpy(ops.cast(key, "float32")).transpose(0, 1, 3, 2) * 0.5
    scores = scores if mask is None else np.where(np.broadcast_to(as_numpy(mask), scores.shape), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ as_numpy(ops.cast(value, "float32"))
    np.testing.assert_allclose(here, expected, atol=0.03)  # of values up to 3 in 8 bits of precision
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    compiled = (
        jax.jit(jax.grad(total, (0, 1, 2))).trace(query, key, value).lower(lowering_platforms=("cuda",)).as_text()
    )
    assert "__cudnn$fmha" in compiled and "Backward" in compiled


def test_a_compiled_function_sees_changed_weights_and_other_shapes():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    run = compiled(lambda x: model(x, training=False) * 2.0, model)
    for rows in (2, 2, 5):
        model.set_weights([GENERATOR.normal(size=w.shape) for w in model.get_weights()])
        kernel, bias = (w.astype("float64") for w in model.get_weights())
        x = GENERATOR.normal(size=(rows, 4)).astype("float32")
        out = as_numpy(run(ops.convert_to_tensor(x)))
        np.testing.assert_allclose(out, (x @ kernel + bias) * 2.0, atol=1e-5)


def test_a_compiled_function_leaves_the_model_trainable():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    run = compiled(lambda x: model(x, training=False), model)
    x = np.ones((2, 4), "float32")
    before = as_numpy(run(ops.convert_to_tensor(x)))
    model.train_on_batch(x, before + 1.0)
    after = as_numpy(run(ops.convert_to_tensor(x)))
    # One step of 2 * 0.1 * (4 + 1) * error lands on the goal.
    np.testing.assert_allclose(after, before + 1.0, atol=1e-5)


@pytest.mark.parametrize("amd", [False, True])
@pytest.mark.parametrize("shape", [(7, 3, 5), (7, 5, 3), (1, 4, 4), (5, 1, 3)])
def test_matrix_product_and_its_gradients(shape, amd, monkeypatch):
    """By float64: the product, upstream b^T and a^T upstream; on PyTorch both through MKL and through oneDNN."""
    monkeypatch.setattr(backend, "_is_amd", lambda: amd)
    rows, inner, columns = shape
    a, b = (GENERATOR.normal(size=size).astype("float32") for size in ((rows, inner), (inner, columns)))
    upstream = GENERATOR.normal(size=(rows, columns)).astype("float32")
    factors = ops.convert_to_tensor(upstream)
    value, (by_a, by_b) = value_and_gradients(lambda a, b: ops.sum(matrix_product(a, b) * factors), a, b)
    wide_a, wide_b, wide = (x.astype("float64") for x in (a, b, upstream))
    np.testing.assert_allclose(as_numpy(value), (wide_a @ wide_b * wide).sum(), rtol=1e-5)
    np.testing.assert_allclose(as_numpy(by_a), wide @ wide_b.T, atol=1e-5)
    np.testing.assert_allclose(as_numpy(by_b), wide_a.T @ wide, atol=1e-5)


def test_max_and_argmax_takes_the_first_of_equals():
    x = np.array([[[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]], [[-1.0, -2.0, 0.0], [5.0, 1.0, 5.0]]], "float32")
    highest, index = max_and_argmax(ops.convert_to_tensor(x))
    np.testing.assert_array_equal(as_numpy(highest), x.max(-1))
    np.testing.assert_array_equal(as_numpy(index), x.argmax(-1))
