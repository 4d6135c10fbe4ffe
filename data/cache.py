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
from data.batches import Batches
from data.decode import RULES
from data.files import cache_folder, make_folder
from data.progress import progress

# What may be taken without asking: the system's file cache and the model need the rest.
_SHARE_OF_MEMORY = 0.3
_SHARE_OF_DISK = 0.5
_BATCH = 64


def keep_decoded(
    batches: Batches, digests: list[str], mode: str, is_due: Callable[[], bool] = lambda: False
) -> Batches:
    """Decodes all images once and gives the batches of the array of them, unless `mode` or the sizes say otherwise.

    Args:
        batches: of images to decode.
        digests: a hash of each image's content, which names the file on disk.
        mode: `memory`, `disk`, `none` (decode in every epoch), or `auto`: the first of the three that has room.
        is_due: asked after each batch whether to make sure that a kill doesn't lose what is on the disk so far; what
            it raises ends the decoding.
    """
    shape = (len(batches), batches.image_size, batches.image_size, batches.channels)
    place = _choose(int(np.prod(shape, dtype=np.int64))) if mode == "auto" else mode
    if place == "none":
        return batches
    plain = dataclasses.replace(batches, batch_size=_BATCH, targets=None, view=None, service=None)
    if place == "memory":
        pixels = _in_memory(plain, shape, is_due)
    else:
        pixels = _on_disk(plain, digests, shape, is_due)
    dataset = batches.dataset
    return dataclasses.replace(batches, inputs=pixels, labels=dataset.labels, columns=dataset.columns)


def _choose(size: int) -> str:
    if size <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return "memory"
    folder = cache_folder()
    make_folder(folder)
    return "disk" if size <= _SHARE_OF_DISK * shutil.disk_usage(folder).free else "none"


def _in_memory(batches: Batches, shape: tuple[int, ...], is_due: Callable[[], bool]) -> np.ndarray:
    pixels, first = np.empty(shape, np.uint8), 0
    for batch in _decoded(batches):
        pixels[first : first + len(batch)] = batch
        first += len(batch)
        is_due()
    return pixels


def _on_disk(batches: Batches, digests: list[str], shape: tuple[int, ...], is_due: Callable[[], bool]) -> np.ndarray:
    """An array keyed by all that its pixels depend on."""
    key = hashlib.sha256(repr((RULES, tf.__version__, shape, digests)).encode()).hexdigest()[:20]
    folder = os.path.join(cache_folder(), "pixels", key)
    # To read all pixels at each start would take longer than many a training with them.
    found = resumable.read(folder, is_checked=False)
    if found:
        return found[0]
    with resumable.filling(folder, [(shape[1:], np.dtype(np.uint8))], len(batches)) as table:
        rest = batches.dataset.take(np.arange(table.rows, len(batches)))
        for batch in _decoded(dataclasses.replace(batches, inputs=rest)):
            table.append(batch)
            if is_due():
                table.save()
    return resumable.just_filled(folder)[0]


def _decoded(batches: Batches) -> Iterator[np.ndarray]:
    if len(batches):
        title = f"decoding (batches of {batches.batch_size})"
        decoded = progress(batches.evaluation().as_numpy_iterator(), batches.steps_per_epoch, title)
        yield from (pixels for pixels, _ in decoded)
