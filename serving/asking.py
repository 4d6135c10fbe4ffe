"""Questions to a served model: whole answers about images, with retries, from a transport that may fail."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import errors
from errors import UserError
from serving.metadata import Metadata
from serving.transport import BusyError, Columns, Transport, WaitedError, refused

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# A server that is being restarted is back soon; one that is not there should be reported before anyone gets impatient.
_DOWN_SECONDS = 3.0

_OF_EVERY_MODEL = ("label", "score", "probabilities", "error")


@dataclass(frozen=True)
class Answer:
    """What the server says about one image.

    Attributes:
        label: the likeliest class; empty when the image was refused.
        score: its probability in 0-1.
        probabilities: one for each class name, in 0-1.
        error: why the image was refused; empty when it wasn't.
        further: what the model's other heads say, by name.
    """

    label: str
    score: float
    probabilities: tuple[float, ...]
    error: str = ""
    further: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Patience:
    """How long to go on with one question.

    Attributes:
        deadline_seconds: from the first attempt to the last answer, pauses included.
        sleep: replaced in tests.
    """

    deadline_seconds: float = 30.0
    sleep: Callable[[float], None] = time.sleep


def metadata(transport: Transport, patience: Patience) -> Metadata:
    """What the model says of itself.

    Raises:
        UserError: no server, no such model, or not a model of this project.
    """
    columns = _call(transport, "metadata", "request", [b""], patience)
    try:
        return Metadata.from_json(columns["metadata"][0])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise refused(transport.target, f"metadata that can't be read ({error})") from error


def classify(transport: Transport, images: list[bytes], patience: Patience) -> list[Answer]:
    """The answers to encoded images, in their order.

    Raises:
        UserError: the server is down, too busy for longer than the deadline, or refuses the request.
    """
    columns = _call(transport, "serving_default", "image_bytes", images, patience)
    try:
        further = [name for name in columns if name not in _OF_EVERY_MODEL]
        rows = zip(*(columns[name] for name in (*_OF_EVERY_MODEL, *further)), strict=True)
        answers = [
            Answer(label, score, tuple(values), error, dict(zip(further, others, strict=True)))
            for label, score, values, error, *others in rows
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise refused(transport.target, f"other outputs than expected ({error})") from error
    if len(answers) != len(images):
        received = f"{errors.counted(len(answers), 'answer')} to {errors.counted(len(images), 'image')}"
        raise refused(transport.target, received)
    return answers


def classify_all(
    transport: Transport, batches: Iterable[Callable[[], list[bytes]]], patience: Patience, parallel: int
) -> Iterator[list[Answer]]:
    """The answers to batches, in their order, with up to `parallel` requests under way.

    Args:
        transport: which server.
        batches: functions that read a batch when its turn has come, so that not all images lie in memory.
        patience: for each request.
        parallel: at least 1.
    """

    def ask(read: Callable[[], list[bytes]]) -> list[Answer]:
        return classify(transport, read(), patience)

    with ThreadPoolExecutor(parallel) as pool:
        waiting: list[Future[list[Answer]]] = []
        try:
            for read in batches:
                waiting.append(pool.submit(ask, read))
                if len(waiting) > parallel:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def _call(transport: Transport, signature: str, name: str, values: list[bytes], patience: Patience) -> Columns:
    """Tries again while the server is busy, after pauses that double and are random, so that clients spread out."""
    start = time.monotonic()
    end = start + patience.deadline_seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return transport.call(signature, name, values, max(end - time.monotonic(), 0.001))
        except WaitedError as error:
            raise _too_slow(transport, patience) from error
        except BusyError as error:
            wait = pause * random.uniform(0.5, 1.0)
            limit = min(end, start + _DOWN_SECONDS) if error.is_down else end
            if time.monotonic() + wait > limit:
                raise _gave_up(transport, error, patience) from error
            patience.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _too_slow(transport: Transport, patience: Patience) -> UserError:
    return UserError(
        f"The server at {transport.target.server} must answer within {patience.deadline_seconds:g} seconds, and "
        "didn't. Pass a longer --deadline_seconds, a smaller --batch_size, or look at the server's load."
    )


def _gave_up(transport: Transport, error: BusyError, patience: Patience) -> UserError:
    if error.is_down:
        return UserError(
            f"No server can be reached at --server={transport.target.server}. Start TensorFlow Serving (see "
            "serving/README.md), or check the host, the port (gRPC 8500, with --rest 8501) and the firewall. "
            f"Received: {error}"
        )
    return UserError(
        f"The server at {transport.target.server} has been too busy for {patience.deadline_seconds:g} seconds. Try "
        "again later, pass a longer --deadline_seconds or a smaller --parallel, or give the server more cores or a "
        f"longer queue (max_enqueued_batches in batching.config). It answered: {error}"
    )
