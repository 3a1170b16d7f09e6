"""The ONNX graphs, run by onnxruntime: logits of the model's own call."""

import keras
import numpy as np
import pytest
from exported_models import KINDS, TOKENIZER, make_sources, model_and_onnx_driver

from keras_transformer.decoding import GreedySearch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


@pytest.fixture(scope="module", params=KINDS)
def both(request, tmp_path_factory):
    return model_and_onnx_driver(tmp_path_factory.mktemp("onnx") / "export", **KINDS[request.param])


def test_logits_of_each_step_in_unseen_shapes(both):
    model, driver = both
    width = 2
    for rows, length, steps in ((1, 2, 1), (3, 7, 4), (2, 31, 2)):
        source = make_sources(rows, length)
        target = np.random.default_rng(0).integers(4, 200, (rows, width, steps)).astype("int32")
        target[:, :, 0] = TOKENIZER.bos_id
        keep = dict(zip(("encoder_keys", "encoder_values"), driver._encoder.run(None, {"source": source}), strict=True))
        layers, heads, size = (keep["encoder_keys"].shape[axis] for axis in (1, 2, 4))
        keys = values = np.zeros((rows * width, layers, heads, 0, size), "float32")
        for step in range(steps):
            token = target[:, :, step].reshape(-1)
            inputs = {"source": source, **keep, "target": token, "keys": keys, "values": values}
            logits, keys, values = driver._step.run(None, inputs)
        repeated = np.repeat(source, width, axis=0)
        expected = model({"source": repeated, "target": target.reshape(rows * width, steps)})
        expected = keras.ops.convert_to_numpy(expected)[:, -1]
        np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


@once
@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "sigmoid"])
@pytest.mark.parametrize("tie_embeddings", ["decoder", None])
def test_activations_and_tying(tmp_path, activation, tie_embeddings):
    model, driver = model_and_onnx_driver(tmp_path / "export", activation=activation, tie_embeddings=tie_embeddings)
    source = make_sources(8, 6)
    found, _ = driver.search(source, 1, 0, 6)
    np.testing.assert_array_equal(found, GreedySearch(model, max_length=6)(source)[0][:, :, : found.shape[2]])
