from __future__ import annotations

import errno
import multiprocessing
import os
import pathlib
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from data import files
from data.table import Batch, Table
from errors import UserError

COLUMNS = [((3, 2), np.dtype(np.float32)), ((), np.dtype(np.int64))]
ROWS = 50
# Starts a child within milliseconds, with all that this file imports.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["data.table"])


class Stopped(BaseException):
    pass


def rows(first: int, last: int) -> list[np.ndarray]:
    return [np.arange(6 * first, 6 * last, dtype=np.float32).reshape(-1, 3, 2), np.arange(first, last)]


def table(folder: str) -> Table:
    return Table(folder, COLUMNS, ROWS)


def fill(folder: str, stop_at: int = ROWS + 1, seconds: float = 0.0, start: int = ROWS, pause: float = 0.0) -> int:
    """Adds rows one by one from `start` on, or from the first that is missing, which is given."""
    safe_rows = []

    def missing(safe: int) -> Iterator[Batch]:
        safe_rows.append(safe)
        for row in range(min(safe, start), ROWS):
            if row == stop_at:
                raise Stopped
            time.sleep(pause)
            yield row, rows(row, row + 1)

    check_values(table(folder).fill(missing, seconds))
    return safe_rows[0]


def stop(folder: str, at: int, **how: Any) -> None:
    with pytest.raises(Stopped):
        fill(folder, stop_at=at, **how)


def check_values(columns: list[np.ndarray] | None) -> None:
    assert columns is not None
    for column, expected in zip(columns, rows(0, ROWS), strict=True):
        assert column.ctypes.data % 64 == 0, "or TensorFlow would copy it"
        np.testing.assert_array_equal(column, expected, strict=True)


def check(folder: str) -> None:
    check_values(table(folder).read())
    parent = os.path.dirname(folder)
    assert os.listdir(parent) == [os.path.basename(folder)], "nothing else is left"
    assert sorted(os.listdir(folder)) == ["record.json", "rows"]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "tables" / "key")


def test_a_table_in_one_go(folder: str) -> None:
    assert table(folder).read() is None
    assert fill(folder) == 0
    check(folder)


@pytest.mark.parametrize("at", [1, 17, 49])
@pytest.mark.parametrize("seconds", [0.0, 600.0])
def test_it_resumes_behind_the_last_row(folder: str, at: int, seconds: float) -> None:
    stop(folder, at, seconds=seconds)
    assert table(folder).read() is None and table(folder).read(is_checked=False) is None, "an unfinished table is none"
    assert fill(folder) == at
    check(folder)


def test_stopped_before_the_first_row_it_leaves_nothing(folder: str) -> None:
    stop(folder, 0)
    assert os.listdir(os.path.dirname(folder)) == []


def test_rows_that_are_not_recorded_are_not_believed(folder: str) -> None:
    """As a kill leaves them: some are in the file, the record doesn't know of them."""
    stop(folder, 17)
    record = pathlib.Path(folder, "record.json")
    known = record.read_bytes()
    stop(folder, 30)
    record.write_bytes(known)
    assert fill(folder) == 17
    check(folder)


@pytest.mark.parametrize("damage", ["flip", "cut", "removed", "record", "no record", "longer", "other columns"])
@pytest.mark.parametrize("at", [17, ROWS])
def test_what_is_damaged_is_computed_again(folder: str, damage: str, at: int) -> None:
    if at < ROWS:
        stop(folder, at)
    else:
        fill(folder)
    values, record = pathlib.Path(folder, "rows"), pathlib.Path(folder, "record.json")
    content = bytearray(values.read_bytes())
    if damage == "flip":
        content[16 * 24] ^= 1
        values.write_bytes(content)
    elif damage == "cut":
        values.write_bytes(content[:300])
    elif damage == "removed":
        values.unlink()
    elif damage == "record":
        record.write_text(record.read_text()[:10])
    elif damage == "no record":
        record.unlink()
    elif damage == "longer":
        record.write_text(record.read_text().replace(f"[[{at}, ", "[[20, "))
    else:
        record.write_text(record.read_text().replace("<f4", "<f8"))
    assert table(folder).read() is None
    if damage in ("cut", "removed"):
        assert table(folder).read(is_checked=False) is None
    assert fill(folder) == 0
    check(folder)


def test_a_cut_file_that_got_its_size_back_is_not_believed(folder: str) -> None:
    """Killed right after it: the zeros at its end were never computed."""
    fill(folder)
    values = pathlib.Path(folder, "rows")
    values.write_bytes(values.read_bytes()[:300])
    stop(folder, 0)
    assert table(folder).read(is_checked=False) is None
    assert fill(folder) == 0
    check(folder)


def test_only_what_lies_behind_damage_is_computed_again(tmp_path: pathlib.Path) -> None:
    """Chunks of 64 MiB and more are checked one by one."""
    big = Table(str(tmp_path / "big"), [((1 << 20,), np.dtype(np.uint8))], 200)
    asked = []

    def missing(safe: int) -> Iterator[Batch]:
        asked.append(safe)
        for row in range(safe, 200, 40):
            yield row, [np.full((40, 1 << 20), row, np.uint8)]

    big.fill(missing, 0.0)
    with open(tmp_path / "big" / "rows", "r+b") as file:
        file.seek(100 << 20)
        file.write(b"x")
    assert big.read() is None
    np.testing.assert_array_equal(big.fill(missing, 0.0)[0][:, 5], np.repeat(np.arange(0, 200, 40), 40))
    assert asked == [0, 80]
    assert big.read() is not None


