"""Results of earlier scans, kept in the user's cache folder, never beside the images."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence

import tensorflow as tf

from data.files import cache_folder, make_folder, read_text, write_text
from errors import UserError


def stamp_of_file(path: bytes) -> str:
    """Size, modification time and change time of a file, which tell whether it has changed since a scan.

    Empty if they can't be read.
    """
    try:
        if b"://" in path:
            remote = tf.io.gfile.stat(path)
            return f"{remote.length}-{remote.mtime_nsec}"
        local = os.stat(path)
    except (OSError, tf.errors.OpError):
        return ""
    return f"{local.st_size}-{local.st_mtime_ns}-{local.st_ctime_ns}"


def stamp_of_bytes(encoded: bytes) -> str:
    """SHA-256 of the content."""
    return hashlib.sha256(encoded).hexdigest()


class ScanCache:
    """Rows of text with the findings about the images of one data set.

    Args:
        name: of the data set.
        rules: what the findings depend on besides the images; those under other rules are ignored.
    """

    def __init__(self, name: str, rules: str) -> None:
        key = hashlib.sha256(os.fsencode(os.path.abspath(name)) + b"\n" + rules.encode()).hexdigest()[:16]
        self._path = os.path.join(cache_folder(), "scans", f"{key}.csv")
        self._rows = self._read()

    def get(self, address: str, stamp: str) -> list[str] | None:
        """The findings about an image; None if it has changed since."""
        row = self._rows.get(address, [""])
        return row[1:] if stamp and row[0] == stamp else None

    def keep(self, rows: Iterable[tuple[str, str, Sequence[object]]]) -> None:
        """Replaces all rows with these: address, stamp, findings."""
        table = io.StringIO()
        csv.writer(table).writerows([address, stamp, *findings] for address, stamp, findings in rows)
        # Without a cache the next run scans again; that is no reason to stop this one.
        with contextlib.suppress(UserError, OSError, tf.errors.OpError):
            make_folder(os.path.dirname(self._path))
            write_text(self._path, table.getvalue())

    def _read(self) -> dict[str, list[str]]:
        try:
            rows = list(csv.reader(io.StringIO(read_text(self._path)), strict=True))
        except (OSError, tf.errors.OpError, csv.Error):
            return {}
        return {row[0]: row[1:] for row in rows if len(row) > 1}
