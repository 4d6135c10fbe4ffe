"""The one kind of error that a user can cause, and how a script ends on it."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable

from absl import app, flags, logging

import console
import wording

VERSION = "0.1.0"

Main = Callable[[list[str]], int | None]


class UserError(Exception):
    """Something that the user can put right.

    The message says what must hold, which values are legal, what was received, and the way out.
    """

    exit_code = 2


def run(main: Main, *, outlives_output: bool = False) -> None:
    """Runs a script's `main` with the command line's positional arguments, the script's name first.

    A wrong flag or a `UserError` ends the process with the bare message on stderr and exit code 2; a bug still shows
    its traceback. A closed pipe ends it quietly, with the exit code that the shell's own tools have then.

    Args:
        main: gives the exit code; None for 0.
        outlives_output: whether to go on where standard output can't be written any more.
    """
    # Read by TensorFlow's C++ part when it is loaded, which no script does before `main`.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    output = console.install(is_output_needed=not outlives_output)

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
        except console.ClosedOutputError:
            return 128 + signal.SIGPIPE
        except console.FailedOutputError as error:
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
        return f"{message}.{wording.suggestion(wrong[2], parser.enum_values)}"
    return message
