"""Batches made on other hosts by a `tf.data` service: finding it, using it, and detecting its loss.

`python -m data.serve` starts its dispatcher and its workers.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator

import grpc
import tensorflow as tf

from data.service_address import host_and_port
from errors import UserError

# How long to wait for the dispatcher and its first worker at the start.
WAIT_SECONDS = 30.0
# How long the service may be silent before a training ends; TensorFlow alone would wait forever.
LOST_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_MISSING = re.compile("was expected to contain .* but contained only")


class ServiceLostError(UserError):
    """The dispatcher or a worker has ended, or can't be reached."""

    # The same as for a lost training worker: worth a retry.
    exit_code = 138


def find(address: str, seconds: float = WAIT_SECONDS) -> None:
    """Waits until the dispatcher answers and has workers that can be reached.

    Args:
        address: `grpc://HOST:PORT`.
        seconds: to wait at most.

    Raises:
        UserError: no dispatcher answers, it has no worker, or one can't be reached.
    """
    deadline = time.monotonic() + seconds
    while problem := _problem(address, max(deadline - time.monotonic(), 0.1), set()):
        if time.monotonic() > deadline:
            raise UserError(
                "`data_service` must be the dispatcher of a tf.data service with at least one worker. Received: "
                f"{address}, and after {seconds:.0f} seconds {problem}. Start them by `python -m data.serve "
                "--port=5050` and `python -m data.serve --dispatcher=grpc://HOST:5050`, or leave out `data_service`."
            )
        time.sleep(min(_PAUSE_SECONDS, seconds / 10))


def distributed(batches: tf.data.Dataset, address: str) -> tf.data.Dataset:
    """`batches`, each made once by one of the service's workers, in order of arrival.

    Every iteration is a separate job.

    Args:
        batches: made from a range of numbers, which the workers get on request.
        address: `grpc://HOST:PORT`.
    """
    service = tf.data.experimental.service
    return batches.prefetch(tf.data.AUTOTUNE).apply(
        service.distribute(processing_mode=service.ShardingPolicy.DYNAMIC, service=address)
    )


@contextlib.contextmanager
def watched(address: str | None, seconds: float = LOST_SECONDS) -> Iterator[None]:
    """Ends the process, with exit code 138 and a message, if the service is lost while the block runs.

    The batches that a lost worker had begun are lost with it, and TensorFlow would wait for them forever. A thread ends
    the process, because the one that waits can't be interrupted.

    Args:
        address: `grpc://HOST:PORT`; None for no service.
        seconds: how long the dispatcher or a worker may be silent.

    Raises:
        ServiceLostError: batches are missing, because a worker was restarted.
    """
    if address is None:
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(address, seconds, done), daemon=True)
    thread.start()
    try:
        yield
    except tf.errors.FailedPreconditionError as error:
        if not _MISSING.search(str(error)):
            raise
        raise ServiceLostError(_lost(address, "batches of an epoch are missing because a worker was lost")) from error
    finally:
        done.set()
        thread.join()


def _watch(address: str, seconds: float, done: threading.Event) -> None:
    answered = time.monotonic()
    known: set[str] = set()
    while not done.wait(min(seconds / 6, 10)):
        problem = _problem(address, min(seconds / 6, 10), known)
        if not problem:
            answered = time.monotonic()
        elif time.monotonic() - answered > seconds and not done.is_set():
            print(_lost(address, problem), file=sys.stderr, flush=True)
            os._exit(ServiceLostError.exit_code)


def _lost(address: str, problem: str) -> str:
    return (
        f"The tf.data service at {address} is lost: {problem}. Start it again and resume with --resume and the same "
        "--run_dir."
    )


def _problem(address: str, seconds: float, known: set[str]) -> str:
    """Why batches may be missing now; empty if none are. Adds the workers that it finds to `known`."""
    try:
        known.update(_workers(host_and_port(address), seconds))
    except grpc.RpcError as error:
        return f"it does not answer ({error.code().name.lower()}: {error.details()})"
    if not known:
        return "it has no worker"
    lost = sorted(worker for worker in known if not _is_reachable(worker))
    return f"these of its workers can't be reached from here: {', '.join(lost[:3])}" if lost else ""


def _workers(address: str, seconds: float) -> list[str]:
    """The addresses of the workers that the dispatcher knows."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary("/tensorflow.data.DispatcherService/GetWorkers")
        answer = ask(b"", timeout=seconds)
    # GetWorkersResponse: repeated message 1 with the string 1; TensorFlow exports no Python class for it.
    found = re.findall(rb"\n.\n.([\w.:\[\]-]+:[0-9]+)", answer, re.DOTALL)
    return [worker.decode() for worker in found]


def _is_reachable(worker: str) -> bool:
    host, _, port = worker.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PAUSE_SECONDS).close()
    except OSError:
        return False
    return True
