"""A file system of its own, in a file, whose power can be cut: for trying what a run leaves behind then."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator

from errors import UserError

# EXT4_IOC_SHUTDOWN of fs/ext4/ext4.h, and its flag for stopping at once, without a last write to the journal.
_SHUTDOWN = 0x8004587D
_WITHOUT_JOURNAL = 2
_MIB = 512


class Disk:
    """An ext4 file system at `path`, made by `mounted`."""

    def __init__(self, image: pathlib.Path, path: pathlib.Path) -> None:
        self.image = image
        self.path = path

    def lose_power(self) -> None:
        """Nothing that is written from now on reaches the file system, nor what waits in memory for the disk."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_JOURNAL))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Mounts it again, which replays the journal, when all processes that had files open there have ended."""
        self.unmount()
        self.mount()

    def mount(self) -> None:
        """Mounts it so that names reach the disk each second, and content that nobody has flushed much later."""
        _command("mount", "-o", "loop,noauto_da_alloc,commit=1", str(self.image), str(self.path))

    def unmount(self) -> None:
        """Waits until nobody uses it any more, up to 10 seconds."""
        for _ in range(100):
            if subprocess.run(["umount", str(self.path)], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        _command("umount", str(self.path))


@contextlib.contextmanager
def mounted(folder: pathlib.Path) -> Iterator[Disk]:
    """A new, empty disk below `folder`.

    Raises:
        UserError: it can't be made or mounted, which takes root and e2fsprogs.
    """
    disk = Disk(folder / "disk.img", folder / "disk")
    disk.path.mkdir()
    with disk.image.open("wb") as file:
        file.truncate(_MIB * 2**20)
    _command("mkfs.ext4", "-q", str(disk.image))
    disk.mount()
    try:
        yield disk
    finally:
        disk.unmount()


def _command(*words: str) -> None:
    if not shutil.which(words[0]):
        raise UserError(f"{words[0]} must be there to make a disk whose power can be cut. Install e2fsprogs and mount.")
    result = subprocess.run(words, capture_output=True, text=True)
    if result.returncode:
        raise UserError(
            f"A disk whose power can be cut needs root on Linux. Received from {words[0]}: {result.stderr.strip()}"
        )
