"""Starts one process of a `tf.data` service: `python -m data.serve --port=5050`, then a worker on each host.

Workers decode and augment for `train.py --data_service=grpc://HOST:5050`. They need this TensorFlow version and the
images under the same paths as the training.
"""

from __future__ import annotations

import signal
import socket
import threading

from absl import flags

import cli
import errors
import startup
from data.service_address import host_and_port

_PORT = flags.DEFINE_integer("port", 0, "TCP port to listen on, 0 for any free one.", lower_bound=0, upper_bound=65535)
_DISPATCHER = flags.DEFINE_string(
    "dispatcher", None, "grpc://HOST:PORT of this worker's dispatcher. Without it, this process is the dispatcher."
)
_HOST = flags.DEFINE_string(
    "host", None, "Name or address at which trainings reach this worker. Default: the machine's name."
)


def main(argv: list[str]) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    if argv[1:]:
        raise errors.UserError(f"data.serve takes flags only, such as --port=5050. Received: {' '.join(argv[1:])}.")
    startup.load_tensorflow()
    server, what = _worker() if _DISPATCHER.value else _dispatcher()
    print(f"{what}. Ctrl-C or SIGTERM ends it.", flush=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    del server


def _dispatcher() -> tuple[object, str]:
    import tensorflow as tf

    service = tf.data.experimental.service
    try:
        server = service.DispatchServer(service.DispatcherConfig(port=_PORT.value, protocol="grpc"))
    except (RuntimeError, tf.errors.OpError) as error:
        raise _port_taken(error) from error
    port = server.target.rpartition(":")[2]
    return server, f"Dispatcher at grpc://{socket.gethostname()}:{port}"


def _worker() -> tuple[object, str]:
    import tensorflow as tf

    service = tf.data.experimental.service
    dispatcher = host_and_port(_DISPATCHER.value or "", "--dispatcher")
    # TensorFlow replaces %port% by the port it gets.
    host = _HOST.value or socket.gethostname()
    config = service.WorkerConfig(dispatcher, f"{host}:%port%", port=_PORT.value, protocol="grpc")
    try:
        server = service.WorkerServer(config)
    except (RuntimeError, tf.errors.OpError) as error:
        raise _port_taken(error) from error
    return server, f"Worker at {host}, for the dispatcher at {dispatcher}"


def _port_taken(error: Exception) -> errors.UserError:
    first = str(error).splitlines()[0][:200]
    return errors.UserError(f"data.serve needs port {_PORT.value} of this host. TensorFlow said: {first}.")


if __name__ == "__main__":
    cli.run(main, outlives_output=True)