def test_damage_behind_the_last_safe_row_does_no_harm(folder: str) -> None:
    stop(folder, 17)
    values = pathlib.Path(folder, "rows")
    content = bytearray(values.read_bytes())
    content[17 * 24 : ROWS * 24] = b"\xff" * (ROWS - 17) * 24
    values.write_bytes(content)
    assert fill(folder) == 17
    check(folder)


def test_rows_may_be_computed_again(folder: str) -> None:
    """Where another worker has fewer."""
    stop(folder, 30)
    stop(folder, 25, start=20)
    assert fill(folder) == 25
    stop(folder, 40, start=10)
    assert fill(folder) == 40
    check(folder)


def test_a_finished_table_that_is_damaged_is_noticed_where_it_is_checked(folder: str) -> None:
    fill(folder)
    values = pathlib.Path(folder, "rows")
    content = bytearray(values.read_bytes())
    content[ROWS * 24 + 70] ^= 1
    values.write_bytes(content)
    assert table(folder).read() is None
    assert table(folder).read(is_checked=False) is not None


def test_a_table_that_lacks_rows_is_never_finished(folder: str) -> None:
    with pytest.raises(ValueError, match="must make all 50 rows. Received: 20"):
        table(folder).fill(lambda safe: iter([(0, rows(0, 20))]), 0.0)
    assert table(folder).read() is None
    assert fill(folder) == 20


def test_two_at_once_do_no_harm(folder: str) -> None:
    """The second finishes while the first is at work, and what the first then replaces is the same."""
    inodes = []

    def missing(safe: int) -> Iterator[Batch]:
        yield 0, rows(0, 10)
        assert fill(folder) == 10
        inodes.append(os.stat(os.path.join(folder, "rows")).st_ino)
        finished = table(folder).read()
        for row in range(10, ROWS):
            yield row, rows(row, row + 1)
            check_values(finished)

    check_values(table(folder).fill(missing, 0.0))
    assert inodes == [os.stat(os.path.join(folder, "rows")).st_ino]
    check(folder)


def test_what_one_process_gives_up_another_keeps(folder: str) -> None:
    def missing(safe: int) -> Iterator[Batch]:
        stop(folder, 0)
        yield 0, rows(0, ROWS)

    check_values(table(folder).fill(missing, 0.0))
    check(folder)


def test_what_nobody_resumes_is_removed_after_a_week(folder: str) -> None:
    parent = pathlib.Path(folder).parent
    for name in ("old", "new", "busy", "key", "finished"):
        stop(str(parent / name), 5)
    fill(str(parent / "finished"))
    (parent / "of another program").mkdir()

    def missing(safe: int) -> Iterator[Batch]:
        for name in os.listdir(parent):
            if name != "new":
                os.utime(parent / name, (0, time.time() - files.GIVEN_UP_SECONDS - 60))
        assert fill(folder) == 5, "its own is never too old"
        yield safe, rows(safe, ROWS)

    table(str(parent / "busy")).fill(missing, 0.0)
    assert sorted(os.listdir(parent)) == ["busy", "finished", "key", "new", "of another program"]


def test_the_folder_is_removed_meanwhile(folder: str) -> None:
    def missing(safe: int) -> Iterator[Batch]:
        yield 0, rows(0, 10)
        files.discard(os.path.dirname(folder))
        yield 10, rows(10, 20)

    with pytest.raises(UserError, match="can't be written: its folder does not exist"):
        table(folder).fill(missing, 0.0)
    assert fill(folder) == 0
    check(folder)


def test_the_folder_is_removed_and_another_process_fills_it_anew(folder: str) -> None:
    """The first has written its rows to a file that is no more."""

    def missing(safe: int) -> Iterator[Batch]:
        yield 0, rows(0, 10)
        files.discard(os.path.dirname(folder))
        stop(folder, 5)
        yield 10, rows(10, 20)

    with pytest.raises(UserError, match="must not be replaced while it is filled"):
        table(folder).fill(missing, 0.0)
    assert fill(folder) == 5
    check(folder)


def test_an_image_that_cannot_be_read_is_no_failure_of_the_cache(folder: str) -> None:
    def missing(safe: int) -> Iterator[Batch]:
        yield 0, rows(0, 10)
        raise FileNotFoundError(errno.ENOENT, "No such file", "/photos/cat/1.jpg")

    with pytest.raises(FileNotFoundError):
        table(folder).fill(missing, 600.0)
    assert fill(folder) == 10


def _slowly(folder: str) -> None:
    fill(folder, pause=0.002)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_killed_at_any_moment_two_at_a_time(folder: str, seed: int) -> None:
    """Two processes at once, killed again and again, until one of them has finished."""
    generator = random.Random(seed)
    kills = 0
    while table(folder).read() is None:
        processes = [FORK.Process(target=_slowly, args=(folder,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(generator.uniform(0, 0.15 + 0.05 * kills))
            process.kill()
            process.join()
        kills += 1
    assert kills < 40
    files.remove_left_over(folder)
    check(folder)
