"""TensorFlow Serving's predict call apart from HTTP. What a client sees of it is in test_app.py."""

import keras
import pytest
from exported_models import TOKENIZER

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
from keras_transformer.serving.gate import Refused
from keras_transformer.serving.predict import as_arrays, checked_ids, rows_of
from keras_transformer.serving.schema import PredictRequest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


class Row(list):
    """A row that counts how often a part of it is copied."""

    copies = 0

    def __getitem__(self, index):
        if isinstance(index, slice):
            Row.copies += 1
            return Row(super().__getitem__(index))
        return super().__getitem__(index)


def test_padding_is_taken_off_at_once():
    """A body of a megabyte has room for half a million pads: a copy for each would hold up the server for minutes."""
    rows = [Row([5, 6, 3] + [0] * 1000), Row([0] * 1000)]
    assert checked_ids(rows[:1], TOKENIZER, 256) == [[5, 6, 3]]
    with pytest.raises(Refused, match="Row 0 must hold ids below"):
        checked_ids(rows[1:], TOKENIZER, 256)
    assert Row.copies <= 4


def test_the_limit_counts_ids_without_padding():
    assert checked_ids([[5] * 3 + [3] + [0] * 9], TOKENIZER, 4) == [[5, 5, 5, 3]]
    with pytest.raises(Refused, match="Row 1 has 5 ids. At most 4"):
        checked_ids([[3], [5] * 4 + [3]], TOKENIZER, 4)


def test_rows_and_columns():
    assert rows_of(PredictRequest(instances=[[5, 3], {"source": [3]}])) == ([[5, 3], [3]], True)
    assert rows_of(PredictRequest(inputs={"source": [[5, 3]]})) == ([[5, 3]], False)
    assert rows_of(PredictRequest(signature_name="translate_text", inputs=["a"])) == (["a"], False)


def test_hypotheses_that_were_not_found_are_all_pad():
    """As a SavedModel gives them: ids (B, W, L), L at least the limit of the longest source."""
    ids, scores = as_arrays([[([5, 3], -1.0), ([], -1e9)]], [[6, 3]], pad_id=0)
    assert ids == [[[5, 3] + [0] * 12, [0] * 14]] and scores == [[-1.0, -1e9]]
