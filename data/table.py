"""Arrays in the cache, filled from the first row on; after a kill, filling resumes after the last saved row.

A table is a folder with two files. `rows` holds the columns one after the other and has its full size from the start;
`record.json` lists the saved chunks of rows, with a checksum each. The record is replaced once the rows are on the
disk, so what a kill or a power loss leaves after them is never read. Processes that fill the same table at once write
the same values to the same places, and each replaces the record by another valid one. (If a GPU makes the last bits
differ, a chunk may not match its recorded checksum; it is then computed again.)
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from data.files import GIVEN_UP_SECONDS, discard, explained, make_folder, read_text, remove_left_over, write_text
from data.names import printable
from data.shared_arrays import ALIGNMENT
from errors import UserError

_ROWS, _RECORD = "rows", "record.json"
# A smaller chunk is merged with the next, so that the record of a million images stays short.
_LEAST_CHUNK_BYTES = 1 << 26

# Shape and type of one row.
Column = tuple[tuple[int, ...], np.dtype]
# Index of the first row, and the values of each column.
Batch = tuple[int, Sequence[np.ndarray]]
# Index of the row after the last one, and the checksum.
_Chunk = tuple[int, int]


class Table:
    """Columns of values with a row per image.

    Args:
        folder: named by a key of everything that the values depend on.
        columns: shape and type of each.
        rows: their number, 1 or more.
    """

    def __init__(self, folder: str, columns: Sequence[Column], rows: int) -> None:
        self.folder, self.columns, self.rows = folder, columns, rows
        self.row_bytes = [math.prod(shape) * kind.itemsize for shape, kind in columns]
        sizes = (-(-rows * each // ALIGNMENT) * ALIGNMENT for each in self.row_bytes)
        *self.offsets, self.size = itertools.accumulate(sizes, initial=0)

    def read(self, *, is_checked: bool = True) -> list[np.ndarray] | None:
        """The columns, memory-mapped; None if rows are missing or damaged.

        Args:
            is_checked: whether to read all rows once and compare checksums.
        """
        try:
            with open(os.path.join(self.folder, _ROWS), "rb") as file:
                values = self.mapped(file)
        except (OSError, ValueError):  # There is none, or it is cut off.
            return None
        chunks = _intact(self.recorded(), values) if is_checked else self.recorded()
        return values if _end(chunks) == self.rows else None

    def fill(self, batches_from: Callable[[int], Iterator[Batch]], seconds: float) -> list[np.ndarray]:
        """Computes the missing rows and returns the columns; computed rows are kept, however this ends.

        Args:
            batches_from: takes the number of saved rows; yields the batches from that row or an earlier one up to the
                last row.
            seconds: between two saves; 0 saves after each batch.

        Raises:
            UserError: the disk is full, or the cache can't be written to.
        """
        with _opened(self.folder) as file:
            filling = _Filling(self, file)
            try:
                for first, values in batches_from(filling.rows):
                    filling.write(first, values)
                    if time.monotonic() - filling.saved >= seconds:
                        filling.save()
            except BaseException:
                # Even if the user stops the program: computed rows should be kept.
                with contextlib.suppress(Exception):
                    filling.save()
                raise
            filling.save()
        if filling.rows != self.rows:
            raise ValueError(f"`batches_from` must make all {self.rows:,} rows. Received: {filling.rows:,}.")
        return filling.values

    def mapped(self, file: BinaryIO) -> list[np.ndarray]:
        """The columns, mapped from the open file `rows`."""
        places = zip(self.columns, self.offsets, strict=True)
        return [np.memmap(file, kind, "r", offset, (self.rows, *shape)) for (shape, kind), offset in places]

    def recorded(self) -> list[_Chunk]:
        """The saved chunks according to the record; none if it is of other columns or rows."""
        columns, rows, chunks = _read_record(self.folder)
        return chunks if (columns, rows) == (self._described(), self.rows) else []

    def record(self, chunks: list[_Chunk]) -> None:
        """Replaces the record."""
        record = {"columns": self._described(), "rows": self.rows, "chunks": chunks}
        write_text(os.path.join(self.folder, _RECORD), json.dumps(record))

    def _described(self) -> str:
        return ", ".join(f"{kind.str} {shape}" for shape, kind in self.columns)


class _Filling:
    """A table being filled: the number of `rows` so far, and when they were last `saved` (`time.monotonic`)."""

    def __init__(self, table: Table, file: BinaryIO) -> None:
        self._table, self._file = table, file
        with explained(table.folder):
            remove_left_over(table.folder)
            if os.fstat(file.fileno()).st_size != table.size:
                # New, or cut off: the zeros that replace the lost rows must not be taken for rows.
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(table.folder, _RECORD))
            _reserve(file, table)
            self.values = table.mapped(file)
        self._chunks = _intact(table.recorded(), self.values)
        self.rows, self.saved = _end(self._chunks), time.monotonic()

    def write(self, first: int, values: Sequence[np.ndarray]) -> None:
        """Writes the values of each column from row `first` on."""
        table = self._table
        if first < _end(self._chunks):
            self._chunks = [chunk for chunk in self._chunks if chunk[0] <= first]
        with explained(table.folder):
            for i, (value, (_, kind)) in enumerate(zip(values, table.columns, strict=True)):
                self._file.seek(table.offsets[i] + first * table.row_bytes[i])
                self._file.write(np.ascontiguousarray(value, kind).reshape(-1).view(np.uint8).data)
        self.rows = first + len(values[0])

    def save(self) -> None:
        """Saves all rows so far."""
        table, kept = self._table, self._chunks
        if self.rows == _end(kept):
            return
        if kept and (kept[-1][0] - _end(kept[:-1])) * sum(table.row_bytes) < _LEAST_CHUNK_BYTES:
            kept = kept[:-1]
        with explained(table.folder):
            self._file.flush()
            os.fsync(self._file.fileno())
            if not os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._file.name)):
                raise UserError(
                    f"{printable(table.folder)} must not be replaced while it is filled. Received: another folder of "
                    "the same name. Don't change the cache meanwhile, and run the same command again."
                )
            chunks = [*kept, (self.rows, _checksum(self.values, _end(kept), self.rows))]
            table.record(chunks)
        self._chunks, self.saved = chunks, time.monotonic()


@contextlib.contextmanager
def _opened(folder: str) -> Iterator[BinaryIO]:
    """The file `rows`, locked so that no process removes it to free space."""
    with explained(folder):
        make_folder(folder)
        _free_space(folder, GIVEN_UP_SECONDS)
        path = os.path.join(folder, _ROWS)
        file = open(path, "r+b", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))
        fcntl.flock(file, fcntl.LOCK_SH)
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):
            # Closing is not enough: the mapped columns keep the file open.
            fcntl.flock(file, fcntl.LOCK_UN)
            file.close()
        if not _read_record(folder)[2]:
            _discard_if_free(folder)


def _reserve(file: BinaryIO, table: Table) -> None:
    """Takes all the space now: a full disk should be noticed before hours of work, not after."""
    os.ftruncate(file.fileno(), table.size)
    try:
        os.posix_fallocate(file.fileno(), 0, table.size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # Unfinished tables that no process fills are the least needed.
        _free_space(table.folder, 0.0)
        os.posix_fallocate(file.fileno(), 0, table.size)


def _free_space(folder: str, seconds: float) -> None:
    """Removes unfinished tables beside `folder` that no process has filled for `seconds`."""
    parent, own = os.path.split(folder)
    remove_left_over(parent)
    for name in os.listdir(parent):
        other = os.path.join(parent, name)
        _, rows, chunks = _read_record(other)
        with contextlib.suppress(OSError):
            if name != own and rows != _end(chunks) and time.time() - os.stat(other).st_mtime >= seconds:
                _discard_if_free(other)


def _discard_if_free(folder: str) -> None:
    """Removes a table that no process fills; anything else stays."""
    with contextlib.suppress(OSError), open(os.path.join(folder, _ROWS), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        discard(folder)


def _read_record(folder: str) -> tuple[str, int, list[_Chunk]]:
    """A table's columns, its full number of rows, and its chunks; no chunks if the record can't be read."""
    try:
        record = json.loads(read_text(os.path.join(folder, _RECORD)))
        return str(record["columns"]), int(record["rows"]), [(int(a), int(b)) for a, b in record["chunks"]]
    except Exception:  # An unreadable record counts as none: the rows are computed again.
        return "", -1, []


def _end(chunks: Sequence[_Chunk]) -> int:
    return chunks[-1][0] if chunks else 0


def _intact(chunks: Sequence[_Chunk], columns: Sequence[np.ndarray]) -> list[_Chunk]:
    """The chunks before the first damaged one."""
    starts = [0, *(stop for stop, _ in chunks)]
    pairs = zip(starts, chunks, strict=False)
    return [chunk for _, chunk in itertools.takewhile(lambda pair: _is_whole(*pair, columns), pairs)]


def _is_whole(start: int, chunk: _Chunk, columns: Sequence[np.ndarray]) -> bool:
    stop, checksum = chunk
    return start < stop and _checksum(columns, start, stop) == checksum


def _checksum(columns: Sequence[np.ndarray], start: int, stop: int) -> int:
    value = 0
    for column in columns:
        value = zlib.crc32(column[start:stop].reshape(-1).view(np.uint8).data, value)
    return value
