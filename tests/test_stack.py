"""What encoder and decoder share: passing arguments through, freezing, and the config."""

import json

import keras
import numpy as np
import pytest
from layer_contract import as_numpy

from keras_transformer.layers import Decoder, Encoder

X = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
ARGUMENTS = {
    "d_ff": 12,
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "activation_dropout": 0.4,
    "norm": "pre",
    "activation": "gelu",
    "epsilon": 1e-3,
    "residual_dropout_position": "sum",
}


def copy_of(layer):
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_every_argument_reaches_every_layer_also_through_the_config(kind):
    stack = kind(3, d_model=8, num_heads=2, seed=1, **ARGUMENTS)
    for made in (stack, copy_of(stack)):
        assert len(made.layers) == 3
        for layer in made.layers:
            config = layer.get_config()
            assert {name: config[name] for name in ARGUMENTS} == ARGUMENTS
        assert made.final_norm.epsilon == 1e-3


@pytest.mark.parametrize("activation", ["gelu", keras.activations.gelu])
def test_an_activation_by_name_or_function_survives_the_config(activation):
    stack = copy_of(Encoder(1, d_model=8, num_heads=2, activation=activation))
    assert stack.layers[0].activation is keras.activations.gelu


def test_layers_begin_with_weights_of_their_own():
    stack = Encoder(2, d_model=8, num_heads=2, seed=1)
    stack(X)
    one, other = (layer.self_attention.query_key_value.kernel for layer in stack.layers)
    assert np.abs(as_numpy(one) - as_numpy(other)).min() > 0


def test_a_frozen_stack_stays_frozen_through_the_config_and_can_be_thawed():
    stack = Encoder(1, d_model=8, num_heads=2)
    stack.trainable = False
    copy = copy_of(stack)
    copy(X)
    assert not copy.trainable and not copy.trainable_weights
    copy.trainable = True
    assert len(copy.trainable_weights) == 12
    again = copy_of(copy)
    again(X)
    assert again.trainable and len(again.trainable_weights) == 12


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_a_stack_of_nothing_is_refused(kind):
    with pytest.raises(ValueError, match="at least one layer. Received: num_layers=0"):
        kind(0, d_model=8, num_heads=2)


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_each_argument_is_an_attribute_and_an_entry_of_the_config(kind):
    stack = kind(1, d_model=8, num_heads=2, activation=keras.activations.gelu)
    defaults = {
        "num_layers": 1,
        "d_model": 8,
        "num_heads": 2,
        "d_ff": 32,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
        "norm": "post",
        "activation": "gelu",
        "epsilon": 1e-6,
        "residual_dropout_position": "branch",
        "seed": None,
    }
    config = json.loads(json.dumps(stack.get_config()))  # plain data
    assert {name: config[name] for name in defaults} == defaults
    assert {name: getattr(stack, name) for name in defaults} == defaults | {"activation": keras.activations.gelu}
