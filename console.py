"""Standard output and error that may go away: a closed pipe, a lost terminal, a full disk."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class ClosedOutputError(Exception):
    """Nobody reads standard output any more, as after `| head`."""


class FailedOutputError(Exception):
    """Standard output can't be written, as on a full disk; the message is the system's reason."""


class Output(io.FileIO):
    """A descriptor to print to. Once it has failed, what is printed goes nowhere.

    So nothing fails a second time, when Python writes what it has held back at exit.

    Args:
        descriptor: an open one, which stays open.
        is_needed: whether a failure is an error. Else the program goes on without it.

    Attributes:
        failure: the system's reason for a failure that the user should know of; None for none.
    """

    def __init__(self, descriptor: int, *, is_needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_needed, self._is_terminal = is_needed, os.isatty(descriptor)
        self.failure: str | None = None

    def write(self, data: Any) -> int:
        """Writes what it can.

        Raises:
            ClosedOutputError: the reader or the terminal is gone, and the output is needed.
            FailedOutputError: for another reason.
        """
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            _send_nowhere(self.fileno())
            self._fail(error)
            return memoryview(data).nbytes

    def _fail(self, error: OSError) -> None:
        is_closed = error.errno == errno.EPIPE or (self._is_terminal and error.errno == errno.EIO)
        if not is_closed:
            self.failure = os.strerror(error.errno or errno.EIO)
        if self._is_needed:
            raise (ClosedOutputError() if is_closed else FailedOutputError(self.failure)) from error


def install(*, is_output_needed: bool) -> Output:
    """Puts such streams in the place of `sys.stdout` and `sys.stderr`, and gives the one that output goes to.

    Python's messages get a descriptor of their own, so that what libraries print to descriptor 2 can be told apart.

    Args:
        is_output_needed: whether a program without standard output is of no use.
    """
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    output = Output(1, is_needed=is_output_needed)
    sys.stdout = _text(output, sys.stdout)
    sys.stderr = _text(Output(os.dup(2), is_needed=False), sys.stderr, line_buffering=True)
    return output


def _text(raw: Output, previous: Any, *, line_buffering: bool = False) -> TextIO:
    if previous is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=line_buffering)
    previous.flush()
    # As Python itself does with -u and PYTHONUNBUFFERED.
    buffer: Any = raw if previous.write_through else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        previous.encoding,
        previous.errors,
        line_buffering=line_buffering or previous.line_buffering,
        write_through=previous.write_through,
    )


def _open_if_closed(descriptor: int) -> None:
    """Or the next file that is opened would get this number, and what libraries print would go into it."""
    try:
        os.fstat(descriptor)
    except OSError:
        _send_nowhere(descriptor)


def _send_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    # Or the next process would begin without it.
    os.set_inheritable(descriptor, True)
