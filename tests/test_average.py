"""The mean of checkpoints: exact to float32's rounding, all or nothing."""

import re

import numpy as np
import pytest
from test_checkpoints import BATCH, assert_same, make_model, values

import keras_transformer as kt
from keras_transformer.artifacts import ArrayFile, write_arrays, write_manifest
from keras_transformer.checkpoints import average_checkpoints, list_checkpoints, save_checkpoint


def test_mean_is_exact(tmp_path):
    model, kernels = make_model(dropout=0.1), []
    for step in range(3):
        model.train_on_batch(*BATCH)
        save_checkpoint(model, tmp_path, {}, step=step, keep=3)
        kernels.append(values(model)[: len(model.trainable_variables)])
    average_checkpoints(model, list_checkpoints(tmp_path))
    means = [np.mean(np.array(group, "float64"), axis=0).astype("float32") for group in zip(*kernels, strict=True)]
    assert_same(means, values(model)[: len(means)])
    path = tmp_path / "step-1" / "weights.safetensors"
    arrays = {name: ArrayFile(path).read(name) for name in ArrayFile(path).shapes}
    *_, last = (array for array in arrays.values() if array.dtype.kind == "f")
    last.flat[-1] = np.nan
    for file in (path, path.with_name("manifest.json")):
        file.unlink()
    write_arrays(path, arrays)
    write_manifest(path.parent, "checkpoint")
    before = values(model)
    with pytest.raises(kt.ArtifactError, match="holds numbers that are not finite. Leave it out"):
        average_checkpoints(model, list_checkpoints(tmp_path))
    assert_same(before, values(model))
    with pytest.raises(ValueError, match="There is no checkpoint to average"):
        average_checkpoints(model, [])
    with pytest.raises(kt.ArtifactError, match="it belongs to another model"):
        average_checkpoints(make_model(layers=2), list_checkpoints(tmp_path))


def test_the_mean_goes_over_a_change_of_release(tmp_path):
    """Names had no numbers once, so that those of layer_0 and layer_1 were the same."""
    model = make_model(layers=2)
    for step in range(2):
        model.set_weights([np.full_like(weight, step) for weight in model.get_weights()])
        save_checkpoint(model, tmp_path, {}, step=step)
    path = tmp_path / "step-0" / "weights.safetensors"
    file = ArrayFile(path)
    arrays = {re.sub(r"_\d+(?=/)", "", name): file.read(name) for name in file.shapes}
    assert list(arrays) != list(file.shapes)
    for old in (path, path.with_name("manifest.json")):
        old.unlink()
    write_arrays(path, arrays)
    write_manifest(path.parent, "checkpoint")
    average_checkpoints(model, list_checkpoints(tmp_path))
    for weight in model.get_weights():
        np.testing.assert_array_equal(weight, np.float32(0.5))
