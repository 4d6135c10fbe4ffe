"""The flags that say which model on which server, shared by the client and the check."""

from __future__ import annotations

import re

from absl import flags

from errors import UserError
from serving.asking import Patience
from serving.transport import Grpc, Rest, Target, Transport

_HOST_AND_PORT = re.compile(r"(https?://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})/?")


def define_flags() -> None:
    """Defines the flags that say where the server is and how to ask it."""
    flags.DEFINE_string(
        "server", None, "HOST:PORT of TensorFlow Serving. Default: localhost:8500, with --rest localhost:8501."
    )
    flags.DEFINE_boolean("rest", False, "Ask over HTTP and JSON instead of gRPC.")
    flags.DEFINE_string("model_name", "darkroom", "Name under which the server has the model.")
    flags.DEFINE_string(
        "version_label", None, "Version label of the server's configuration, such as canary. Default: newest version."
    )
    flags.DEFINE_integer("batch_size", 32, "Images per request, 1 or more.", lower_bound=1)
    flags.DEFINE_float(
        "deadline_seconds", 30.0, "Seconds for one request with all its retries, above 0.", lower_bound=0.001
    )


def connect(values: flags.FlagValues, connections: int = 1) -> tuple[Transport, Patience]:
    """The transport and the patience that the flags ask for, with room for `connections` requests at a time.

    Raises:
        UserError: the address is none.
    """
    server = values.server or f"localhost:{8501 if values.rest else 8500}"
    check_address(server, is_rest=values.rest)
    target = Target(server, values.model_name, values.version_label)
    transport = Rest(target, connections) if values.rest else Grpc(target)
    return transport, Patience(values.deadline_seconds)


def check_address(server: str, *, is_rest: bool) -> None:
    """Raises `UserError` unless `server` is an address for gRPC or, with `is_rest`, for HTTP."""
    match = _HOST_AND_PORT.fullmatch(server)
    if not match or not 0 < int(match[3]) < 65536 or (match[1] and not is_rest):
        schemes = ", with or without http:// or https:// in front" if is_rest else ""
        raise UserError(
            f"--server must be HOST:PORT{schemes}, such as localhost:{8501 if is_rest else 8500}. "
            f"Received: --server={server}"
        )
