from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import types

import numpy as np
import psutil
import pytest

from data import cache, folder, load
from data.batches import Batches
from data.validation import validate


@pytest.fixture
def batches(image_folder: pathlib.Path) -> Batches:
    return Batches(validate(folder.load(str(image_folder))), image_size=16)


def test_memory_and_disk_hold_the_same_pixels(batches: Batches) -> None:
    in_memory, on_disk = (cache.keep_decoded(batches, mode) for mode in ("memory", "disk"))
    assert isinstance(on_disk.inputs, np.memmap)
    np.testing.assert_array_equal(in_memory.inputs, on_disk.inputs)
    assert in_memory.inputs.std() > 10


def fail() -> None:
    """Is called after each batch that is decoded."""
    pytest.fail("decoded again")


def test_the_file_on_disk_is_used_again(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep_decoded(batches, "disk")
    cache.keep_decoded(batches, "disk", fail)
    other = dataclasses.replace(batches, inputs=batches.dataset.take(np.arange(len(batches))[::-1]))
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        cache.keep_decoded(other, "disk", fail)
    monkeypatch.setattr(cache, "RULES", cache.RULES + 1)
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        cache.keep_decoded(batches, "disk", fail)


@pytest.mark.parametrize("done", [1, 2, 3])
def test_decoding_resumes_where_it_was_ended(done: int) -> None:
    """Of three batches, the last of which is a smaller one."""
    batches = Batches(validate(load("digits").take(np.arange(150))), image_size=16, channels=1)
    decoded: list[int] = []

    def end() -> None:
        decoded.append(1)
        if len(decoded) == done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep_decoded(batches, "disk", end)
    table = cache.keep_decoded(batches, "disk", lambda: decoded.append(2))
    assert decoded.count(2) == 3 - done, "no batch is decoded twice"
    whole = cache.keep_decoded(batches, "memory")
    np.testing.assert_array_equal(table.inputs, whole.inputs)


@pytest.mark.parametrize("damage", ["cut", "removed", "of another version"])
def test_what_is_no_whole_file_is_decoded_again(batches: Batches, cache_of_its_own: pathlib.Path, damage: str) -> None:
    kept = np.array(cache.keep_decoded(batches, "disk").inputs)
    (folder,) = (cache_of_its_own / "darkroom" / "pixels").iterdir()
    if damage == "cut":
        os.truncate(folder / "rows", 1000)
    elif damage == "removed":
        (folder / "rows").unlink()
    else:
        for path in folder.iterdir():
            path.write_text("{}")
        (folder / "column0.npy").touch()
    decoded: list[int] = []
    again = cache.keep_decoded(batches, "disk", lambda: decoded.append(1))
    np.testing.assert_array_equal(again.inputs, kept)
    assert len(decoded) == 1


def test_a_read_only_cache_is_read(batches: Batches, cache_of_its_own: pathlib.Path) -> None:
    cache.keep_decoded(batches, "disk")
    (folder,) = (cache_of_its_own / "darkroom" / "pixels").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]}
    cache.keep_decoded(batches, "disk", fail)
    assert {path.name: path.stat().st_mtime_ns for path in [folder, *folder.iterdir()]} == before


def test_none_decodes_in_every_epoch(batches: Batches) -> None:
    assert cache.keep_decoded(batches, "none") is batches


@pytest.mark.parametrize(("memory", "disk", "kind"), [(1e9, 1e9, np.ndarray), (1e4, 1e9, np.memmap), (1e4, 1e4, None)])
def test_auto_chooses_by_size(
    batches: Batches, monkeypatch: pytest.MonkeyPatch, memory: float, disk: float, kind: type | None
) -> None:
    """The pixels take 30,720 bytes."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=memory))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=disk))
    kept = cache.keep_decoded(batches, "auto")
    assert (type(kept.inputs) if kept.is_decoded else None) is kind
