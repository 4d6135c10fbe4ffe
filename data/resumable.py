"""Tables on disk that are filled from the first row on, and go on after a kill behind the last row that is safe.

A table is a folder with a `.npy` file a column. Until all rows are there it goes by another name, `KEY.0.part`, and is
locked by the process that fills it. A second process that wants the same table at the same time fills `KEY.1.part`;
the first to finish wins. A record in the folder says how many rows are safe, and their checksums; it is written after
the rows have been flushed to the disk, so what a kill or a power loss leaves behind it is never taken for data.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np

import errors
from data import claims
from data.files import (
    GIVEN_UP_SECONDS,
    discard,
    explained,
    make_folder,
    read_text,
    remove_left_over,
    reserve,
    write_text,
)
from data.names import printable
from errors import UserError

_RECORD = "progress.json"
_CHUNK_BYTES = 1 << 24
# Shape of one row, and type.
Column = tuple[tuple[int, ...], np.dtype]


def read(folder: str, *, is_checked: bool = True) -> list[np.ndarray] | None:
    """The columns of the finished table `folder`, mapped into memory; None where it is missing, unfinished or damaged.

    Args:
        folder: as given to `filling`.
        is_checked: whether to read all of it once and compare the checksums.
    """
    try:
        record = json.loads(read_text(os.path.join(folder, _RECORD)))
        columns = [np.load(_path(folder, i), mmap_mode="r") for i in range(len(record["sums"]))]
    except Exception:  # Whatever stands there instead, it can be computed again.
        return None
    if not columns or any(len(column) != record["rows"] for column in columns):
        return None
    if is_checked and [_checksum(column) for column in columns] != record["sums"]:
        return None
    return columns


def just_filled(folder: str) -> list[np.ndarray]:
    """The columns of a table that `filling` has finished.

    Raises:
        UserError: it is there no more.
    """
    columns = read(folder, is_checked=False)
    if columns is None:
        raise UserError(
            f"{printable(folder)} must stay as it is while a training reads it. Received: nothing, right after it was "
            "written. Run the same command again, and leave the cache alone meanwhile."
        )
    return columns


@contextlib.contextmanager
def filling(folder: str, columns: Sequence[Column], rows: int) -> Iterator[Filling]:
    """Lets the block fill what is missing of the table `folder`; what the block has done is kept, however it ends.

    Args:
        folder: of the table when it is finished; a damaged one may stand there.
        columns: what a row consists of.
        rows: of the whole table, 1 or more.

    Raises:
        UserError: the disk is full, or the place can't be written to.
    """
    with explained(folder):
        part, lock, table = _begin(folder, columns, rows)
    with lock:
        try:
            yield table
            table.save()
            if table.rows != rows:
                needed = errors.counted(rows, "row")
                raise UserError(
                    f"{printable(part)} is unfinished: it needs {needed}. Received: {table.rows:,}. "
                    "Run the same command again."
                )
        except BaseException:
            # Also where the user has asked for the end: what is done shall not be done again.
            with contextlib.suppress(Exception):
                table.save()
            if table.rows == 0:
                discard(part)
            raise
        finally:
            table.close()
        with explained(folder):
            _publish(part, folder)


def _begin(folder: str, columns: Sequence[Column], rows: int) -> tuple[str, IO[str], Filling]:
    make_folder(os.path.dirname(folder))
    claims.clear(folder, GIVEN_UP_SECONDS)
    try:
        return _open(folder, columns, rows)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    # Unfinished tables that nobody fills are the first that can be done without.
    claims.clear(folder, 0.0)
    return _open(folder, columns, rows)


def _open(folder: str, columns: Sequence[Column], rows: int) -> tuple[str, IO[str], Filling]:
    part, lock = claims.claim(folder)
    try:
        return part, lock, Filling(part, columns, rows)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            discard(part)
        lock.close()
        raise


class Filling:
    """A table that is being filled.

    Args:
        part: its folder, which may hold some rows already.
        columns: see `filling`.
        total: rows of the whole table.

    Attributes:
        rows: how many there are so far.
    """

    def __init__(self, part: str, columns: Sequence[Column], total: int) -> None:
        self._part, self._columns = part, columns
        self.rows, self._sums = 0, [0] * len(columns)
        remove_left_over(part)
        found = self._found(total)
        if found is None:
            self._create(total)
            found = self.rows, self._sums
        self.rows, self._sums = found
        self._files: list[IO[bytes]] = [open(_path(part, i), "r+b") for i in range(len(columns))]
        self._starts = [_mapped(part, i).offset for i in range(len(columns))]

    def keep_first(self, rows: int) -> None:
        """Forgets all rows behind the first `rows`."""
        if rows < self.rows:
            self._flush()
            sums = [_checksum(_mapped(self._part, i)[:rows]) for i in range(len(self._columns))]
            self.rows, self._sums = rows, sums

    def append(self, *values: np.ndarray) -> None:
        """Adds rows: of each column an array whose first axis counts them.

        Raises:
            UserError: the disk is full, or the place can't be written to.
        """
        sums = []
        with explained(self._part):
            for i, (value, (shape, kind)) in enumerate(zip(values, self._columns, strict=True)):
                content = np.ascontiguousarray(value, kind).reshape(-1).view(np.uint8).data
                row_bytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
                self._files[i].seek(self._starts[i] + self.rows * row_bytes)
                self._files[i].write(content)
                sums.append(zlib.crc32(content, self._sums[i]))
        # In one statement, since a signal may end this process's work between any two.
        self.rows, self._sums = self.rows + len(values[0]), sums

    def save(self) -> None:
        """Makes all rows so far safe.

        Raises:
            UserError: the disk is full, or the place can't be written to.
        """
        with explained(self._part):
            self._flush()
            self._write_record()

    def _flush(self) -> None:
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Closes the files."""
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()

    def _found(self, total: int) -> tuple[int, list[int]] | None:
        """Rows and checksums that another process has left here; None unless all of it is as it says."""
        try:
            record = json.loads(read_text(os.path.join(self._part, _RECORD)))
            rows, sums = record["rows"], record["sums"]
            columns = [_mapped(self._part, i) for i in range(len(self._columns))]
            wanted = [((total, *shape), kind) for shape, kind in self._columns]
            is_right = [(column.shape, column.dtype) for column in columns] == wanted and 0 <= rows <= total
            return (rows, sums) if is_right and [_checksum(each[:rows]) for each in columns] == sums else None
        except Exception:
            return None

    def _create(self, total: int) -> None:
        """Takes all the room now: a full disk should be noticed before hours of work, not after."""
        for i, (shape, kind) in enumerate(self._columns):
            np.lib.format.open_memmap(_path(self._part, i), "w+", kind, (total, *shape))
            reserve(_path(self._part, i))
        self._write_record()

    def _write_record(self) -> None:
        record = {"rows": self.rows, "sums": self._sums}
        write_text(os.path.join(self._part, _RECORD), json.dumps(record))


def _path(folder: str, column: int) -> str:
    return os.path.join(folder, f"column{column}.npy")


def _mapped(folder: str, column: int) -> np.memmap:
    return np.lib.format.open_memmap(_path(folder, column), "r")


def _checksum(rows: np.ndarray) -> int:
    value = 0
    content = np.ascontiguousarray(rows).reshape(-1).view(np.uint8) if rows.size else np.empty(0, np.uint8)
    for first in range(0, len(content), _CHUNK_BYTES):
        value = zlib.crc32(content[first : first + _CHUNK_BYTES].data, value)
    return value


def _publish(part: str, folder: str) -> None:
    """Gives a finished table its name, unless another process was first."""
    if os.path.isdir(folder) and read(folder) is None:
        discard(folder)
    try:
        os.rename(part, folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        discard(part)
    claims.clear_own(folder)
