"""SIGTERM, SIGHUP and Ctrl-C: a run ends where it can be resumed, in all workers after the same step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np

import errors
from errors import UserError
from training.distributed.workers import Workers

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_MOST_CALLS = 1000


class RunInterruptedError(UserError):
    """The user, or the system, asked the run to stop, and it has saved its state.

    Args:
        message: for the user.
        number: the signal; the exit code is 128 + number, as in a shell.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Signals:
    """Records SIGTERM, SIGHUP and Ctrl-C within its `with` block; a second Ctrl-C ends the process at once.

    A SIGHUP that is ignored, as under nohup, stays ignored.

    Args:
        run_dir: the run folder, for the command that resumes the run.
        worker: index of this process; only the message of the chief worker, 0, has that command.

    Attributes:
        number: the signal that was received; None for none.
    """

    def __init__(self, run_dir: str, worker: int = 0) -> None:
        self.number: int | None = None
        self._run_dir, self._worker = run_dir, worker
        self._previous: dict[int, Any] = {}
        self._where: str | None = None

    def __enter__(self) -> Signals:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        """Restores the previous handlers, and raises an unanswered signal again."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        unanswered, self.number = self.number, None
        if unanswered is not None and kind is None:
            signal.raise_signal(unanswered)

    @contextlib.contextmanager
    def stopping_at_once(self, where: str) -> Iterator[None]:
        """Lets a signal end the block at once, for blocks that only read.

        Args:
            where: the run stops, for the message, such as `during the test`.

        Raises:
            RunInterruptedError: a signal arrives, or has arrived before.
        """
        self._where = where
        try:
            if self.number is not None:
                raise self.interrupted(self.number, where)
            yield
        finally:
            self._where = None

    def interrupted(self, number: int, where: str) -> RunInterruptedError:
        """The error that ends the run when everything is saved; the signal counts as answered.

        Args:
            number: the signal, which another worker may have received.
            where: the run stops, such as `after step 3 of epoch 1; the state is saved`.
        """
        self.number = None
        if self._worker != 0:
            return RunInterruptedError(f"Worker {self._worker} stopped with worker 0.", number)
        return RunInterruptedError(
            f"Stopped by {signal.Signals(number).name} {where}. Resume by "
            f"`{errors.command('train.py', '--resume', f'--run_dir={self._run_dir}')}`.",
            number,
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._where is not None:
            raise self.interrupted(number, self._where)
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        # Not `print`, which the signal may just have interrupted. After SIGHUP the terminal may be gone.
        with contextlib.suppress(OSError):
            os.write(2, b"\nStopping after this step and saving. Ctrl-C stops at once, without saving.\n")


class SafePoints:
    """The points at which a run can stop or be saved: after each step, or each batch of images that are prepared.

    All workers get the same answer at the same point, since saving needs the sums of all of them. They ask each other
    about once a second, after a number of points that the chief worker measures: asking at every point would slow
    small networks down.

    Args:
        signals: requests to stop.
        workers: reach the same points in the same order; by default this process alone.
        asks_each_time: whether the workers ask each other at every point, not only about once a second.
    """

    def __init__(self, signals: Signals, workers: Workers | None = None, *, asks_each_time: bool = False) -> None:
        self._signals, self._workers, self._asks_each_time = signals, workers or Workers(), asks_each_time
        self._interval, self._passed, self._asked = 1, 0, time.monotonic()
        self._number: int | None = None

    def check(self) -> None:
        """Call it after each batch of images that are prepared, once they are saved.

        Raises:
            RunInterruptedError: any worker has received a signal.
        """
        self.reached()
        self.stop_if_asked("while images were being prepared; what is on disk is kept")

    def reached(self, *, is_due: bool = False, is_certain: bool = False) -> bool:
        """Whether to save now, because it is time or because the run stops.

        Args:
            is_due: whether it is time to save by the clock of this worker; the chief worker's value counts.
            is_certain: whether all workers know that it is time to save, because a phase has ended.
        """
        self._passed += 1
        if self._workers.workers == 1:
            self._number = self._signals.number
        elif is_certain or self._passed >= self._interval:
            is_due = self._ask(is_due)
        else:
            is_due, self._number = False, None
        return is_due or is_certain or self._number is not None

    def stop_if_asked(self, where: str) -> None:
        """Ends the run if it had been asked to stop at the last call of `reached`.

        Args:
            where: the run stops, see `Signals.interrupted`.

        Raises:
            RunInterruptedError: any worker has received a signal.
        """
        if self._number is not None:
            raise self._signals.interrupted(self._number, where)

    def _ask(self, is_due: bool) -> bool:
        mine = [int(is_due), self._next_interval()] if self._workers.is_chief else [0, 0]
        received = [int(self._signals.number == number) for number in _NUMBERS]
        due, self._interval, *counts = map(int, self._workers.sum(np.array([*mine, *received], np.int64)))
        self._passed, self._asked = 0, time.monotonic()
        self._number = next((number for number, count in zip(_NUMBERS, counts, strict=True) if count), None)
        return due > 0

    def _next_interval(self) -> int:
        seconds = time.monotonic() - self._asked
        return 1 if self._asks_each_time else max(1, min(_MOST_CALLS, int(self._passed / max(seconds, 1e-3))))
