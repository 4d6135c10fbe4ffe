"""The workers that train together, as TF_CONFIG lists them, and what to say when one of them is missing."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any

from errors import UserError

# Long enough for hosts that are still fetching their image; the environment variable is for tests and quick clusters.
WAIT_VARIABLE = "DARKROOM_CLUSTER_WAIT_SECONDS"
_WAIT_SECONDS = 300
# A worker that is silent for so long counts as lost.
HEARTBEAT_SECONDS = 10

_EXAMPLE = '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):([0-9]{1,5})")
_JOBS = ("chief", "worker")


@dataclass(frozen=True)
class Place:
    """One process's place in a cluster.

    Attributes:
        addresses: `HOST:PORT` of every worker, the chief first.
        worker: index of this process in `addresses`.
    """

    addresses: tuple[str, ...]
    worker: int

    @property
    def workers(self) -> int:
        """How many train together."""
        return len(self.addresses)

    def as_config(self) -> str:
        """The TF_CONFIG of this place."""
        task = {"type": "worker", "index": self.worker}
        return json.dumps({"cluster": {"worker": list(self.addresses)}, "task": task})


def read() -> Place | None:
    """The place that TF_CONFIG gives this process; None where it is not set or names no cluster.

    Raises:
        UserError: it is malformed, or names a role that `fit` has no use for.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"it is no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("cluster", {}), dict):
        raise _wrong("it is no object with an object `cluster`")
    if not config.get("cluster"):
        return None
    return _place(config["cluster"], config.get("task"))


def wait_seconds() -> float:
    """How long workers wait for each other at the start.

    Raises:
        UserError: the environment variable holds no number of seconds.
    """
    text = os.environ.get(WAIT_VARIABLE, str(_WAIT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 24 * 3600:
        raise UserError(f"{WAIT_VARIABLE} must be 1 to 86400 seconds. Received: {text}.")
    return seconds


def _place(cluster: dict[str, Any], task: Any) -> Place:
    unknown = sorted(set(cluster) - set(_JOBS) - {"evaluator"})
    if unknown:
        raise _wrong(f"its cluster has the job {', '.join(unknown)}; only chief and worker train together")
    addresses: list[str] = []
    starts = {}
    for job in _JOBS:
        starts[job] = len(addresses)
        addresses += _checked_addresses(job, cluster.get(job, []))
    if not addresses or len(cluster.get("chief", [])) > 1:
        raise _wrong("its cluster must have a worker, and one chief at most")
    repeated = sorted({address for address in addresses if addresses.count(address) > 1})
    if repeated:
        raise _wrong(f"it lists {', '.join(repeated)} more than once")
    kind, index = _task(task)
    count = len(cluster.get(kind, []))
    if index >= count:
        raise _wrong(f"its task is {kind} {index}, and the cluster has {count} of the kind, counted from 0")
    return Place(tuple(addresses), starts[kind] + index)


def _checked_addresses(job: str, addresses: Any) -> list[str]:
    if not isinstance(addresses, list):
        raise _wrong(f"its {job} is no list of HOST:PORT")
    for address in addresses:
        match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not match or not 0 < int(match[2]) < 65536:
            raise _wrong(f"{address!r} is no HOST:PORT")
    return addresses


def _task(task: Any) -> tuple[str, int]:
    kind = task.get("type") if isinstance(task, dict) else None
    index = task.get("index") if isinstance(task, dict) else None
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
        f"TF_CONFIG must say who trains together, such as {_EXAMPLE}, and {reason}. Correct it, unset it to train "
        "alone, or let `python -m training.launch` set it."
    )
