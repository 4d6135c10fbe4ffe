"""The workers of a cluster: reads TF_CONFIG, and waits until all workers are there before TensorFlow starts.

TensorFlow 2.21 has a time limit for workers that look for the chief worker, but none for a chief whose workers don't
come, and it treats two processes with one index as a restart. So every worker first reports to the chief's port; the
ports are free again when TensorFlow opens them. Removable with a TensorFlow that raises an error in both cases.

`tf.distribute.cluster_resolver.TFConfigClusterResolver` does none of these checks, and `python -m training.launch`
would have to import TensorFlow for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from errors import UserError

# Enough for hosts that are still fetching their container image; the variable is for tests and quick clusters.
WAIT_VARIABLE = "DARKROOM_CLUSTER_WAIT_SECONDS"
_WAIT_SECONDS = 300
# After which a silent worker counts as lost.
HEARTBEAT_SECONDS = 10

_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5})")
_JOBS = ("chief", "worker")
_RETRY_SECONDS = 0.2
_GREETING_SECONDS = 5
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Worker:
    """One worker of a cluster.

    Attributes:
        addresses: `HOST:PORT` of every worker, the chief worker first.
        index: of this worker in `addresses`.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def address(self) -> str:
        """`HOST:PORT` of this worker."""
        return self.addresses[self.index]

    @property
    def port(self) -> int:
        """The port of this worker."""
        return int(self.address.rpartition(":")[2])

    def tf_config(self) -> str:
        """The TF_CONFIG of this worker."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.addresses)}, "task": task})


def from_environment() -> Worker | None:
    """The worker that this process is according to TF_CONFIG; None if it is not set or names no cluster.

    Raises:
        UserError: it is malformed, or names a role that `fit` doesn't use.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"it is not JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("cluster", {}), dict):
        raise _wrong("it is not an object with an object `cluster`")
    return _worker(config["cluster"], config.get("task")) if config.get("cluster") else None


