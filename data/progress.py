"""A progress line for everything that takes over a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

_T = TypeVar("_T")
_QUIET_SECONDS = 1.0
_TERMINAL_INTERVAL_SECONDS = 0.2
_LOG_INTERVAL_SECONDS = 10.0


def progress(items: Iterable[_T], total: int, title: str, file: TextIO | None = None) -> Iterator[_T]:
    """Yields `items` and shows `title`, count, rate and time left on stderr, after the first second.

    On a terminal the line is overwritten; elsewhere a new one is written every ten seconds.
    """
    file = file or sys.stderr
    interval = _TERMINAL_INTERVAL_SECONDS if file.isatty() else _LOG_INTERVAL_SECONDS
    start = time.monotonic()
    shown = start + _QUIET_SECONDS - interval
    was_shown = False
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= interval:
            _show(file, title, count, total, now - start)
            shown, was_shown = now, True
    if was_shown:
        _show(file, title, total, total, time.monotonic() - start)
        if file.isatty():
            file.write("\n")


def _show(file: TextIO, title: str, count: int, total: int, seconds: float) -> None:
    rate = count / seconds
    left = (total - count) / rate
    line = f"{title}: {count:,}/{total:,}, {rate:,.0f}/s, {left:.0f} s left"
    file.write(f"\r{line}\x1b[K" if file.isatty() else f"{line}\n")
    file.flush()
