"""Calls TensorFlow Serving over gRPC or HTTP, with retries, and explains its refusals.

Imports neither TensorFlow nor Keras: a client machine needs only grpcio, protobuf, requests and NumPy.
"""

from __future__ import annotations

import base64
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import numpy as np
import requests

from errors import UserError
from serving import wire

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# A server that restarts is soon back; one that doesn't run should be reported soon.
_DOWN_SECONDS = 3.0
_CONNECT_SECONDS = 3.0
_CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The server is reached directly; gRPC would send even localhost through $http_proxy.
    ("grpc.enable_http_proxy", 0),
    # Otherwise a channel that has failed once refuses calls for more than a second without trying.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_BUSY_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.ABORTED)
_BUSY_STATUS = (429, 502, 503)

Columns = dict[str, list[Any]]


class BusyError(Exception):
    """The server can't answer now, but may do so soon.

    Attributes:
        is_down: whether no server could be reached.
    """

    def __init__(self, message: str, *, is_down: bool) -> None:
        super().__init__(message)
        self.is_down = is_down


class WaitedError(Exception):
    """There was no answer within the deadline."""


@dataclass(frozen=True)
class Target:
    """A model on a server.

    Attributes:
        server: `host:port`, or for HTTP also `https://host:port`.
        model: the model's name on the server.
        label: a version label of the server's configuration, such as `canary`; None for the newest version.
    """

    server: str
    model: str
    label: str | None = None


@dataclass(frozen=True)
class Patience:
    """How long to wait for the answer to one request.

    Attributes:
        deadline_seconds: from the first attempt to the answer, pauses included.
        sleep: replaced in tests.
    """

    deadline_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep


class Transport(Protocol):
    """A way to call a signature."""

    target: Target

    def call(self, signature: str, name: str, values: list[bytes], seconds: float) -> Columns:
        """Passes `signature` the strings `values` as its input `name`; returns a list with an entry per row, by output.

        Raises:
            BusyError: the call may succeed later.
            WaitedError: no answer within `seconds`.
            UserError: the call would fail again.
        """
        ...


