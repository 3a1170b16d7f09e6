"""Architectures from files: which are let through to Keras, and which are refused with a reason."""

import keras
import pytest

import keras_transformer as kt
from keras_transformer.model_configs import check_config

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
MODEL = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, dtype="mixed_bfloat16")  # its dtype is a nested policy


def config(**changes):
    sound = keras.saving.serialize_keras_object(MODEL)
    return sound | {"config": sound["config"] | changes}


def deep(depth):
    return [deep(depth - 1)] if depth else []


def test_a_model_of_this_package_passes_with_room_for_its_weights():
    check_config(config(), "model.json", elements=MODEL.count_params())
    with pytest.raises(
        kt.ArtifactError, match="model.json cannot be used: its sizes ask for 1952 parameters, .* holds 1900"
    ):
        check_config(config(), "model.json", elements=1900)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"activation": {"module": "os", "class_name": "system"}}, "it names 'os'.'system', which it may not"),
        ({"norm": [{"registered_name": "nobody>Nothing"}]}, "it names None.None, which it may not"),
        ({"norm": deep(60)}, "it is nested too deep"),
        ({"d_model": -8}, "ask for no known number of parameters"),
        ({"num_layers": 2**70}, "ask for no known number of parameters"),
    ],
)
def test_what_keras_would_make_anything_of_is_refused(changes, reason):
    with pytest.raises(kt.ArtifactError, match=reason):
        check_config(config(**changes), "model.json", elements=10_000)


@pytest.mark.parametrize(
    "wrong", [[], {}, {"registered_name": 5}, {"registered_name": "keras_transformer>Encoder", "config": {}}]
)
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(kt.ArtifactError, match="it does not describe a model"):
        check_config(wrong, "model.json", elements=10_000)
