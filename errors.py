"""The error for what a user can fix, and helpers for its messages: commands, counts, suggestions."""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Iterable

_HERE = os.path.dirname(os.path.abspath(__file__))


class UserError(Exception):
    """An error that the user can fix.

    The message says what must hold, which values are legal, what was received, and the way out.
    """

    exit_code = 2


def command(script: str, *arguments: str) -> str:
    """A shell command that runs a script of this program from the current folder, with its arguments quoted.

    Args:
        script: such as `train.py`.
        arguments: the script's, unquoted.
    """
    path = script if os.getcwd() == _HERE else os.path.join(_HERE, script)
    return shlex.join([os.path.basename(sys.executable) or "python", path, *arguments])


def counted(number: int, noun: str) -> str:
    """The number with its noun: `1 image`, `2,000 images`, `2 classes`."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def suggestion(received: str, legal: Iterable[str]) -> str:
    """` Did you mean resnet50?` for `ResNet50`; empty if no legal value is similar."""
    names = {name.lower(): name for name in legal}
    close = difflib.get_close_matches(received.lower(), names, n=1, cutoff=0.7)
    return f" Did you mean {names[close[0]]}?" if close else ""
