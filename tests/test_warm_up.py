"""Warm-up requests, read with message types built from TensorFlow Serving's published field numbers."""

import keras
import numpy as np
import pytest

from keras_transformer.export.warm_up import WARM_UP_FILE, write_warm_up

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="does not depend on the backend")


def log_type():
    """PredictionLog and what it holds, as prediction_log.proto, predict.proto and model.proto have them."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto(
        name="warm_up_test.proto", package="warm_up_test", syntax="proto3", dependency=[tensor_pb2.DESCRIPTOR.name]
    )
    fields = {
        "ModelSpec": [("name", 1, "string"), ("signature_name", 3, "string")],
        "Entry": [("key", 1, "string"), ("value", 2, ".tensorflow.TensorProto")],
        "PredictRequest": [("model_spec", 1, ".warm_up_test.ModelSpec"), ("inputs", 2, "repeated .warm_up_test.Entry")],
        "PredictLog": [("request", 1, ".warm_up_test.PredictRequest")],
        "PredictionLog": [("predict_log", 6, ".warm_up_test.PredictLog")],
    }
    for name, rows in fields.items():
        message = file.message_type.add(name=name)
        for field, number, kind in rows:
            label = 3 if kind.startswith("repeated") else 1
            kind = kind.removeprefix("repeated ")
            if kind == "string":
                message.field.add(name=field, number=number, label=label, type=9)
            else:
                message.field.add(name=field, number=number, label=label, type=11, type_name=kind)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("warm_up_test.PredictionLog"))


def test_requests_are_prediction_logs(tmp_path):
    inputs = {"source": np.array([[4, 3]], "int32"), "keys": np.zeros((1, 2, 0, 300), "float32")}
    write_warm_up(tmp_path, "en-de", {"serving_default": {"source": inputs["source"]}, "decode_step": inputs})
    Log = log_type()
    logs = [Log.FromString(one.numpy()) for one in tf.data.TFRecordDataset(str(tmp_path / WARM_UP_FILE))]
    requests = [log.predict_log.request for log in logs]
    assert [one.model_spec.name for one in requests] == ["en-de", "en-de"]
    assert [one.model_spec.signature_name for one in requests] == ["serving_default", "decode_step"]
    found = {entry.key: tf.make_ndarray(entry.value) for entry in requests[1].inputs}
    assert found.keys() == inputs.keys()
    for name, array in inputs.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
