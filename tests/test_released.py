"""A small artefact of every version in tests/data: loads on every backend, gives the numbers it gave, or is refused by version."""

import json
import shutil

import numpy as np
import pytest
from keras import ops
from make_released import DATA, make_batch, make_model

import keras_transformer as kt
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint

RELEASED = sorted(path for path in DATA.iterdir() if not path.name.startswith("before"))
BEFORE = DATA / "before-0.1.0"  # as the package was before its first release: no manifests, other checkpoints


def check_logits(model, tokenizer, folder):
    inputs, _ = make_batch(tokenizer)
    logits = ops.convert_to_numpy(model(inputs, training=False))[:, :3, :5].ravel()
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.fixture(scope="module")
def fresh():
    """A model as checkpoints know it, with weights of its own."""
    return make_model(kt.Translator.load(DATA / "0.1.0" / "translator").tokenizer.vocabulary_size)


def test_this_version_is_there():
    assert kt.__version__ in [path.name for path in RELEASED]


@pytest.mark.parametrize("folder", [*RELEASED, BEFORE], ids=lambda folder: folder.name)
def test_a_translator_gives_the_same_numbers(folder):
    translator = kt.Translator.load(folder / "translator")
    check_logits(translator.model, translator.tokenizer, folder)


@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)
def test_weights_with_a_sidecar_and_checkpoints_load(folder, fresh):
    tokenizer = kt.Translator.load(folder / "translator").tokenizer
    for load in (
        lambda: kt.load_weights(fresh, folder / "model.weights.h5"),
        lambda: load_checkpoint(fresh, latest_checkpoint(folder / "checkpoints")),
    ):
        for weight in fresh.trainable_weights:
            weight.assign(np.zeros(weight.shape, "float32"))
        load()
        check_logits(fresh, tokenizer, folder)
    assert int(fresh.optimizer.iterations) == 1  # three batches, of which two have made an update
    assert [
        int(ops.convert_to_numpy(variable)) for variable in fresh.optimizer.variables if variable.name == "count"
    ] == [1]


def test_checkpoints_before_the_first_release_are_refused():
    with pytest.raises(kt.ArtifactError, match="update-3 cannot be used: it is a checkpoint of an earlier release"):
        latest_checkpoint(BEFORE / "checkpoints")


def test_what_a_later_version_has_written_is_refused_by_version(tmp_path, fresh):
    released = DATA / "0.1.0"
    shutil.copytree(released / "translator", tmp_path / "translator")
    (tmp_path / "translator" / "translator.json").write_text('{"format_version": 3}', encoding="utf-8")
    with pytest.raises(
        kt.ArtifactError, match="format version 3; this release reads 1 and 2. Install the release that wrote"
    ):
        kt.Translator.load(tmp_path / "translator")
