"""The predict call of TensorFlow Serving's REST API, so that its clients need no change.

``instances`` lists rows, and the reply has ``predictions``; ``inputs`` lists columns, and the reply has ``outputs``. What goes
in and comes out is that of the SavedModel's signatures serving_default and translate_text. A text may come as {"b64": ...}.
"""

import base64
import binascii

import numpy as np

from keras_transformer.decoding.rules import Rules
from keras_transformer.serving.gate import Refused
from keras_transformer.serving.schema import PredictRequest

SIGNATURES = {"serving_default": "source", "translate_text": "text"}


def rows_of(request: PredictRequest) -> tuple[list, bool]:
    """The rows of a PredictRequest, and whether they came by row.

    Raises:
        Refused: an unknown signature or input, or neither or both of instances and inputs.
    """
    if request.signature_name not in SIGNATURES:
        raise Refused(
            400, f"signature_name must be one of {', '.join(SIGNATURES)}. Received: {request.signature_name[:80]!r}."
        )
    if (request.instances is None) == (request.inputs is None):
        raise Refused(400, "Expected either instances (rows) or inputs (columns).")
    name = SIGNATURES[request.signature_name]
    if request.instances is not None:
        rows = [
            _named(row, name) if isinstance(row, dict) and not _is_encoded(row) else row for row in request.instances
        ]
    else:
        rows = _named(request.inputs, name) if isinstance(request.inputs, dict) else request.inputs
    return [_decoded(row, number) for number, row in enumerate(rows)], request.instances is not None


def _is_encoded(value):
    return isinstance(value, dict) and set(value) == {"b64"}


def _decoded(row, number):
    """A row as it is, or the text that it holds in base64."""
    if not _is_encoded(row):
        return row
    try:
        return base64.b64decode(row["b64"], validate=True).decode("utf-8")
    except (binascii.Error, ValueError, TypeError) as error:
        raise Refused(422, f"Row {number} is no text of UTF-8 in base64: {error}.") from None


def _named(inputs, name):
    if set(inputs) != {name}:
        raise Refused(400, f"Expected the input {name!r} and no other. Received: {[key[:40] for key in inputs][:5]}.")
    return inputs[name]


def checked_ids(rows: list, tokenizer, max_pieces: int) -> list:
    """Rows of source ids without their padding.

    Raises:
        Refused: a row is no list of ids of the vocabulary, or does not end with eos.
    """
    checked = []
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise Refused(422, f"Row {number} must be a list of ids.")
        length = len(row)  # without padding; counted first, since a row may hold as many ids as a body has room for
        while length and row[length - 1] == tokenizer.pad_id:
            length -= 1
        row = row[:length]
        if not row or row[-1] != tokenizer.eos_id or max(row) >= tokenizer.vocabulary_size or tokenizer.pad_id in row:
            raise Refused(
                422,
                f"Row {number} must hold ids below {tokenizer.vocabulary_size}, end with eos_id {tokenizer.eos_id}, and have "
                f"pad_id {tokenizer.pad_id} behind that only.",
            )
        if len(row) > max_pieces:
            raise Refused(422, f"Row {number} has {len(row)} ids. At most {max_pieces} are translated at a time.")
        checked.append(row)
    return checked


def metadata(name: str, version: int) -> dict:
    """The signatures, as TensorFlow Serving's metadata call tells them."""

    def tensor(dtype, *sizes):
        dims = [{"size": str(size), "name": ""} for size in sizes]
        return {"dtype": dtype, "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": ""}

    def signature(inputs, outputs):
        return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}

    signatures = {
        "serving_default": signature(
            {"source": tensor("DT_INT32", -1, -1)},
            {"ids": tensor("DT_INT32", -1, -1, -1), "scores": tensor("DT_FLOAT", -1, -1)},
        ),
        "translate_text": signature({"text": tensor("DT_STRING", -1)}, {"translation": tensor("DT_STRING", -1)}),
    }
    model = {"name": name, "signature_name": "", "version": str(version)}
    return {"model_spec": model, "metadata": {"signature_def": {"signature_def": signatures}}}


def as_arrays(found: list, sources: list, pad_id: int) -> tuple[list, list]:
    """What serving_default gives: ids (B, W, L) and scores (B, W), L being the limit of the longest source."""
    longest = max(Rules().limit(len(source)) for source in sources)
    longest = max(longest, max(len(ids) for hypotheses in found for ids, _ in hypotheses))
    ids = np.full((len(found), len(found[0]), longest), pad_id)
    for rows, hypotheses in zip(ids, found, strict=True):
        for row, (hypothesis, _) in zip(rows, hypotheses, strict=True):
            row[: len(hypothesis)] = hypothesis
    return ids.tolist(), [[score for _, score in hypotheses] for hypotheses in found]
