"""The one kind of error that a user can cause, and how a script ends on it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the user can put right.

    The message says what must hold, which values are legal, what was received, and the way out.
    """


def exits_with_message(main: Callable[[list[str]], int | None]) -> Callable[[list[str]], int | None]:
    """Makes a script's `main` end with exit code 2 and the bare message on a `UserError`."""

    @functools.wraps(main)
    def guarded(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            print(f"{main.__module__ if main.__module__ != '__main__' else 'error'}: {error}", file=sys.stderr)
            return 2

    return guarded
