"""Warm-up requests for TensorFlow Serving, so that no user waits for the first call.

Serving replays assets.extra/tf_serving_warmup_requests when it loads a version: a TFRecord file of PredictionLog messages. The few
fields that are needed are written here by their numbers in prediction_log.proto and predict.proto, because the package that
holds those messages pins TensorFlow.
"""

from pathlib import Path

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"


def write_warm_up(folder, name: str, requests: dict) -> None:
    """Writes one request of each signature.

    Args:
        folder: of the version, where saved_model.pb lies.
        name: under which the model is served. Serving takes any here.
        requests: {signature: {input: NumPy array}}.
    """
    import tensorflow as tf

    path = Path(folder) / WARM_UP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests.items():
            specification = _field(1, name.encode()) + _field(3, signature.encode())  # ModelSpec: name, signature_name
            request = _field(1, specification)  # PredictRequest: model_spec
            for key, array in inputs.items():
                tensor = tf.make_tensor_proto(array).SerializeToString()
                request += _field(2, _field(1, key.encode()) + _field(2, tensor))  # PredictRequest: inputs
            writer.write(_field(6, _field(1, request)))  # PredictionLog: predict_log, its request


def _field(number, content):
    """A length-delimited field of a protocol buffer."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    groups = bytearray()
    while True:
        value, group = value >> 7, value & 0x7F
        groups.append(group | (0x80 if value else 0))
        if not value:
            return bytes(groups)
