from __future__ import annotations

import io
import time

import pytest

from data.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_quick_work_is_silent() -> None:
    file = io.StringIO()
    assert list(progress(range(5), 5, "quick", file)) == [0, 1, 2, 3, 4]
    assert file.getvalue() == ""


@pytest.mark.parametrize("file", [io.StringIO(), Terminal()])
def test_slow_work_shows_count_rate_and_time_left(file: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    list(progress("abcd", 4, "slow", file))
    assert "slow: 1/4, 0/s, 15 s left" in file.getvalue()
    assert "slow: 4/4" in file.getvalue()
    assert file.getvalue().endswith("\n")
