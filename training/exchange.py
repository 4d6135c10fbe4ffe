"""What one worker tells the others: bytes from every worker to every worker, by sums, which all strategies can do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from errors import UserError

_T = TypeVar("_T")

# 32 MiB at a time, in numbers of 8 bytes.
_LARGEST = 1 << 22


def exchange(own: bytes, worker: int, workers: int, sum_of_all: Callable[[np.ndarray], np.ndarray]) -> list[bytes]:
    """Every worker's bytes, in the order of the workers; all must call this together.

    Args:
        own: what this worker gives.
        worker: its index.
        workers: how many there are.
        sum_of_all: gives the sum of all workers' int64 arrays of one shape.
    """
    sizes = np.zeros(workers, np.int64)
    sizes[worker] = len(own)
    ends = np.cumsum(sum_of_all(sizes))
    # Each writes where the others have zeros, so no byte of the sum carries into the next.
    everything = np.zeros(-(-int(ends[-1]) // 8), np.int64)
    end = int(ends[worker])
    everything.view(np.uint8)[end - len(own) : end] = np.frombuffer(own, np.uint8)
    for first in range(0, len(everything), _LARGEST):
        everything[first : first + _LARGEST] = sum_of_all(everything[first : first + _LARGEST])
    content = everything.tobytes()
    return [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def share(
    what: str,
    items: Sequence[_T],
    look: Callable[[Sequence[_T]], list[Any]],
    *,
    worker: int,
    workers: int,
    exchange: Callable[[bytes], list[bytes]],
) -> list[Any]:
    """What `look` finds about each item, in order; each worker looks at its share only.

    Args:
        what: the items are, for messages.
        items: the same in every worker.
        look: gives a finding for each item that it gets; a finding must survive JSON, where tuples become lists.
        worker: index of this worker.
        workers: how many there are.
        exchange: gives every worker's bytes, in the order of the workers.

    Raises:
        UserError: in every worker when one has other items, or fails with a `UserError`.
    """
    if workers == 1:
        return look(items)
    report: dict[str, Any] = {"items": hashlib.sha256(repr(list(items)).encode()).hexdigest()}
    try:
        report["findings"] = look(items[worker::workers])
    except UserError as problem:
        # Ending here would leave the others waiting.
        report["problem"] = str(problem)
    reports = [json.loads(each) for each in exchange(json.dumps(report).encode())]
    check_same(what, [report["items"] for report in reports])
    problems = [report["problem"] for report in reports if "problem" in report]
    if problems:
        raise UserError(problems[0])
    findings = [None] * len(items)
    for number, each in enumerate(reports):
        findings[number::workers] = each["findings"]
    return findings


def check_same(what: str, values: Sequence[Any]) -> None:
    """Checks that all workers, in whose order `values` are, have the same of `what`.

    Raises:
        UserError: one has another than the first.
    """
    for worker, value in enumerate(values):
        if value != values[0]:
            raise UserError(
                f"All workers must have the same {what}. Received others in worker {worker} than in worker 0. "
                "Give all of them the same files and the same command."
            )
