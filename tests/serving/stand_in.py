"""Answers like TensorFlow Serving, from the same SavedModel, where there is no TensorFlow Serving.

For trying the client out and for tests: `python -m tests.serving.stand_in --model_dir=RUN/export`. It listens on this
machine only, loads one version, doesn't batch, and is no server for production.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from absl import flags

import cli
from errors import UserError
from models import saved_models
from serving import wire

_HOST = "127.0.0.1"
_STATUS = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "UNAVAILABLE": 503, "RESOURCE_EXHAUSTED": 429, "INTERNAL": 500}


class RefusedError(Exception):
    """An answer with an error code: `RefusedError("UNAVAILABLE", "the queue is full")`."""


@dataclass(frozen=True)
class Served:
    """One loaded version.

    Attributes:
        name: the model's name.
        version: its number.
        loaded: what `tf.saved_model.load` gave.
        before: called before each answer; may sleep, or raise `RefusedError`, to play a slow or a full server.
        labels: of the versions that were asked for, one per request; None for the newest version.
    """

    name: str
    version: int
    loaded: Any
    before: Callable[[], None] = lambda: None
    labels: list[str | None] = field(default_factory=list)

    def answer(self, name: str, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        """Calls a signature; raises `RefusedError` as TensorFlow Serving would."""
        self.before()
        if name != self.name:
            raise RefusedError("NOT_FOUND", f"Servable not found for request: Latest({name})")
        function = self.loaded.signatures.get(signature)
        if function is None:
            raise RefusedError("INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def')
        specs = function.structured_input_signature[1]
        if set(specs) != set(inputs):
            raise RefusedError("INVALID_ARGUMENT", f"input must be {', '.join(specs)}; received {', '.join(inputs)}")
        try:
            tensors = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
            return {key: value.numpy() for key, value in function(**tensors).items()}
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise RefusedError("INVALID_ARGUMENT", str(error)[:500]) from error


def load(model_dir: str, name: str = "darkroom", before: Callable[[], None] = lambda: None) -> Served:
    """Loads the highest version in `model_dir`.

    Raises:
        UserError: there is none.
    """
    found = saved_models.versions(model_dir)
    if not found:
        raise UserError(
            f"--model_dir must hold versions that export.py has written, such as {model_dir}/1. Received: none. "
            "Run `python export.py --run=RUN` and pass --model_dir=RUN/export."
        )
    return Served(name, found[-1], saved_models.load(os.path.join(model_dir, str(found[-1]))), before)


@contextlib.contextmanager
def running(served: Served, grpc_port: int = 0, rest_port: int = 0) -> Iterator[tuple[str, str]]:
    """Answers in the background; yields the addresses for gRPC and HTTP. Port 0 takes a free one."""
    grpc_server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
    grpc_server.add_generic_rpc_handlers([_grpc_handler(served)])
    http_server = ThreadingHTTPServer((_HOST, rest_port), _http_handler(served))
    thread = threading.Thread(target=http_server.serve_forever, daemon=True)
    try:
        grpc_port = grpc_server.add_insecure_port(f"{_HOST}:{grpc_port}")
        grpc_server.start()
        thread.start()
        yield f"{_HOST}:{grpc_port}", f"{_HOST}:{http_server.server_port}"
    finally:
        grpc_server.stop(grace=None).wait()
        if thread.is_alive():
            http_server.shutdown()
        http_server.server_close()


def _grpc_handler(served: Served) -> grpc.GenericRpcHandler:
    def predict(request: Any, context: grpc.ServicerContext) -> Any:
        inputs = {key: list(tensor.string_val) for key, tensor in request.inputs.items()}
        spec = request.model_spec
        served.labels.append(spec.version_label or None)
        try:
            outputs = served.answer(spec.name, spec.signature_name or "serving_default", inputs)
        except RefusedError as error:
            code, details = error.args
            context.abort(grpc.StatusCode[code], details)
        response = wire.PredictResponse()
        response.model_spec.CopyFrom(spec)
        response.model_spec.version.value = served.version
        for key, value in outputs.items():
            _fill(response.outputs[key], value)
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        predict,
        request_deserializer=wire.PredictRequest.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )
    service, method = wire.PREDICT.strip("/").split("/")
    return grpc.method_handlers_generic_handler(service, {method: handler})


def _fill(tensor: Any, value: np.ndarray) -> None:
    for size in value.shape:
        tensor.tensor_shape.dim.add(size=size)
    if value.dtype == object:
        tensor.dtype = wire.STRING
        tensor.string_val.extend(value.ravel().tolist())
    else:
        tensor.dtype = wire.FLOAT
        tensor.float_val.extend(value.ravel().tolist())


def _http_handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body go out separately; the second would wait 40 ms for the first one's acknowledgement.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if self.path != f"/v1/models/{served.name}":
                return self._send(404, {"error": f"Malformed request: GET {self.path}"})
            status = {"version": str(served.version), "state": "AVAILABLE", "status": {"error_code": "OK"}}
            return self._send(200, {"model_version_status": [status]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            match = re.fullmatch(r"/v1/models/([^/:]+)(?:/versions/\d+|/labels/([^/:]+))?:predict", self.path)
            if not match:
                return self._send(404, {"error": f"Malformed request: POST {self.path}"})
            served.labels.append(match[2])
            try:
                return self._send(200, _predict_json(served, match[1], body))
            except RefusedError as error:
                return self._send(_STATUS[error.args[0]], {"error": error.args[1]})

        def _send(self, status: int, answer: dict) -> None:
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """A line for each request would drown everything else."""

    return Handler


def _predict_json(served: Served, name: str, body: bytes) -> dict:
    try:
        request = json.loads(body)
        signature = request.get("signature_name", "serving_default")
        is_columns = "inputs" in request
        inputs = _decoded(request["inputs"] if is_columns else _columns(request["instances"]))
    except (ValueError, KeyError, AttributeError) as error:
        raise RefusedError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    if not isinstance(inputs, dict):
        names = list(served.loaded.signatures[signature].structured_input_signature[1])
        inputs = {names[0]: inputs}
    outputs = {key: _plain(value) for key, value in served.answer(name, signature, inputs).items()}
    if is_columns:
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return {"predictions": rows if len(outputs) > 1 else next(iter(outputs.values()))}


def _columns(instances: list) -> Any:
    if instances and isinstance(instances[0], dict) and "b64" not in instances[0]:
        return {key: [row[key] for row in instances] for key in instances[0]}
    return instances


def _decoded(value: Any) -> Any:
    """`{"b64": ...}` as bytes, at any depth."""
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    if isinstance(value, dict):
        return {key: _decoded(entry) for key, entry in value.items()}
    return [_decoded(entry) for entry in value] if isinstance(value, list) else value


def _plain(value: np.ndarray) -> list:
    return [text.decode() for text in value] if value.dtype == object else value.tolist()


def define_flags() -> None:
    """Defines the stand-in's flags."""
    flags.DEFINE_string("model_dir", None, "Folder of the versions, such as RUN/export.", required=True)
    flags.DEFINE_string("model_name", "darkroom", "Name to serve the model under.")
    flags.DEFINE_integer("grpc_port", 8500, "Port for gRPC, on this machine only.", 1, 65535)
    flags.DEFINE_integer("rest_port", 8501, "Port for HTTP, on this machine only.", 1, 65535)


def main(argv: list[str]) -> None:
    """Serves until it is interrupted."""
    options = flags.FLAGS
    served = load(options.model_dir, options.model_name)
    try:
        with running(served, options.grpc_port, options.rest_port) as (grpc_address, rest_address):
            print(f"Version {served.version} of {served.name}: gRPC on {grpc_address}, HTTP on {rest_address}.")
            print("Ctrl-C ends it.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                threading.Event().wait()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The ports {options.grpc_port} and {options.rest_port} must be free. Received: {error}"
        ) from error


if __name__ == "__main__":
    define_flags()
    cli.run(main, outlives_output=True)
