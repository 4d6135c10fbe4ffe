"""Makes sure that all workers are there, and mean the same cluster, before TensorFlow waits for them without end.

TensorFlow 2.21 has a time limit for workers that look for the chief, but none for a chief whose workers don't come, and
it takes two processes with one index for a restart. So every worker first says at the chief's port who it is; the ports
are free again when TensorFlow opens them.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

from errors import UserError
from training.cluster import WAIT_VARIABLE, Place

_PAUSE_SECONDS = 0.2
_LONGEST_MESSAGE = 1 << 20


def meet(place: Place, seconds: float, gpus: int = 0) -> None:
    """Returns in every worker once all are there.

    Args:
        place: of this process.
        seconds: to wait at most.
        gpus: that this process sees; every worker computes as many slices of a batch, so all must see as many.

    Raises:
        UserError: a worker doesn't come, or the chief can't be reached, or they disagree about the cluster, or have
            different numbers of GPUs.
    """
    if place.workers == 1:
        return
    deadline = time.monotonic() + seconds
    with _listening(place) as door:
        if place.worker == 0:
            _gather(place, door, deadline, seconds, gpus)
        else:
            _report(place, deadline, seconds, gpus)


@contextlib.contextmanager
def _listening(place: Place) -> Iterator[socket.socket]:
    """Opens this worker's port, which tells at once whether it can be had."""
    port = int(place.addresses[place.worker].rpartition(":")[2])
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind(("", port))
        except OSError as error:
            raise UserError(
                f"Worker {place.worker} needs port {port} of this host, as TF_CONFIG says "
                f"({place.addresses[place.worker]}). Received: {error.strerror}. End the program that has it, or give "
                "the worker another port in every TF_CONFIG."
            ) from error
        door.listen(place.workers)
        yield door


def _gather(place: Place, door: socket.socket, deadline: float, seconds: float, gpus: int) -> None:
    guests: dict[int, socket.socket] = {}
    gpus_of = {0: gpus}
    try:
        while len(guests) < place.workers - 1:
            guest = _next(door, deadline)
            if guest is None:
                _turn_away(place, guests, seconds)
                continue
            _let_in(place, guest, deadline, guests, gpus_of)
        _compare(place, guests, gpus_of)
        for guest in guests.values():
            guest.sendall(b'{"problem": ""}\n')
    finally:
        for guest in guests.values():
            guest.close()


def _next(door: socket.socket, deadline: float) -> socket.socket | None:
    door.settimeout(max(deadline - time.monotonic(), 0.001))
    try:
        return door.accept()[0]
    except TimeoutError:
        return None


def _turn_away(place: Place, guests: dict[int, socket.socket], seconds: float) -> None:
    missing = [f"{i} ({place.addresses[i]})" for i in range(1, place.workers) if i not in guests]
    problem = f"of {place.workers} workers these did not come within {seconds:.0f} seconds: {', '.join(missing)}"
    _fail(place, problem, list(guests.values()))


def _let_in(
    place: Place, guest: socket.socket, deadline: float, guests: dict[int, socket.socket], gpus_of: dict[int, int]
) -> None:
    guest.settimeout(max(deadline - time.monotonic(), 0.001))
    try:
        hello = json.loads(_line(guest))
        worker, addresses, gpus = int(hello["worker"]), tuple(hello["addresses"]), int(hello["gpus"])
    except (OSError, ValueError, KeyError, TypeError):
        # A port scanner, or a health check.
        guest.close()
        return
    if addresses != place.addresses:
        theirs = ", ".join(map(str, addresses))
        problem = f"worker {worker} has other addresses ({theirs}) than worker 0 ({', '.join(place.addresses)})"
        _fail(place, problem, [guest, *guests.values()])
    if not 0 < worker < place.workers or worker in guests:
        _fail(place, f"two processes say that they are worker {worker}", [guest, *guests.values()])
    guests[worker], gpus_of[worker] = guest, gpus


def _compare(place: Place, guests: dict[int, socket.socket], gpus_of: dict[int, int]) -> None:
    """TensorFlow itself would wait for the slices that a worker with fewer GPUs never computes."""
    if len(set(gpus_of.values())) > 1:
        counts = ", ".join(f"worker {worker} has {count}" for worker, count in sorted(gpus_of.items()))
        problem = f"they see different numbers of GPUs ({counts}), which CUDA_VISIBLE_DEVICES can make equal"
        _fail(place, problem, list(guests.values()))


def _fail(place: Place, problem: str, guests: list[socket.socket]) -> None:
    for guest in guests:
        with contextlib.suppress(OSError):
            guest.sendall(json.dumps({"problem": problem}).encode() + b"\n")
        guest.close()
    raise _error(place, problem)


def _report(place: Place, deadline: float, seconds: float, gpus: int) -> None:
    host, _, port = place.addresses[0].rpartition(":")
    reason = ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=deadline - time.monotonic()) as chief:
                # The chief answers when all are there or its own time is over.
                chief.settimeout(seconds + 10)
                hello = {"worker": place.worker, "addresses": place.addresses, "gpus": gpus}
                chief.sendall(json.dumps(hello).encode() + b"\n")
                problem = json.loads(_line(chief))["problem"]
        except (OSError, ValueError) as error:
            reason = str(error)
            time.sleep(_PAUSE_SECONDS)
            continue
        if problem:
            raise _error(place, problem)
        return
    raise _error(
        place,
        f"worker {place.worker} could not reach worker 0 at {place.addresses[0]} in {seconds:.0f} seconds: {reason}",
    )


def _line(connection: socket.socket) -> bytes:
    """One line; raises ValueError when the other side closes first."""
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(65536)
        if not part or len(received) > _LONGEST_MESSAGE:
            raise ValueError("the connection was closed")
        received += part
    return received


def _error(place: Place, problem: str) -> UserError:
    return UserError(
        "All workers of TF_CONFIG must be started, with the same addresses, an index of their own and as many GPUs, "
        f"and reach each other. Received, in worker {place.worker}: {problem}. Correct TF_CONFIG, or look why a worker "
        f"did not start; {WAIT_VARIABLE} sets how long to wait."
    )
