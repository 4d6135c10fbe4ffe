"""Running a script: its flags, its exit code, and an output that may go away.

Standard output and error can be lost at any time: a closed pipe, a lost terminal, a full disk.
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

    A wrong flag or a `UserError` ends the process with the bare message on stderr and exit code 2; a bug still shows
    its traceback. A closed pipe ends it quietly, with the exit code that the shell's own tools have then.

    Args:
        main: gives the exit code; None for 0.
        outlives_output: whether to continue where standard output can't be written any more.
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
    """Makes `main` print the message of a `UserError` and return its exit code; on Ctrl-C 130, as a shell has it."""

    @functools.wraps(main)
    def guarded(argv: list[str]) -> int | None:
        # absl takes the root logger over, and libraries tell it of their fonts and caches.
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
        f"Standard output can't be written: {reason}. Make room, or send it elsewhere. Files that were finished before "
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
    # What follows two dashes is for another script, or a name.
    own = argv[: argv.index("--")] if "--" in argv else argv
    if "-h" in own or "--help" in own:
        app.usage(shorthelp=True, writeto_stdout=True)
        _leave()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{_in_our_words(str(error))}\nPass --help to see all flags.") from error


def _leave() -> None:
    sys.stdout.flush()
    sys.exit()


def _in_our_words(message: str) -> str:
    """absl tells of a missing flag as it sees it, and has no suggestion for a value."""
    missing = re.search(r"Flag --(\w+) must have a value other than None", message)
    if missing:
        return f"--{missing[1]} must be given. {flags.FLAGS[missing[1]].help}"
    wrong = re.match(r"flag --(\w+)=(.*): value should be one of", message)
    parser = flags.FLAGS[wrong[1]].parser if wrong else None
    if wrong and isinstance(parser, flags.EnumParser):
        return f"{message}.{suggestion(wrong[2], parser.enum_values)}"
    return message


class _ClosedOutputError(Exception):
    """The reader of standard output is gone, as after `| head`."""


class _FailedOutputError(Exception):
    """Standard output can't be written, as on a full disk; the message is the system's reason."""


class _Output(io.FileIO):
    """A descriptor to print to. Once it has failed, what is printed goes nowhere.

    So nothing fails a second time, when Python writes what it has held back at exit.

    Args:
        descriptor: an open one, which stays open.
        is_needed: whether a failure is an error. Else the program continues without it.

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
            _ClosedOutputError: the reader or the terminal is gone, and the output is needed.
            _FailedOutputError: for another reason.
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
    """Puts such streams in the place of `sys.stdout` and `sys.stderr`, and gives the one that output goes to.

    Python's messages get a descriptor of their own, so that what libraries print to descriptor 2 can be told apart.

    Args:
        is_output_needed: whether a program without standard output is of no use.
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
