"""What Pydantic checks. How a client is told is in test_app.py."""

import keras
import pytest

pytest.importorskip("pydantic")
from pydantic import ValidationError

from keras_transformer.serving.schema import PredictRequest, TranslateRequest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


@pytest.mark.parametrize(
    ("schema", "body"),
    [
        (TranslateRequest, {"texts": [1] * 1000}),
        (PredictRequest, {"instances": [1.5] * 1000}),
        (PredictRequest, {"instances": [["a"] * 1000]}),
        (PredictRequest, {"inputs": {"source": [1.5] * 1000}}),
    ],
)
def test_a_list_stops_at_its_first_error(schema, body):
    with pytest.raises(ValidationError) as raised:
        schema.model_validate(body)
    assert raised.value.error_count() < 10


def test_numbers_are_not_read_out_of_texts():
    for body in ({"texts": ["a"], "beam_size": "2"}, {"texts": ["a"], "attention": 1}, {"texts": ["a"], "more": 1}):
        with pytest.raises(ValidationError):
            TranslateRequest.model_validate(body)
    assert TranslateRequest(texts=["a"]).num_hypotheses == 1
