"""Decoded pictures kept from one epoch to the next: in memory, in a mapped file, or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import psutil

from data.files import cache_folder, make_folder, remove_left_over, replacing, reserve
from data.pipeline import Files, Rows, Table, ordered_batches, steps_per_epoch
from data.progress import progress

# What may be taken without asking: the system's file cache and the model need the rest.
_SHARE_OF_MEMORY = 0.3
_SHARE_OF_DISK = 0.5
_BATCH = 64


def keep_decoded(files: Files, digests: list[str], mode: str) -> Rows:
    """Decodes all pictures once and gives them as a table, unless `mode` or the sizes say otherwise.

    Args:
        files: the pictures.
        digests: a hash of each picture's content, which names the file on disk.
        mode: `memory`, `disk`, `none` (decode in every epoch), or `auto`: the first of the three that has room.
    """
    shape = (len(files), files.image_size, files.image_size, files.channels)
    place = _choose(int(np.prod(shape, dtype=np.int64))) if mode == "auto" else mode
    if place == "none":
        return files
    if place == "memory":
        return Table(_fill(files, np.empty(shape, np.uint8)), files.source.labels)
    return Table(_mapped(files, digests, shape), files.source.labels)


def _choose(size: int) -> str:
    if size <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return "memory"
    folder = cache_folder()
    make_folder(folder)
    return "disk" if size <= _SHARE_OF_DISK * shutil.disk_usage(folder).free else "none"


def _mapped(files: Files, digests: list[str], shape: tuple[int, ...]) -> np.ndarray:
    """A file keyed by all that its pixels depend on; it appears under its name only when it is complete."""
    key = hashlib.sha256(repr((shape, digests)).encode()).hexdigest()[:20]
    path = os.path.join(cache_folder(), "pixels", f"{key}.npy")
    make_folder(os.path.dirname(path))
    remove_left_over(os.path.dirname(path))
    if not os.path.exists(path):
        with replacing(path) as beside:
            pixels = np.lib.format.open_memmap(beside, "w+", np.uint8, shape)
            reserve(beside)
            _fill(files, pixels)
            pixels.flush()
    return np.load(path, mmap_mode="r")


def _fill(files: Files, pixels: np.ndarray) -> np.ndarray:
    batches = ordered_batches(files, _BATCH).as_numpy_iterator()
    first = 0
    for batch, _ in progress(batches, steps_per_epoch(files, _BATCH), f"decoding (batches of {_BATCH})"):
        pixels[first : first + len(batch)] = batch
        first += len(batch)
    return pixels
