"""The one kind of error that a user can cause, and how a script ends on it."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable

from absl import app, flags, logging

Main = Callable[[list[str]], int | None]


class UserError(Exception):
    """Something that the user can put right.

    The message says what must hold, which values are legal, what was received, and the way out.
    """

    exit_code = 2


def run(main: Main) -> None:
    """Runs a script's `main` with the command line's positional arguments, the script's name first.

    A wrong flag or a `UserError` ends the process with the bare message on stderr and exit code 2; a bug still shows
    its traceback.
    """
    # Read by TensorFlow's C++ part when it is loaded, which no script does before `main`.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(exits_with_message(main), flags_parser=_parse_flags)


def exits_with_message(main: Main) -> Main:
    """Makes `main` print the message of a `UserError` and return its exit code; on Ctrl-C 130, as a shell has it."""

    @functools.wraps(main)
    def guarded(argv: list[str]) -> int | None:
        # absl takes the root logger over, and libraries tell it of their fonts and caches.
        logging.set_verbosity(logging.WARNING)
        try:
            return main(argv)
        except UserError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C.", file=sys.stderr)
            return 128 + signal.SIGINT

    return guarded


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"{error}\nPass --help to see all flags.", file=sys.stderr)
        sys.exit(UserError.exit_code)
