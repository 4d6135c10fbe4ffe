from __future__ import annotations

import pathlib
import shutil
import types

import numpy as np
import psutil
import pytest

from data import cache, folder
from data.load import load
from data.pipeline import Files, Table


@pytest.fixture
def files(image_folder: pathlib.Path) -> Files:
    return Files(folder.load(str(image_folder)), 16, 3)


def digests(files: Files) -> list[str]:
    return [str(i) for i in range(len(files))]


def test_memory_and_disk_hold_the_same_pixels(files: Files) -> None:
    in_memory, on_disk = (cache.keep_decoded(files, digests(files), mode) for mode in ("memory", "disk"))
    assert isinstance(in_memory, Table) and isinstance(on_disk, Table)
    assert isinstance(on_disk.inputs, np.memmap)
    np.testing.assert_array_equal(in_memory.inputs, on_disk.inputs)
    assert in_memory.inputs.std() > 10


def fail() -> bool:
    """Is asked after each batch that is decoded."""
    pytest.fail("decoded again")


def test_the_file_on_disk_is_used_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.keep_decoded(files, digests(files), "disk")
    cache.keep_decoded(files, digests(files), "disk", fail)
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        cache.keep_decoded(files, digests(files)[::-1], "disk", fail)
    monkeypatch.setattr(cache, "RULES", cache.RULES + 1)
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        cache.keep_decoded(files, digests(files), "disk", fail)


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_decoding_goes_on_where_it_was_ended(batches: int) -> None:
    """Of three batches, the last of which is a smaller one."""
    files = Files(load("digits").take(np.arange(150)), 16, 1)
    asked: list[int] = []

    def end() -> bool:
        asked.append(1)
        if len(asked) == batches:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        cache.keep_decoded(files, digests(files), "disk", end)
    table = cache.keep_decoded(files, digests(files), "disk", lambda: asked.append(2) or False)
    assert asked.count(2) == 3 - batches, "no batch is decoded twice"
    whole = cache.keep_decoded(files, digests(files), "memory")
    assert isinstance(table, Table) and isinstance(whole, Table)
    np.testing.assert_array_equal(table.inputs, whole.inputs)


def test_none_decodes_in_every_epoch(files: Files) -> None:
    assert cache.keep_decoded(files, digests(files), "none") is files


@pytest.mark.parametrize(("memory", "disk", "kind"), [(1e9, 1e9, np.ndarray), (1e4, 1e9, np.memmap), (1e4, 1e4, None)])
def test_auto_chooses_by_size(
    files: Files, monkeypatch: pytest.MonkeyPatch, memory: float, disk: float, kind: type | None
) -> None:
    """The pixels take 30,720 bytes."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=memory))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=disk))
    kept = cache.keep_decoded(files, digests(files), "auto")
    assert (type(kept.inputs) if isinstance(kept, Table) else None) is kind
