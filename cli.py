"""Runs a command-line script: flags, exit code, and output that may fail.

Standard output and error can fail at any time: a closed pipe, a lost terminal, a full disk.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from absl import app, flags, logging

from errors import UserError, suggestion

VERSION = "0.1.0"

Main = Callable[[list[str]], int | None]


def run(main: Main, *, outlives_output: bool = False) -> None:
    """Runs a script's `main` with the command line's positional arguments, the script's name first.

    A wrong flag or a `UserError` prints its message on stderr and exits with the error's code, usually 2; a bug still
    shows its traceback. A closed pipe exits quietly with 141, as shell tools do.

    Args:
        main: returns the exit code; None for 0.
        outlives_output: whether to continue after standard output has failed.
    """
    output = _install(is_output_needed=not outlives_output)

    def flushed(argv: list[str]) -> int | None:
        try:
            code = main(argv)
        finally:
            sys.stdout.flush()
        if output.failure:
            raise _failed(output.failure)
        return code

    app.run(exits_with_message(flushed), flags_parser=_parse_flags)


def exits_with_message(main: Main) -> Main:
    """Wraps `main` to print a `UserError`'s message and return its exit code, or 130 on Ctrl-C, as a shell does."""

    @functools.wraps(main)
    def guarded(argv: list[str]) -> int | None:
        # absl takes over the root logger, to which libraries log their fonts and caches.
        logging.set_verbosity(logging.WARNING)
        try:
            return main(argv)
        except _ClosedOutputError:
            return 128 + signal.SIGPIPE
        except _FailedOutputError as error:
            return _end(_failed(str(error)))
        except UserError as error:
            return _end(error)
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C.", file=sys.stderr)
            return 128 + signal.SIGINT

    return guarded


def _end(error: UserError) -> int:
    print(error, file=sys.stderr)
    return error.exit_code


def _failed(reason: str) -> UserError:
    return UserError(
        f"Standard output can't be written: {reason}. Free some space, or redirect it. Files that were finished before "
        "are whole."
    )


def _parse_flags(argv: list[str]) -> list[str]:
    positional: list[str] = []

    def parse(argv: list[str]) -> None:
        positional.extend(_parsed(argv))
        sys.stdout.flush()

    code = exits_with_message(parse)(argv)
    if code:
        sys.exit(code)
    return positional


def _parsed(argv: list[str]) -> list[str]:
    if argv[1:] == ["--version"]:
        print(f"darkroom {VERSION}")
        _leave()
    # Arguments after `--` are another script's, or names.
    own = argv[: argv.index("--")] if "--" in argv else argv
    if "-h" in own or "--help" in own:
        app.usage(shorthelp=True, writeto_stdout=True)
        _leave()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{_reworded(str(error))}\nPass --help to see all flags.") from error


def _leave() -> None:
    sys.stdout.flush()
    sys.exit()


def _reworded(message: str) -> str:
    """Rewords absl's error for a missing flag, and for a wrong value, with a suggestion."""
    missing = re.search(r"Flag --(\w+) must have a value other than None", message)
    if missing:
        return f"--{missing[1]} must be given. {flags.FLAGS[missing[1]].help}"
    wrong = re.match(r"flag --(\w+)=(.*): value should be one of", message)
    parser = flags.FLAGS[wrong[1]].parser if wrong else None
    if wrong and isinstance(parser, flags.EnumParser):
        legal = parser.enum_values
        return (
            f"--{wrong[1]} must be one of {', '.join(legal)}. Received: --{wrong[1]}={wrong[2]}."
            f"{suggestion(wrong[2], legal)}"
        )
    return re.sub(r"Did you mean: (\S+) \?", r"Did you mean --\1?", message)


class _ClosedOutputError(Exception):
    """The reader of standard output is gone, as after `| head`."""


class _FailedOutputError(Exception):
    """Standard output can't be written, as on a full disk; the message is the system's reason."""


class _Output(io.FileIO):
    """A file descriptor to print to. After a failure, output is discarded.

    Otherwise Python would fail again at exit, when it flushes its buffers.

    Args:
        descriptor: an open one, which stays open.
        is_needed: whether a failure is an error. If not, the program continues.

    Attributes:
        failure: the system's reason for a failure to report; None for none.
    """

    def __init__(self, descriptor: int, *, is_needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_needed, self._is_terminal = is_needed, os.isatty(descriptor)
        self.failure: str | None = None

    def write(self, data: Any) -> int:
        """Writes `data`, or discards it after a failure.

        Raises:
            _ClosedOutputError: the output is needed, but its reader or terminal is gone.
            _FailedOutputError: it is needed, but failed otherwise.
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
            raise (_ClosedOutputError() if is_closed else _FailedOutputError(self.failure)) from error


def _install(*, is_output_needed: bool) -> _Output:
    """Replaces `sys.stdout` and `sys.stderr` by such streams, and returns the former's `_Output`.

    `sys.stderr` gets a copy of descriptor 2, so that what libraries print to 2 can be filtered.

    Args:
        is_output_needed: whether the program ends without standard output.
    """
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    output = _Output(1, is_needed=is_output_needed)
    sys.stdout = _text(output, sys.stdout)
    sys.stderr = _text(_Output(os.dup(2), is_needed=False), sys.stderr, line_buffering=True)
    return output


def _text(raw: _Output, previous: Any, *, line_buffering: bool = False) -> TextIO:
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
    """Otherwise the next opened file would get this number, and what libraries print would go into it."""
    try:
        os.fstat(descriptor)
    except OSError:
        _send_nowhere(descriptor)


def _send_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    # Otherwise child processes would lack it.
    os.set_inheritable(descriptor, True)
