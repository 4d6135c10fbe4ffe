"""The cache of decoded images: in memory, in a memory-mapped file, or none."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import psutil
import tensorflow as tf

from data.batches import Batches
from data.decode import RULES
from data.files import cache_folder, make_folder
from data.progress import progress
from data.shared_arrays import aligned
from data.table import Batch, Table

# The most that `auto` uses: the system's file cache and the model need the rest.
_SHARE_OF_MEMORY = 0.3
_SHARE_OF_DISK = 0.5
_BATCH = 64


def keep_decoded(
    batches: Batches,
    mode: str,
    check: Callable[[], object] = lambda: None,
    seconds: float = 60.0,
) -> Batches:
    """Decodes all images once and returns batches of the resulting array, or `batches` if nothing is to be cached.

    Args:
        batches: of validated images to decode.
        mode: `memory`, `disk`, `none` (decode in every epoch), or `auto`: the first of the three that has room.
        check: called after each batch; what it raises ends the decoding.
        seconds: of decoding to disk that a kill may lose; 0 for at most a batch.

    Raises:
        UserError: the disk is full, or the cache can't be written to.
    """
    shape = (len(batches), batches.image_size, batches.image_size, batches.channels)
    place = _choose(math.prod(shape)) if mode == "auto" else mode
    if place == "none":
        return batches
    plain = dataclasses.replace(batches, batch_size=_BATCH, targets=None, view=None, service=None)
    if place == "memory":
        pixels = aligned(shape)
        for first, (values,) in _decoded(plain, 0, check):
            pixels[first : first + len(values)] = values
    else:
        pixels = _on_disk(plain, shape, check, seconds)
    dataset = batches.dataset
    return dataclasses.replace(batches, inputs=pixels, labels=dataset.labels, columns=dataset.columns)


def _choose(size: int) -> str:
    if size <= _SHARE_OF_MEMORY * psutil.virtual_memory().available:
        return "memory"
    folder = cache_folder()
    make_folder(folder)
    return "disk" if size <= _SHARE_OF_DISK * shutil.disk_usage(folder).free else "none"


def _on_disk(batches: Batches, shape: tuple[int, ...], check: Callable[[], object], seconds: float) -> np.ndarray:
    """An array keyed by everything its pixels depend on."""
    key = hashlib.sha256(repr((RULES, tf.__version__, shape, batches.dataset.known_digests)).encode()).hexdigest()[:20]
    table = Table(os.path.join(cache_folder(), "pixels", key), [(shape[1:], np.dtype(np.uint8))], len(batches))
    # Reading all pixels at each start would take longer than many trainings.
    kept = table.read(is_checked=False) or table.fill(lambda row: _decoded(batches, row, check), seconds)
    return kept[0]


def _decoded(batches: Batches, first: int, check: Callable[[], object]) -> Iterator[Batch]:
    """The pixels from image `first` on."""
    if first == len(batches):
        return
    rest = dataclasses.replace(batches, inputs=batches.dataset.take(np.arange(first, len(batches))))
    title = f"decoding (batches of {batches.batch_size})"
    for pixels, _ in progress(rest.evaluation().as_numpy_iterator(), rest.steps_per_epoch, title):
        yield first, [pixels]
        first += len(pixels)
        check()
