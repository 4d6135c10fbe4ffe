"""Unfinished folders in the cache, each for one process alone while it runs, and for the next one after it."""

from __future__ import annotations

import fcntl
import os
import time
from typing import IO

from data.files import discard, remove_left_over

_LOCK, _PART = "lock", ".part"


def claim(folder: str) -> tuple[str, IO[str]]:
    """A folder to fill, and the lock that keeps others out of it; the system opens it however this process ends."""
    number = 0
    while True:
        part = f"{folder}.{number}{_PART}"
        os.makedirs(part, exist_ok=True)
        lock = _locked(part)
        if lock is not None:
            return part, lock
        number += 1


def _locked(part: str) -> IO[str] | None:
    """None when another process fills `part`, or has just finished or removed it."""
    path = os.path.join(part, _LOCK)
    try:
        lock = open(path, "w", encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    lock.close()
    return None


def clear(folder: str, seconds: float) -> None:
    """Removes unfinished folders of other names beside `folder` that no process has filled for so many seconds."""
    parent, own = os.path.split(folder)
    remove_left_over(parent)
    for name in os.listdir(parent):
        part = os.path.join(parent, name)
        if name.endswith(_PART) and not name.startswith(f"{own}.") and _idle_seconds(part) >= seconds:
            _discard_if_free(part)


def clear_own(folder: str) -> None:
    """Removes what others have begun of `folder`, which is finished, where they no longer run."""
    parent, own = os.path.split(folder)
    for name in os.listdir(parent):
        if name.startswith(f"{own}.") and name.endswith(_PART):
            _discard_if_free(os.path.join(parent, name))


def _discard_if_free(part: str) -> None:
    lock = _locked(part)
    if lock is not None:
        with lock:
            discard(part)


def _idle_seconds(part: str) -> float:
    try:
        return time.time() - os.stat(part).st_mtime
    except OSError:
        return 0.0