def call(transport: Transport, signature: str, name: str, values: list[bytes], patience: Patience) -> Columns:
    """As `Transport.call`, with retries while the server is busy, after random pauses that double.

    urllib3's `Retry` counts attempts and handles only HTTP; here one deadline covers gRPC and HTTP.

    Raises:
        UserError: the server is down, too busy for longer than the deadline, or refuses the request.
    """
    start = time.monotonic()
    end = start + patience.deadline_seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return transport.call(signature, name, values, max(end - time.monotonic(), 0.001))
        except WaitedError as error:
            raise _too_slow(transport.target, patience) from error
        except BusyError as error:
            wait = pause * random.uniform(0.5, 1.0)
            limit = min(end, start + _DOWN_SECONDS) if error.is_down else end
            if time.monotonic() + wait > limit:
                raise _gave_up(transport.target, error, patience) from error
            patience.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class Grpc:
    """Calls over gRPC. Safe to use from several threads."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._channel = grpc.insecure_channel(target.server, options=_CHANNEL_OPTIONS)
        self._predict = self._channel.unary_unary(
            wire.PREDICT,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=wire.PredictResponse.FromString,
        )

    def call(self, signature: str, name: str, values: list[bytes], seconds: float) -> Columns:
        """See `Transport.call`."""
        request = wire.predict_request(self.target.model, signature, name, values)
        if self.target.label:
            request.model_spec.version_label = self.target.label
        try:
            response = self._predict(request, timeout=seconds)
        except grpc.RpcError as error:
            raise self._explained(error.code(), error.details() or "") from error
        return {key: _rows(tensor) for key, tensor in response.outputs.items()}

    def _explained(self, code: grpc.StatusCode, details: str) -> Exception:
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return WaitedError(details)
        if code in _BUSY_CODES:
            return BusyError(details, is_down=any(word in details.lower() for word in ("connect", "dns", "socket")))
        if code == grpc.StatusCode.NOT_FOUND:
            return _unknown_model(self.target, details)
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return _not_a_server(self.target, details)
        return refused(self.target, f"{code.name}: {details}")


class Rest:
    """Calls over HTTP. Safe to use from several threads."""

    def __init__(self, target: Target, connections: int = 1) -> None:
        self.target = target
        root = target.server if "://" in target.server else f"http://{target.server}"
        label = f"/labels/{target.label}" if target.label else ""
        self._url = f"{root.rstrip('/')}/v1/models/{target.model}{label}:predict"
        self._session = requests.Session()
        # As with gRPC, the server is reached directly, without proxies from the environment.
        self._session.trust_env = False
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=connections)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def call(self, signature: str, name: str, values: list[bytes], seconds: float) -> Columns:
        """See `Transport.call`."""
        body = request_body(signature, name, values)
        try:
            limits = (min(_CONNECT_SECONDS, seconds), seconds)
            response = self._session.post(
                self._url, data=body, timeout=limits, headers={"Content-Type": "application/json"}
            )
        except requests.ReadTimeout as error:
            raise WaitedError(str(error)) from error
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError) as error:
            raise BusyError(str(error), is_down=True) from error
        except requests.RequestException as error:
            raise refused(self.target, str(error)) from error
        if response.status_code != 200:
            raise self._explained(response)
        return self._columns(response, signature)

    def _explained(self, response: requests.Response) -> Exception:
        text = _error_text(response)
        if response.status_code == 504:
            return WaitedError(text)
        if response.status_code in _BUSY_STATUS:
            return BusyError(text, is_down=False)
        if response.status_code == 404:
            return _unknown_model(self.target, text)
        return refused(self.target, f"HTTP {response.status_code}: {text}")

    def _columns(self, response: requests.Response, signature: str) -> Columns:
        try:
            outputs = response.json()["outputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise _not_a_server(self.target, response.text[:200]) from error
        # The server leaves out the name of a single output.
        return outputs if isinstance(outputs, dict) else {signature: outputs}


def request_body(signature: str, name: str, values: list[bytes]) -> bytes:
    """The JSON of a predict request: 4/3 of the files' size and a few bytes per image."""
    encoded = [{"b64": base64.b64encode(value).decode("ascii")} for value in values]
    body = {"signature_name": signature, "inputs": {name: encoded}}
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def _unknown_model(target: Target, details: str) -> UserError:
    """The server runs, but doesn't have the model."""
    label = f" with the label {target.label}" if target.label else ""
    return UserError(
        f"The server at {target.server} must have a model named {target.model}{label} that has finished loading. "
        f"It answered: {details}. Pass --model_name=NAME as in the server's models.config, check --version_label, or "
        "wait until the server's log says that the version is loaded."
    )


def refused(target: Target, details: str) -> UserError:
    """The server has the model, but not as this project exports it."""
    return UserError(
        f"The model {target.model} at {target.server} must be one that export.py has written. It answered: {details}. "
        "Check --server (gRPC 8500, with --rest 8501) and --model_name."
    )


def _not_a_server(target: Target, details: str) -> UserError:
    """Another program listens at the address."""
    return UserError(
        f"--server={target.server} must be the address of a TensorFlow Serving: its gRPC port, usually 8500, or with "
        f"--rest its HTTP port, usually 8501. Something else answered: {details}"
    )


def _too_slow(target: Target, patience: Patience) -> UserError:
    return UserError(
        f"The server at {target.server} must answer within {patience.deadline_seconds:g} seconds, and didn't. Pass a "
        "longer --deadline_seconds, a smaller --batch_size, or look at the server's load."
    )


def _gave_up(target: Target, error: BusyError, patience: Patience) -> UserError:
    if error.is_down:
        return UserError(
            f"No server can be reached at --server={target.server}. Start TensorFlow Serving (see serving/README.md), "
            f"or check the host, the port (gRPC 8500, with --rest 8501) and the firewall. Received: {error}"
        )
    return UserError(
        f"The server at {target.server} has been too busy for {patience.deadline_seconds:g} seconds. Try again later, "
        "pass a longer --deadline_seconds or a smaller --parallel, or give the server more cores or a longer queue "
        f"(max_enqueued_batches in batching.config). It answered: {error}"
    )


def _rows(tensor: Any) -> list[Any]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype == wire.STRING:
        values = np.array([value.decode("utf-8", "surrogateescape") for value in tensor.string_val], object)
    elif tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, "<f4")
    else:
        values = np.array(tensor.float_val, np.float32)
    # A sender may leave out repeated last values.
    missing = math.prod(shape) - len(values)
    return np.concatenate([values, np.repeat(values[-1:], missing)]).reshape(shape).tolist()


def _error_text(response: requests.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
