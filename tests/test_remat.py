"""Activations computed twice: less is kept, and every number is the same."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

GENERATOR = np.random.default_rng(5)
SOURCE, TARGET, LABELS = (GENERATOR.integers(4, 20, (4, 7), dtype="int32") for _ in range(3))
SOURCE[1, 4:] = LABELS[2, 5:] = 0


def train(remat, dropout, policy=None):
    model = kt.Transformer(
        20, d_model=8, num_heads=2, num_layers=2, norm="pre", dropout=dropout, seed=3, remat=remat, dtype=policy
    )
    model.compile(keras.optimizers.SGD(0.5))
    losses = [
        float(model.train_on_batch({"source": SOURCE, "target": TARGET}, LABELS, return_dict=True)["loss"])
        for _ in range(2)
    ]
    return losses, [
        np.array(ops.convert_to_numpy(v)) for v in (*model.trainable_variables, *model.non_trainable_variables)
    ]


@pytest.mark.parametrize("policy", [None, pytest.param("mixed_bfloat16", marks=pytest.mark.deep)])
def test_loss_gradients_and_dropout_are_the_same(policy):
    losses, variables = train(False, 0.3, policy)
    others, other_variables = train(True, 0.3, policy)
    tolerance = 1e-6 if policy is None else 2e-3
    assert others == pytest.approx(losses, rel=tolerance)
    for one, other in zip(variables, other_variables, strict=True):
        np.testing.assert_allclose(one.astype("float64"), other.astype("float64"), atol=tolerance)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="what autograd keeps can be seen on PyTorch alone")
def test_less_is_kept_for_the_gradient():
    import torch

    def kept(remat):
        model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=3, dropout=0.1, seed=3, remat=remat)
        tensors = {}

        def pack(tensor):
            tensors[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model({"source": SOURCE, "target": TARGET}, training=True)
        weights = {variable.value.data_ptr() for variable in model.trainable_variables}
        return sum(tensor.nbytes for pointer, tensor in tensors.items() if pointer not in weights)

    assert kept(True) < 0.4 * kept(False)


def test_survives_saving():
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, remat=True)
    copy = kt.Transformer.from_config(model.get_config())
    assert copy.remat and copy.encoder.remat and copy.decoder.remat
