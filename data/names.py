"""Names of files and classes, which need not be UTF-8, few, or one line each."""

from __future__ import annotations

from collections.abc import Sequence

from errors import UserError

_LISTED = 10


def printable(text: str) -> str:
    """`text` with the bytes of file names that aren't UTF-8 shown as `\\xNN`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shortened(names: Sequence[str]) -> str:
    """The first names of a list that may have thousands, and how many more there are."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return printable(", ".join(names[:_LISTED]) + more)


def check_class_names(dataset: str, names: Sequence[str]) -> None:
    """Raises `UserError` for a class name that isn't one line: labels.txt has one line per class."""
    wrong = [repr(name) for name in names if name.splitlines() != [name]]
    if wrong:
        raise UserError(
            f"Each class name in {printable(dataset)} must be one line. Received: {shortened(wrong)}. Rename it."
        )
