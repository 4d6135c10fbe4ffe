"""Decoded images kept from one epoch to the next: in memory, in a mapped file, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import tensorflow as tf

from data import resumable
from data.decode import RULES
from data.files import cache_folder, make_folder
from data.pipeline import Files, Rows, Table, ordered_batches, steps_per_epoch
from data.progress import progress

# What may be taken without asking: the system's file cache and the model need the rest.
_SHARE_OF_MEMORY = 0.3
_SHARE_OF_DISK = 0.5
_BATCH = 64


def keep_decoded(files: Files, digests: list[str], mode: str, is_due: Callable[[], bool] = lambda: False) -> Rows:
    """Decodes all images once and gives them as a table, unless `mode` or the sizes say otherwise.

    Args:
        files: the images.
        digests: a hash of each image's content, which names the file on disk.
        mode: `memory`, `disk`, `none` (decode in every epoch), or `auto`: the first of the three that has room.
        is_due: asked after each batch whether to make sure that a kill doesn't lose what is on the disk so far; what
            it raises ends the decoding.
    """
    shape = (len(files), files.image_size, files.image_size, files.channels)
    place = _choose(int(np.prod(shape, dtype=np.int64))) if mode == "auto" else mode
    if place == "none":
        return files
    if place == "memory":
        return Table(_in_memory(files, shape, is_due), files.source.labels, columns=files.columns)
    return Table(_on_disk(files, digests, shape, is_due), files.source.labels, columns=files.columns)


def _choose(size: int) -> str:
    if size <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return "memory"
    folder = cache_folder()
    make_folder(folder)
    return "disk" if size <= _SHARE_OF_DISK * shutil.disk_usage(folder).free else "none"


def _in_memory(files: Files, shape: tuple[int, ...], is_due: Callable[[], bool]) -> np.ndarray:
    pixels, first = np.empty(shape, np.uint8), 0
    for batch in _decoded(files):
        pixels[first : first + len(batch)] = batch
        first += len(batch)
        is_due()
    return pixels


def _on_disk(files: Files, digests: list[str], shape: tuple[int, ...], is_due: Callable[[], bool]) -> np.ndarray:
    """A table keyed by all that its pixels depend on."""
    key = hashlib.sha256(repr((RULES, tf.__version__, shape, digests)).encode()).hexdigest()[:20]
    folder = os.path.join(cache_folder(), "pixels", key)
    # To read all pixels at each start would take longer than many a training with them.
    found = resumable.read(folder, is_checked=False)
    if found:
        return found[0]
    with resumable.filling(folder, [(shape[1:], np.dtype(np.uint8))], len(files)) as table:
        rest = dataclasses.replace(files, source=files.source.take(np.arange(table.rows, len(files))))
        for batch in _decoded(rest):
            table.append(batch)
            if is_due():
                table.save()
    return resumable.just_filled(folder)[0]


def _decoded(files: Files) -> Iterator[np.ndarray]:
    if not len(files):
        return
    batches = ordered_batches(files, _BATCH).as_numpy_iterator()
    for batch, _ in progress(batches, steps_per_epoch(files, _BATCH), f"decoding (batches of {_BATCH})"):
        yield batch
