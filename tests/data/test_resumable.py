from __future__ import annotations

import json
import multiprocessing
import os
import pathlib
import random
import time

import numpy as np
import pytest

from data import claims, files, resumable
from errors import UserError

COLUMNS = [((3, 2), np.dtype(np.float32)), ((), np.dtype(np.int64))]
ROWS = 50
# Starts a child within milliseconds, with all that this file imports.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["data.resumable"])


class Stopped(BaseException):
    pass


def rows(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.arange(first, last)
    return np.arange(6 * first, 6 * last, dtype=np.float32).reshape(-1, 3, 2), numbers


def fill(folder: str, stop_at: int = ROWS + 1, saves: bool = True) -> int:
    """Adds rows one by one; gives the first that was missing."""
    with resumable.filling(folder, COLUMNS, ROWS) as table:
        first = table.rows
        for row in range(first, ROWS):
            if row == stop_at:
                raise Stopped
            table.append(*rows(row, row + 1))
            if saves:
                table.save()
    return first


def part_of(folder: str, number: int = 0) -> pathlib.Path:
    return pathlib.Path(f"{folder}.{number}.part")


def stop(folder: str, at: int) -> None:
    with pytest.raises(Stopped):
        fill(folder, stop_at=at)


def check(folder: str) -> None:
    columns = resumable.read(folder)
    assert columns is not None
    for column, expected in zip(columns, rows(0, ROWS), strict=True):
        np.testing.assert_array_equal(column, expected, strict=True)
    parent = os.path.dirname(folder)
    assert os.listdir(parent) == [os.path.basename(folder)], "nothing else is left"


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "tables" / "key")


def test_a_table_in_one_go(folder: str) -> None:
    assert resumable.read(folder) is None
    assert fill(folder) == 0
    check(folder)


@pytest.mark.parametrize("at", [1, 17, 49])
def test_it_goes_on_behind_the_last_row(folder: str, at: int) -> None:
    stop(folder, at)
    assert resumable.read(folder) is None, "an unfinished table is none"
    assert fill(folder) == at
    check(folder)


def test_stopped_before_the_first_row_it_leaves_nothing(folder: str) -> None:
    stop(folder, 0)
    assert os.listdir(os.path.dirname(folder)) == []


def test_rows_that_nobody_made_sure_of_are_not_believed(folder: str) -> None:
    """As a kill leaves them: some are in the file, the record doesn't know of them."""
    stop(folder, 17)
    record = part_of(folder) / "progress.json"
    known = record.read_bytes()
    stop(folder, 30)
    record.write_bytes(known)
    assert fill(folder) == 17
    check(folder)


@pytest.mark.parametrize("damage", ["flip", "cut", "removed", "record", "longer", "other columns"])
def test_what_is_damaged_is_begun_again(folder: str, damage: str) -> None:
    stop(folder, 17)
    column, record = part_of(folder) / "column0.npy", part_of(folder) / "progress.json"
    content = bytearray(column.read_bytes())
    if damage == "flip":
        content[128 + 16 * 24] ^= 1
        column.write_bytes(content)
    elif damage == "cut":
        column.write_bytes(content[:300])
    elif damage == "removed":
        column.unlink()
    elif damage == "record":
        record.write_text(record.read_text()[:10])
    elif damage == "longer":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"rows": 20}))
    else:
        np.save(column, np.zeros((ROWS, 7)))
    assert fill(folder) == 0
    check(folder)


def test_damage_behind_the_last_safe_row_does_no_harm(folder: str) -> None:
    stop(folder, 17)
    column = part_of(folder) / "column0.npy"
    content = bytearray(column.read_bytes())
    content[128 + 17 * 24 :] = b"\xff" * len(content[128 + 17 * 24 :])
    column.write_bytes(content)
    assert fill(folder) == 17
    check(folder)


def test_keeping_fewer_rows(folder: str) -> None:
    stop(folder, 30)
    with pytest.raises(Stopped), resumable.filling(folder, COLUMNS, ROWS) as table:
        table.keep_first(40)
        assert table.rows == 30
        table.keep_first(20)
        raise Stopped
    assert fill(folder) == 20
    check(folder)


def test_a_finished_table_that_is_damaged_is_replaced(folder: str) -> None:
    fill(folder)
    column = pathlib.Path(folder, "column1.npy")
    column.write_bytes(column.read_bytes()[:-1] + b"\xff")
    assert resumable.read(folder) is None
    assert resumable.read(folder, is_checked=False) is not None
    assert fill(folder) == 0
    check(folder)


def test_a_table_that_lacks_rows_is_never_finished(folder: str) -> None:
    with pytest.raises(UserError, match="needs 50 rows. Received: 20"):
        with resumable.filling(folder, COLUMNS, ROWS) as table:
            table.append(*rows(0, 20))
    assert resumable.read(folder) is None
    assert fill(folder) == 20


def test_two_at_once_do_not_meet_and_the_first_wins(folder: str) -> None:
    with resumable.filling(folder, COLUMNS, ROWS) as table:
        table.append(*rows(0, 10))
        assert fill(folder) == 0
        inode = os.stat(folder).st_ino
        assert part_of(folder).exists() and not part_of(folder, 1).exists()
        table.append(*rows(10, ROWS))
    assert os.stat(folder).st_ino == inode
    check(folder)


def test_the_second_goes_on_where_another_second_was_killed(folder: str) -> None:
    with pytest.raises(Stopped), resumable.filling(folder, COLUMNS, ROWS) as table:
        table.append(*rows(0, 5))
        stop(folder, 20)
        assert part_of(folder, 1).exists()
        raise Stopped
    assert fill(folder) == 5
    check(folder)


def test_what_nobody_goes_on_with_is_removed_after_a_week(folder: str) -> None:
    parent = pathlib.Path(folder).parent
    for name in ("old", "new", "busy", "key"):
        stop(str(parent / name), 5)
    for name in ("old", "busy", "key"):
        os.utime(part_of(str(parent / name)), (0, time.time() - files.GIVEN_UP_SECONDS - 60))
    busy = claims._locked(str(part_of(str(parent / "busy"))))
    assert busy
    with busy:
        assert fill(folder) == 5, "its own is never too old"
    assert sorted(os.listdir(parent)) == ["busy.0.part", "key", "new.0.part"]


def test_the_folder_is_removed_meanwhile(folder: str) -> None:
    with pytest.raises(UserError, match="can't be written: its folder does not exist"):
        with resumable.filling(folder, COLUMNS, ROWS) as table:
            table.append(*rows(0, 10))
            files.discard(os.path.dirname(folder))
            table.save()
    assert fill(folder) == 0
    check(folder)


def _slowly(folder: str) -> None:
    with resumable.filling(folder, COLUMNS, ROWS) as table:
        for row in range(table.rows, ROWS):
            table.append(*rows(row, row + 1))
            table.save()
            time.sleep(0.002)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_killed_at_any_moment_two_at_a_time(folder: str, seed: int) -> None:
    """Two processes at once, killed again and again, until one of them has finished."""
    generator = random.Random(seed)
    kills = 0
    while resumable.read(folder) is None:
        processes = [FORK.Process(target=_slowly, args=(folder,)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(generator.uniform(0, 0.15 + 0.05 * kills))
            process.kill()
            process.join()
        kills += 1
    assert kills < 40
    claims.clear_own(folder)
    files.remove_left_over(os.path.dirname(folder))
    check(folder)
