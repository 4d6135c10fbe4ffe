"""The processes that train together: what they exchange, and which one writes the results."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data.files import make_folder
from errors import UserError
from training.config import TrainConfig

# 32 MiB at a time, in numbers of 8 bytes.
_LARGEST_SUM = 1 << 22


class Workers:
    """The processes that train together, seen from one of them; an instance of this base class is a single process.

    Every method that exchanges something must be called by all workers, in the same order.

    Attributes:
        worker: index of this process.
        workers: number of processes.
    """

    worker: int = 0
    workers: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process is the chief worker, the one that writes and prints."""
        return self.worker == 0

    def sum(self, values: np.ndarray) -> np.ndarray:
        """The sum of all workers' `values`, which have the same shape and dtype."""
        return values

    def all(self, value: bool) -> bool:
        """Whether `value` is true in every worker."""
        return int(self.sum(np.array(int(value), np.int64))) == self.workers

    def exchange(self, own: bytes) -> list[bytes]:
        """The bytes of every worker, in the order of the workers.

        A sum of arrays that are zero in all workers but one. `tf.distribute.Strategy.gather` takes no bytes, promises
        no order, and is traced anew at each call.
        """
        sizes = np.zeros(self.workers, np.int64)
        sizes[self.worker] = len(own)
        ends = np.cumsum(self.sum(sizes))
        # No byte of the sum carries into the next, since each has only one nonzero summand.
        everything = np.zeros(-(-int(ends[-1]) // 8), np.int64)
        end = int(ends[self.worker])
        everything.view(np.uint8)[end - len(own) : end] = np.frombuffer(own, np.uint8)
        for first in range(0, len(everything), _LARGEST_SUM):
            everything[first : first + _LARGEST_SUM] = self.sum(everything[first : first + _LARGEST_SUM])
        content = everything.tobytes()
        return [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def agree_on(self, what: str, *values: Any) -> None:
        """Checks that all workers have the same `values`, by a hash of their `repr`.

        Args:
            what: name of the values, for the message.
            values: anything whose `repr` is complete.

        Raises:
            UserError: in every worker when one has other values than the chief worker.
        """
        digest = hashlib.sha256()
        for value in values:
            digest.update(repr(value).encode())
        _check_same(what, self.exchange(digest.digest()))

    def share(self, what: str, items: Sequence[Any], look: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
        """What `look` finds about each item, in order; each worker looks only at its share of the items.

        Args:
            what: name of the items, for messages.
            items: the same in every worker.
            look: returns a finding for each of its items; findings must survive JSON, where tuples become lists.

        Raises:
            UserError: in every worker when one has other items, or fails with a `UserError`.
        """
        if self.workers == 1:
            return look(items)
        report: dict[str, Any] = {"items": hashlib.sha256(repr(list(items)).encode()).hexdigest()}
        try:
            report["findings"] = look(items[self.worker :: self.workers])
        except UserError as problem:
            # Ending here would leave the others waiting.
            report["problem"] = str(problem)
        reports = [json.loads(each) for each in self.exchange(json.dumps(report).encode())]
        _check_same(what, [report["items"] for report in reports])
        problems = [report["problem"] for report in reports if "problem" in report]
        if problems:
            raise UserError(problems[0])
        findings = [None] * len(items)
        for worker, each in enumerate(reports):
            findings[worker :: self.workers] = each["findings"]
        return findings


def _check_same(what: str, values: Sequence[Any]) -> None:
    for worker, value in enumerate(values):
        if value != values[0]:
            raise UserError(
                f"All workers must have the same {what}. Received others in worker {worker} than in worker 0. "
                "Give all of them the same files and the same command."
            )


@contextlib.contextmanager
def own_run_folder(workers: Workers, config: TrainConfig) -> Iterator[TrainConfig]:
    """Gives every worker but the chief a temporary run folder, and discards its standard output.

    So all workers run the same code, and each has the best epoch for the test. To resume, a worker copies what the
    chief worker has written, from storage that they share.
    """
    with contextlib.ExitStack() as stack:
        if not workers.is_chief:
            # Never restored: the script would print where the results are, and only the chief worker has any.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="darkroom-worker-"))
            own = os.path.join(folder, "run")
            if config.resume:
                _copy(config.run_dir or "", own)
            config = dataclasses.replace(config, run_dir=own)
        if config.resume:
            # The chief worker must not write a new state while the others still copy the old one.
            workers.all(True)
        yield config


def _copy(source: str, destination: str) -> None:
    for folder, _, names in tf.io.gfile.walk(source):
        target = os.path.join(destination, os.path.relpath(folder, source))
        make_folder(target)
        for name in names:
            if not name.startswith("."):
                tf.io.gfile.copy(os.path.join(folder, name), os.path.join(target, name))
