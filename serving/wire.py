"""The data between client and server: the metadata of a model, and messages of TensorFlow Serving's gRPC interface.

Only the messages that the client and the warm-up file need, with the field numbers of
`tensorflow_serving/apis/{predict,model,prediction_log,get_model_status}.proto` and
`tensorflow/core/framework/{tensor,tensor_shape}.proto`, so that the bytes are the same. The stubs of
`tensorflow-serving-api` import TensorFlow, which a client machine needn't have. Tests compare the two.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PREDICT = "/tensorflow.serving.PredictionService/Predict"
MODEL_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "float": _Field.TYPE_FLOAT,
}
# message -> field -> (number, type); `*` marks a repeated field, `map` one from strings to the type.
_MESSAGES = {
    "Dim": {"size": (1, "int64")},
    "Shape": {"dim": (2, "*Dim")},
    "Tensor": {
        "dtype": (1, "int32"),
        "tensor_shape": (2, "Shape"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "*float"),
        "string_val": (8, "*bytes"),
    },
    "Version": {"value": (1, "int64")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Version"),
        "signature_name": (3, "string"),
        "version_label": (4, "string"),
    },
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "map Tensor")},
    "PredictResponse": {"outputs": (1, "map Tensor"), "model_spec": (2, "ModelSpec")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "PredictionLog": {"predict_log": (6, "PredictLog")},
    "StatusRequest": {"model_spec": (1, "ModelSpec")},
    "VersionStatus": {"version": (1, "int64"), "state": (2, "int32")},
    "StatusResponse": {"model_version_status": (1, "*VersionStatus")},
}
FLOAT, UINT8, STRING = 1, 4, 7
AVAILABLE = 30


@dataclass(frozen=True)
class Metadata:
    """The metadata of a SavedModel, in its `metadata` signature and in `assets.extra/metadata.json`.

    Attributes:
        model: a name of the registry, or the name of the Keras model.
        class_names: in the order of the columns of `probabilities`; valid UTF-8, since they are sent as JSON.
        image_size: height and width of the network's input in px.
        channels: 3 (RGB) or 1 (gray).
        heads: names of the outputs, such as ("class",), in the order of the registry.
        run: name of the run folder; empty when the model comes from elsewhere.
        details: library versions, git commit, seed, number of parameters, data and test metrics, where known.
    """

    model: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int = 3
    heads: tuple[str, ...] = ("class",)
    run: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def further_heads(self) -> tuple[str, ...]:
        """The heads other than `class`, each of which returns a value under its name."""
        return tuple(head for head in self.heads if head != "class")

    def to_json(self) -> str:
        """One JSON object, keys sorted."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Reads what `to_json` wrote; raises ValueError, TypeError or KeyError on anything else."""
        fields = json.loads(text)
        return cls(**{**fields, "class_names": tuple(fields["class_names"]), "heads": tuple(fields["heads"])})


def _field(message: Any, name: str, number: int, kind: str) -> None:
    is_map = kind.startswith("map ")
    field = message.field.add(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if is_map or kind.startswith("*") else _Field.LABEL_OPTIONAL
    kind = kind.removeprefix("*")
    if is_map:
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _field(entry, "key", 1, "string")
        _field(entry, "value", 2, kind.removeprefix("map "))
        kind = f"{message.name}.{entry.name}"
    field.type = _SCALARS.get(kind, _Field.TYPE_MESSAGE)
    if kind not in _SCALARS:
        field.type_name = f".darkroom.{kind}"


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="darkroom.proto", package="darkroom", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for key, (number, kind) in fields.items():
            _field(message, key, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"darkroom.{name}")) for name in _MESSAGES}


_CLASSES = _classes()
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
PredictionLog = _CLASSES["PredictionLog"]
StatusRequest = _CLASSES["StatusRequest"]
StatusResponse = _CLASSES["StatusResponse"]


def predict_request(model: str, signature: str, name: str, values: list[bytes]) -> Any:
    """A PredictRequest that passes `signature` the strings `values`, shape (batch,), as its input `name`."""
    request, tensor = _request(model, signature, name, STRING, (len(values),))
    tensor.string_val.extend(values)
    return request


def pixels_request(model: str, shape: tuple[int, ...], pixels: bytes) -> Any:
    """A PredictRequest that passes the signature `pixels` uint8 numbers of `shape`, in row-major order."""
    request, tensor = _request(model, "pixels", "pixels", UINT8, shape)
    tensor.tensor_content = pixels
    return request


def _request(model: str, signature: str, name: str, dtype: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    tensor = request.inputs[name]
    tensor.dtype = dtype
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return request, tensor