def wait_seconds() -> float:
    """How long workers wait for each other at the start.

    Raises:
        UserError: the environment variable is not a number from 1 to 86400.
    """
    text = os.environ.get(WAIT_VARIABLE, str(_WAIT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 24 * 3600:
        raise UserError(f"{WAIT_VARIABLE} must be 1 to 86400 seconds. Received: {text}.")
    return seconds


def meet(worker: Worker, seconds: float, gpus: int = 0) -> None:
    """Waits until all workers have reported to the chief worker.

    Args:
        worker: this process.
        seconds: longest wait.
        gpus: number of GPUs that this process sees, the same in all workers, since each computes as many slices.

    Raises:
        UserError: a worker doesn't come, or the chief worker can't be reached, or they disagree about the cluster, or
            have different numbers of GPUs.
    """
    if len(worker.addresses) == 1:
        return
    with _listening(worker) as server:
        if worker.index == 0:
            problem = _receive_workers(worker, seconds, gpus, server)
        else:
            problem = _report_to_chief(worker, seconds, gpus)
    if problem:
        raise UserError(
            "All workers of TF_CONFIG must be started, with the same addresses, different indices and the same number "
            f"of GPUs, and reach each other. Received, in worker {worker.index}: {problem}. Correct TF_CONFIG, or find "
            f"out why a worker did not start; {WAIT_VARIABLE} sets how long to wait."
        )


def _worker(cluster: dict[str, Any], task: Any) -> Worker:
    unknown = sorted(set(cluster) - {*_JOBS, "evaluator"})
    if unknown:
        raise _wrong(f"its cluster has the job {', '.join(unknown)}; only chief and worker train together")
    chief, workers = (_checked_addresses(job, cluster.get(job, [])) for job in _JOBS)
    addresses = chief + workers
    if not addresses or len(chief) > 1:
        raise _wrong("its cluster must have a worker, and one chief at most")
    repeated = sorted({address for address in addresses if addresses.count(address) > 1})
    if repeated:
        raise _wrong(f"it lists {', '.join(repeated)} more than once")
    kind, index = _checked_task(task)
    count = len(cluster.get(kind, []))
    if index >= count:
        raise _wrong(f"its task is {kind} {index}, and the cluster has {count} of the kind, counted from 0")
    return Worker(tuple(addresses), index if kind == "chief" else len(chief) + index)


def _checked_addresses(job: str, addresses: Any) -> list[str]:
    if not isinstance(addresses, list):
        raise _wrong(f"its {job} is not a list of HOST:PORT")
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 0 < int(match[2]) < 65536:
            raise _wrong(f"{address!r} is not HOST:PORT")
    return addresses


def _checked_task(task: Any) -> tuple[str, int]:
    kind, index = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    if kind not in _JOBS:
        raise _wrong(f"its task type must be chief or worker, and is {kind!r}")
    # Some launchers write the index as text.
    if isinstance(index, str) and index.isdigit():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise _wrong(f"its task index must be a whole number from 0, and is {index!r}")
    return str(kind), index


def _wrong(reason: str) -> UserError:
    return UserError(
        f"TF_CONFIG must name the workers and this one's index, as in {_EXAMPLE}, and {reason}. Correct it, unset it "
        "to train in one process, or let `python -m training.launch` set it."
    )


@contextlib.contextmanager
def _listening(worker: Worker) -> Iterator[socket.socket]:
    """Opens this worker's port, so that a port in use is reported at once."""
    try:
        server = socket.create_server(("", worker.port), backlog=len(worker.addresses))
    except OSError as error:
        raise UserError(
            f"Worker {worker.index} needs port {worker.port} of this host, as TF_CONFIG says ({worker.address}). "
            f"Received: {error.strerror}. End the program that has it, or give the worker another port in every "
            "TF_CONFIG."
        ) from error
    with server:
        yield server


def _receive_workers(chief: Worker, seconds: float, gpus: int, server: socket.socket) -> str:
    """Waits for all other workers and answers them; returns the problem, or an empty text."""
    deadline, gpus_of, problem = time.monotonic() + seconds, {0: gpus}, ""
    with contextlib.ExitStack() as connections:
        greeted: list[socket.socket] = []
        while not problem and len(gpus_of) < len(chief.addresses):
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection = connections.enter_context(server.accept()[0])
            except TimeoutError:
                problem = _missing(chief, seconds, set(gpus_of))
                break
            greeting = _greeting(connection)
            if greeting:
                greeted.append(connection)
                problem = _objection(chief, *greeting[:2], set(gpus_of))
                gpus_of[greeting[0]] = greeting[2]
        problem = problem or _different_gpus(gpus_of)
        for connection in greeted:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")
    return problem


def _greeting(connection: socket.socket) -> tuple[int, tuple[str, ...], int] | None:
    """Index, addresses and number of GPUs of a worker that connects; None if it is no worker."""
    connection.settimeout(_GREETING_SECONDS)
    try:
        greeting = json.loads(_line(connection))
        return int(greeting["worker"]), tuple(greeting["addresses"]), int(greeting["gpus"])
    except (OSError, ValueError, KeyError, TypeError):
        # A port scanner, or a health check.
        connection.close()
        return None


def _missing(chief: Worker, seconds: float, found: set[int]) -> str:
    missing = ", ".join(f"{i} ({address})" for i, address in enumerate(chief.addresses) if i not in found)
    return f"of {len(chief.addresses)} workers these did not come within {seconds:.0f} seconds: {missing}"


def _objection(chief: Worker, index: int, addresses: tuple[str, ...], found: set[int]) -> str:
    if addresses != chief.addresses:
        theirs = ", ".join(map(str, addresses))
        return f"worker {index} has other addresses ({theirs}) than worker 0 ({', '.join(chief.addresses)})"
    if index in found or not 0 < index < len(chief.addresses):
        return f"two processes say that they are worker {index}"
    return ""


def _different_gpus(gpus_of: dict[int, int]) -> str:
    """TensorFlow would wait forever for the slices that a worker with fewer GPUs never computes."""
    if len(set(gpus_of.values())) == 1:
        return ""
    counts = ", ".join(f"worker {index} has {count}" for index, count in sorted(gpus_of.items()))
    return f"they see different numbers of GPUs ({counts}), which CUDA_VISIBLE_DEVICES can make equal"


def _report_to_chief(worker: Worker, seconds: float, gpus: int) -> str:
    """Reports to the chief worker and waits for its answer: the problem, or an empty text."""
    deadline, reason = time.monotonic() + seconds, ""
    host, _, port = worker.addresses[0].rpartition(":")
    greeting = {"worker": worker.index, "addresses": worker.addresses, "gpus": gpus}
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=left) as connection:
                # The chief worker answers when all are there or its own time is over.
                connection.settimeout(seconds + 10)
                connection.sendall(json.dumps(greeting).encode() + b"\n")
                return json.loads(_line(connection))["problem"]
        except (OSError, ValueError) as error:
            reason = str(error)
            time.sleep(_RETRY_SECONDS)
    return f"worker {worker.index} could not reach worker 0 at {worker.addresses[0]} in {seconds:.0f} seconds: {reason}"


def _line(connection: socket.socket) -> bytes:
    with connection.makefile("rb") as stream:
        return stream.readline(_LONGEST_LINE)
