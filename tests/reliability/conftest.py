"""File systems that are small enough to fill."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import write_photos


class TinyDisk:
    """A file system in memory of a few megabytes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, leave: int = 0) -> None:
        """Leaves `leave` bytes, rounded down to whole blocks."""
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize - leave
        with open(self._filler, "ab") as file:
            file.write(bytes(max(free, 0)))

    def drain(self) -> None:
        self._filler.unlink()

    def make_read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)


@pytest.fixture
def tiny_disk(tmp_path: pathlib.Path) -> Iterator[Callable[[int], TinyDisk]]:
    """Makes a disk of so many KiB; skips where mounting isn't allowed."""
    mounted: list[pathlib.Path] = []

    def make(kib: int) -> TinyDisk:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs needs root; tests/data/test_files.py injects the errors instead")
        mounted.append(path)
        return TinyDisk(path)

    yield make
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """15 images of two classes each, the same for all tests of a file."""
    return write_photos(tmp_path_factory.mktemp("images") / "photos", 15)
