"""When all workers write a checkpoint, and when they stop."""

from __future__ import annotations

import signal
import time

import numpy as np

from training.distribution import Distribution

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Agreement:
    """Lets all workers write a checkpoint, and stop, after the same step, for saving needs the sums of all of them.

    They ask each other about once a second, after a number of steps that the chief measures: to ask at every step
    would slow small networks down.

    Args:
        team: the workers.
        seconds: between two checkpoints; 0 to ask at every step.
    """

    def __init__(self, team: Distribution, seconds: float) -> None:
        self._team, self._is_always = team, seconds == 0
        self._interval, self._steps, self._asked = 1, 0, time.monotonic()

    def __call__(self, is_due: bool, number: int | None, is_certain: bool) -> tuple[bool, int | None]:
        """Whether to save after this step, and the signal to stop with.

        Args:
            is_due: whether it is time to save by this worker's clock; the chief's decides.
            number: of the signal that this worker was sent; one is enough for all.
            is_certain: whether all workers know that it is time, because a phase has ended.
        """
        if self._team.workers == 1:
            return is_due, number
        self._steps += 1
        if self._steps < self._interval and not is_certain:
            return False, None
        signals = [int(number == each) for each in _SIGNALS]
        mine = [int(is_due), self._next_interval()] if self._team.is_chief else [0, 0]
        due, self._interval, *received = map(int, self._team.sum(np.array([*mine, *signals], np.int64)))
        self._steps, self._asked = 0, time.monotonic()
        stops = [each for each, count in zip(_SIGNALS, received, strict=True) if count]
        return due > 0 or is_certain, stops[0] if stops else None

    def _next_interval(self) -> int:
        seconds = time.monotonic() - self._asked
        return 1 if self._is_always else max(1, min(1000, int(self._steps / max(seconds, 1e-3))))
