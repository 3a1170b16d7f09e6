"""The contract that every layer goes through: weights, shapes, config round trip, mixed precision, one training step."""

import inspect

import keras
import numpy as np
from keras import ops


def as_numpy(x):
    return np.asarray(ops.convert_to_numpy(x), dtype="float64")


def check_layer(make, inputs, weight_shapes, output_shape):
    """Checks ``make(**kwargs)`` on ``inputs``, a tuple of float or int arrays."""
    layer = make(seed=7) if _takes_seed(make) else make()
    output = layer(*inputs)
    assert tuple(output.shape) == output_shape
    # By build's own names, as model.summary() calls it.
    shapes = dict(zip(inspect.signature(type(layer).build).parameters, (None, *(x.shape for x in inputs)), strict=True))
    del shapes["self"]
    assert layer.compute_output_shape(**shapes) == output_shape
    assert [tuple(w.shape) for w in layer.trainable_weights] == weight_shapes
    _check_same_seed_same_weights(make, inputs)
    _check_config(layer, inputs)
    _check_symbolic(layer, inputs, output_shape)
    _check_mixed_precision(make, inputs)
    if weight_shapes:
        _check_training_step(layer, inputs)


def _takes_seed(make):
    return "seed" in make().get_config()


def _check_same_seed_same_weights(make, inputs):
    if not _takes_seed(make):
        return
    one, other = make(seed=7), make(seed=7)
    one(*inputs), other(*inputs)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def _check_config(layer, inputs):
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == layer.get_config()
    copy(*inputs)
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(as_numpy(copy(*inputs)), as_numpy(layer(*inputs)))


def _check_symbolic(layer, inputs, output_shape):
    """Inside a functional model, batch and lengths open."""
    symbols = [
        keras.Input((*(None,) * (x.ndim - 2), x.shape[-1]) if x.dtype.kind == "f" else (None,), dtype=x.dtype.name)
        for x in inputs
    ]
    model = keras.Model(symbols, layer(*symbols))
    np.testing.assert_allclose(as_numpy(model(list(inputs))), as_numpy(layer(*inputs)), rtol=1e-6, atol=1e-6)


def _check_mixed_precision(make, inputs):
    """Values within a few roundings (2^-8, 2^-11) of float32's, in the root mean square; weights in float32.

    Not entry by entry: LayerNorm of a narrow row whose entries are nearly equal multiplies its rounding.
    """
    seed = {"seed": 7} if _takes_seed(make) else {}
    layer = make(**seed)
    expected = as_numpy(layer(*inputs))
    for dtype, rounding in (("bfloat16", 2**-8), ("float16", 2**-11)):
        mixed = make(dtype=f"mixed_{dtype}", **seed)
        mixed(*inputs)
        mixed.set_weights(layer.get_weights())
        output = mixed(*inputs)
        assert keras.backend.standardize_dtype(output.dtype) == dtype
        assert _rms(as_numpy(output) - expected) <= 8 * rounding * _rms(expected)
        for weight in mixed.weights:
            assert keras.backend.standardize_dtype(weight.dtype) in ("float32", "uint32", "int64", "int32")


def _rms(x):
    return np.sqrt(np.mean(np.square(x)))


def _check_training_step(layer, inputs):
    symbols = [keras.Input(x.shape[1:], dtype=x.dtype.name) for x in inputs]
    model = keras.Model(symbols, layer(*symbols))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    before = [as_numpy(w) for w in layer.trainable_weights]
    goal = np.random.default_rng(3).normal(size=model(list(inputs)).shape)
    losses = [model.train_on_batch(list(inputs), goal) for _ in range(3)]
    assert losses[-1] < losses[0]
    after = [as_numpy(w) for w in layer.trainable_weights]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, after, strict=True))
