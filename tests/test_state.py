"""What training is made of, as arrays and back: by place, with the path as a second check, all or nothing."""

import re

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.artifacts import ArrayFile, write_arrays
from keras_transformer.checkpoints import capture, first_non_finite, restore


def make(frozen=None, optimizer=None, metrics=()):
    """Two layers of equal shapes."""
    layers = [keras.layers.Dense(2, name=name) for name in ("one", "other")]
    model = keras.Sequential([keras.Input((2,)), *layers])
    if frozen:
        model.get_layer(frozen).trainable = False
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", metrics=list(metrics))
    return model


def files(model, folder, **changed):
    """What capture gives, as restore takes it, with arrays of ``training`` replaced."""
    weights, training = capture(model)
    found = []
    for name, arrays in (("weights", weights), ("training", training | changed)):
        write_arrays(folder / name, arrays)
        found.append(ArrayFile(folder / name))
    return found


def values(model):
    return [np.array(ops.convert_to_numpy(variable)) for variable in (*model.weights, *model.optimizer.variables)]


def results(model):
    return {name: float(ops.convert_to_numpy(value)) for name, value in model.get_metrics_result().items()}


def assert_unchanged(model, before):
    for one, other in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_captured_stays_as_it_was():
    model = make()
    weights, _ = capture(model)
    before = {name: array.copy() for name, array in weights.items()}
    model.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)
    assert list(weights) == [
        f"0000{i} {path}" for i, path in enumerate(["one/kernel", "one/bias", "other/kernel", "other/bias"])
    ]
    for name, array in weights.items():
        np.testing.assert_array_equal(array, before[name])


def test_weights_of_equal_shapes_do_not_change_places(tmp_path):
    """Frozen ones come last: without a look at the paths each layer would get the other's weights, without a word."""
    weights, training = files(make(), tmp_path)
    model = make(frozen="one")
    before = values(model)
    with pytest.raises(
        kt.ArtifactError, match="another order: one/kernel, where yours has other/kernel, as when other layers"
    ):
        restore(model, weights, training)
    assert_unchanged(model, before)
    same = make()
    restore(same, weights, training)


def numbered(frozen=None, names=(None, None)):
    """As Keras numbers layers: where a process stands decides with what."""
    layers = [keras.layers.Dense(2, name=name) for name in names]
    model = keras.Sequential([keras.Input((2,)), *layers])
    if frozen is not None:
        layers[frozen].trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def as_earlier(file, folder):
    """A file whose names have no numbers, as earlier releases wrote it."""
    write_arrays(folder / "earlier", {re.sub(r"_\d+(?=/|$)", "", name): file.read(name) for name in file.shapes})
    return ArrayFile(folder / "earlier")


def test_numbered_names_do_not_change_places_wherever_their_numbers_begin(tmp_path):
    weights, training = files(numbered(), tmp_path)
    assert list(weights.shapes) == [
        "00000 dense/kernel",
        "00001 dense/bias",
        "00002 dense_1/kernel",
        "00003 dense_1/bias",
    ]
    other = numbered(frozen=0)
    before = values(other)
    with pytest.raises(kt.ArtifactError, match="another order: dense/kernel, where yours has dense_1/kernel"):
        restore(other, weights, training)
    assert_unchanged(other, before)
    earlier = as_earlier(weights, tmp_path)
    for same in (numbered(), numbered(names=("dense", "dense_1")), numbered(names=("dense_9", "dense_10"))):
        restore(same, weights, training)
        np.testing.assert_array_equal(values(same)[2], weights.read("00002 dense_1/kernel"))
        restore(same, earlier, training)


def test_an_encoder_layer_that_is_frozen_does_not_change_places(tmp_path):
    def build(frozen):
        model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=2, dropout=0.0)
        model.encoder.layers[frozen].trainable = False
        model.compile(keras.optimizers.SGD(0.1))
        return model

    weights, training = files(build(0), tmp_path)
    restore(build(0), weights, training)
    with pytest.raises(kt.ArtifactError, match="another order: encoder/layer_1/.*, where yours has encoder/layer/"):
        restore(build(1), weights, training)


def test_other_names_in_the_same_order_are_taken(tmp_path):
    """A number in a name is a process's own, and a layer may have been renamed."""
    weights, training = files(make(), tmp_path)
    renamed = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(2)])
    renamed.compile(keras.optimizers.SGD(0.1), "mse")
    restore(renamed, weights, training)
    np.testing.assert_array_equal(values(renamed)[0], weights.read("00000 one/kernel"))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="PyTorch's generators")
def test_a_state_of_a_generator_that_is_none_changes_nothing(tmp_path):
    import torch

    model = make()
    weights, training = files(model, tmp_path, **{"random/torch": np.zeros(3, "uint8")})
    model.set_weights([weight + 1 for weight in model.get_weights()])
    before, generator = values(model), torch.get_rng_state()
    with pytest.raises(kt.ArtifactError, match="it holds no state of PyTorch's generators: .* Take an older one"):
        restore(model, weights, training)
    assert_unchanged(model, before)
    assert torch.equal(generator, torch.get_rng_state())


def test_metrics_come_back_when_asked_for_and_if_they_are_the_same(tmp_path):
    model = make(metrics=["mae"])
    model.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)
    weights, training = files(model, tmp_path)
    result = results(model)
    model.reset_metrics()
    again = restore(model, weights, training)
    assert results(model)["loss"] == 0.0 != result["loss"]
    again()
    assert results(model) == result
    other = make()
    restore(other, weights, training)()  # of another set of metrics nothing
    assert not any(ops.convert_to_numpy(variable).any() for variable in other.metrics_variables)


def test_the_first_bad_array_is_named_whatever_its_type():
    import ml_dtypes

    good, bad = np.ones(2, "float32"), np.array([1.0, np.inf])
    assert first_non_finite({"a": good, "b": np.array([1, 2])}) is None
    for dtype in ("float16", "float32", "float64", ml_dtypes.bfloat16):
        assert first_non_finite({"a": good, "b": bad.astype(dtype), "c": bad}) == "b"
    assert first_non_finite(iter([("a", bad)])) == "a"
