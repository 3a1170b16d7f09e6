"""The signatures as TensorFlow functions, before they are saved; what is saved answers in test_saved_model.py."""

import keras
import numpy as np
import pytest
from exported_models import KINDS, TOKENIZER, make_model, make_sources

from keras_transformer.decoding import BeamSearch
from keras_transformer.export.signatures import DESCRIPTIONS, example_inputs, make_signatures

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="they are TensorFlow's")


@pytest.fixture(scope="module", params=KINDS)
def both(request):
    model = make_model(**KINDS[request.param])
    return model, make_signatures(BeamSearch(model, 2, max_length=4))


def test_steps_give_the_logits_of_the_whole_target(both):
    model, signatures = both
    source, width, steps = make_sources(3, 5), 2, 3
    target = np.random.default_rng(0).integers(4, TOKENIZER.vocabulary_size, (3 * width, steps), dtype="int32")
    target[:, 0] = model.bos_id
    encoded = signatures["encode"](source)
    encoder = {name: encoded[name] for name in ("encoder_keys", "encoder_values")}
    shape = (3 * width, model.num_decoder_layers, model.num_heads, 0, model.d_model // model.num_heads)
    keys = values = tf.zeros(shape)
    found = []
    for step in range(steps):
        answer = signatures["decode_step"](source, *encoder.values(), target[:, step], keys, values)
        keys, values = answer["keys"], answer["values"]
        found.append(answer["logits"].numpy())
    expected = model({"source": np.repeat(source, width, axis=0), "target": target}).numpy()
    np.testing.assert_allclose(np.stack(found, axis=1), expected, atol=1e-5 * np.abs(expected).max())


def test_each_is_described_and_has_an_example(both):
    model, signatures = both
    examples = example_inputs(model)
    assert signatures.keys() == DESCRIPTIONS.keys() == examples.keys()
    for name, inputs in examples.items():
        assert inputs.keys() == DESCRIPTIONS[name]["inputs"].keys()
        answer = signatures[name](**{key: tf.constant(x) for key, x in inputs.items()})
        assert answer.keys() == DESCRIPTIONS[name]["outputs"].keys()


def test_negative_ids_are_an_error_and_no_translation(both):
    model, signatures = both
    good, bad = tf.constant([[5, 6, 3]]), tf.constant([[5, -1, 3]])
    for name, inputs in (
        ("serving_default", {"source": bad}),
        ("encode", {"source": bad}),
        ("score", {"source": bad, "labels": good}),
        ("score", {"source": good, "labels": bad}),
    ):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=f"from 0 to {model.vocabulary_size - 1}; some here are"
        ):
            signatures[name](**inputs)
