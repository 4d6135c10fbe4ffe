from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from data.decode import decode
from serving import export, wire
from tests.serving.conftest import about

predict_pb2 = pytest.importorskip(
    "tensorflow_serving.apis.predict_pb2", reason="tensorflow-serving-api, with the published messages, isn't installed"
)
from tensorflow_serving.apis import get_model_status_pb2, prediction_log_pb2  # noqa: E402


def published_request() -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "darkroom"
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([b"one", b"two"]))
    return request


def test_a_request_has_the_bytes_of_the_published_message() -> None:
    ours = wire.predict_request("darkroom", "serving_default", "image_bytes", [b"one", b"two"])
    assert predict_pb2.PredictRequest.FromString(ours.SerializeToString()) == published_request()
    assert wire.PredictRequest.FromString(published_request().SerializeToString()) == ours


def test_versions_and_labels() -> None:
    request = wire.predict_request("m", "s", "x", [b""])
    request.model_spec.version_label = "canary"
    assert predict_pb2.PredictRequest.FromString(request.SerializeToString()).model_spec.version_label == "canary"
    response = wire.PredictResponse()
    response.model_spec.version.value = 7
    assert predict_pb2.PredictResponse.FromString(response.SerializeToString()).model_spec.version.value == 7


@pytest.mark.parametrize("value", [np.arange(6, dtype=np.float32).reshape(3, 2), np.array([b"a", b"b"], object)])
def test_a_published_response_is_read(value: np.ndarray) -> None:
    response = predict_pb2.PredictResponse()
    response.outputs["x"].CopyFrom(tf.make_tensor_proto(value))
    tensor = wire.PredictResponse.FromString(response.SerializeToString()).outputs["x"]
    assert [dim.size for dim in tensor.tensor_shape.dim] == list(value.shape)
    assert tensor.dtype == (wire.STRING if value.dtype == object else wire.FLOAT)


def test_the_status_messages() -> None:
    request = wire.StatusRequest()
    request.model_spec.name = "m"
    assert get_model_status_pb2.GetModelStatusRequest.FromString(request.SerializeToString()).model_spec.name == "m"
    response = get_model_status_pb2.GetModelStatusResponse()
    response.model_version_status.add(version=3, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
    (status,) = wire.StatusResponse.FromString(response.SerializeToString()).model_version_status
    assert (status.version, status.state) == (3, wire.AVAILABLE)


def warmup_requests(folder: pathlib.Path) -> list[predict_pb2.PredictRequest]:
    records = list(tf.data.TFRecordDataset(str(folder / export.WARMUP_FILE)).as_numpy_iterator())
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert {log.WhichOneof("log_type") for log in logs} == {"predict_log"}
    return [log.predict_log.request for log in logs]


def test_every_warmup_request_is_answered_by_the_model(published: pathlib.Path) -> None:
    loaded = tf.saved_model.load(str(published / "1"))
    requests = warmup_requests(published / "1")
    assert 1 <= len(requests) <= 1000
    for request in requests:
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        answers = loaded.signatures[request.model_spec.signature_name](**inputs)
        assert not any(answers.get("error", tf.constant([b""])).numpy())
    sizes = [len(request.inputs["image_bytes"].string_val) for request in requests if "image_bytes" in request.inputs]
    assert sizes == [1, 1, 8]
    # Also the other signatures, each of which the server would otherwise prepare for its first client.
    assert {request.model_spec.signature_name for request in requests} == set(loaded.signatures)


def test_warmup_images_are_of_the_size_that_they_warm(tmp_path: pathlib.Path) -> None:
    export.write_warmup(str(tmp_path), about(channels=1, image_size=32))
    png, jpeg, _, pixels, _ = warmup_requests(tmp_path)
    assert tf.make_ndarray(pixels.inputs["pixels"]).shape == (1, 32, 32, 1)
    for request in (png, jpeg):
        (image,) = request.inputs["image_bytes"].string_val
        assert decode(tf.constant(image), 32, 1).shape == (32, 32, 1)


def test_the_metadata_file_stands_beside_the_warmup(published: pathlib.Path) -> None:
    names = {path.name for path in (published / "1" / "assets.extra").iterdir()}
    assert names == {"metadata.json", "tf_serving_warmup_requests"}
    assert pathlib.Path(export.METADATA_FILE).parent == pathlib.Path(export.WARMUP_FILE).parent
