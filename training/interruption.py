"""SIGTERM, SIGHUP and Ctrl-C, which end a run where it can be resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import errors
from errors import UserError

# Whether it is time, the signal that has come, and whether all know that it is time; see `training.agreement`.
Agree = Callable[[bool, int | None, bool], tuple[bool, int | None]]

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunInterruptedError(UserError):
    """The user, or the system, asked the run to stop, and it has saved its state.

    Args:
        message: for the user.
        number: the signal; the exit code tells it as a shell does, 128 + number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Signals:
    """Takes note of SIGTERM, SIGHUP and Ctrl-C from `with` on; a second Ctrl-C ends the process at once.

    A SIGHUP that is ignored, as nohup has it, stays ignored.

    Args:
        run_dir: the run folder, for the way to go on.

    Attributes:
        number: the signal that has come; None for none.
    """

    def __init__(self, run_dir: str) -> None:
        self.number: int | None = None
        self._run_dir = run_dir
        self._previous: dict[int, Any] = {}
        self._place: str | None = None

    def __enter__(self) -> Signals:
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in _NUMBERS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        """Lets signals act as they did before, and one that nobody has answered, too."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
        unanswered, self.number = self.number, None
        if unanswered is not None and kind is None:
            signal.raise_signal(unanswered)

    @contextlib.contextmanager
    def ending(self, place: str) -> Iterator[None]:
        """Lets a signal end the block at once, for blocks that only read.

        Args:
            place: what the block does, for the message, such as `during the test`.

        Raises:
            RunInterruptedError: a signal comes, or has come before.
        """
        self._place = place
        try:
            if self.number is not None:
                raise self.answer(self.number, place)
            yield
        finally:
            self._place = None

    def answer(self, number: int, place: str) -> RunInterruptedError:
        """What to raise when everything is saved.

        Args:
            number: of the signal, which another worker may have got.
            place: where the run stops, such as `after step 3 of epoch 1; the state is saved`.
        """
        self.number = None
        return RunInterruptedError(
            f"Stopped by {signal.Signals(number).name} {place}. Go on with it by "
            f"`{errors.command('train.py', '--resume', f'--run_dir={self._run_dir}')}`.",
            number,
        )

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._place is not None:
            raise self.answer(number, self._place)
        if self.number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        # Not `print`, which the signal may just have interrupted. After SIGHUP the terminal may be gone.
        with contextlib.suppress(OSError):
            os.write(2, b"\nStopping after this step and saving. Ctrl-C stops at once, without saving.\n")


def alone(is_due: bool, number: int | None, is_certain: bool) -> tuple[bool, int | None]:
    """What `training.agreement.Agreement` comes to with one process, which has nobody to agree with."""
    return is_due, number


class Pause:
    """Asked after each batch while images are prepared: is it time to make sure that a kill doesn't lose them?

    Args:
        signals: end the preparation.
        seconds: between two such times; 0 for each batch.
        agree: see `training.agreement.Agreement`.
    """

    def __init__(
        self,
        signals: Signals,
        seconds: float,
        agree: Agree = alone,
    ) -> None:
        self._signals, self._seconds, self._agree = signals, seconds, agree
        self._last = time.monotonic()

    def __call__(self) -> bool:
        """Whether it is time.

        Raises:
            RunInterruptedError: a signal has come.
        """
        is_due, number = self._agree(time.monotonic() - self._last >= self._seconds, self._signals.number, False)
        if number is not None:
            place = "while images were being prepared; what of it is on the disk is kept"
            raise self._signals.answer(number, place)
        if is_due:
            self._last = time.monotonic()
        return is_due
