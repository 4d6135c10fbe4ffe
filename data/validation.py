"""Inspects every image before training: which can't be decoded, which are odd, and which are the same."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from data.dataset import Dataset
from data.decode import RULES, decode
from data.image_header import LARGEST_BYTES, LARGEST_PIXELS, TOO_MANY_BYTES, Header, note_on_suffix, read_header
from data.names import printable, shortened
from data.progress import progress
from data.scan_cache import ScanCache, stamp_of_bytes, stamp_of_file
from errors import UserError

# Above this many pixels only one image is decoded at a time, or 32 threads could take 10 gigabytes.
_SHARED_MEMORY_PIXELS = 16_000_000
# Other rules, or another decoder, may judge a file differently. Raise the number with the rules.
_RULES = f"1 {RULES} {LARGEST_BYTES} {LARGEST_PIXELS} {tf.__version__}"

_LISTED = 10
_UNREADABLE = "can't be read: check that it exists and its permissions"

_one_large_image = threading.Lock()


@dataclass(frozen=True)
class Inspection:
    """What the inspection of one image found.

    Attributes:
        digest: SHA-256 of the bytes, hexadecimal; empty when the file can't be read.
        problem: why it can't be trained on; empty for a good image.
        notes: what is unusual about a good image, such as `CMYK` or `gray`; joined by `; `.
        width: in px; 0 when unknown.
        height: in px; 0 when unknown.
    """

    digest: str
    problem: str = ""
    notes: str = ""
    width: int = 0
    height: int = 0


def inspect(encoded: bytes, name: str = "") -> Inspection:
    """Decodes one image, if its header says that it is supported and small enough.

    Args:
        encoded: the file's bytes.
        name: the file's name, to compare its extension; may be empty.
    """
    digest = hashlib.sha256(encoded).hexdigest()
    header: Header = read_header(encoded)
    if header.problem:
        return Inspection(digest, header.problem, width=header.width, height=header.height)
    is_large = header.width * header.height > _SHARED_MEMORY_PIXELS
    try:
        with _one_large_image if is_large else contextlib.nullcontext():
            _decode_fully(encoded)
    except tf.errors.OpError:
        return Inspection(digest, "damaged or cut off", "", header.width, header.height)
    notes = [*header.notes, *note_on_suffix(header.format, name)]
    return Inspection(digest, "", "; ".join(notes), header.width, header.height)


def scan(dataset: Dataset, workers: Any = None) -> list[Inspection]:
    """Inspects every image of `dataset` in parallel; results of images unchanged since the last scan are reused.

    Args:
        dataset: the images.
        workers: inspect a share each, and all get every inspection; see `data.load`.
    """
    cache = ScanCache(dataset.name, _RULES)
    stamp = _stamper(dataset)

    def look(share: Sequence[tuple[int, str, int]]) -> list[list]:
        numbers = [i for i, _, _ in share]
        stamps = in_parallel(stamp, numbers, "checking files")
        known = [_remembered(cache.get(address, s)) for (_, address, _), s in zip(share, stamps, strict=True)]
        missing = [i for i, inspection in zip(numbers, known, strict=True) if inspection is None]
        fresh = iter(in_parallel(lambda i: _inspect_one(dataset, i), missing, "scanning images"))
        return [[s, *astuple(kept or next(fresh))] for s, kept in zip(stamps, known, strict=True)]

    items = list(zip(range(len(dataset)), dataset.addresses, dataset.labels.tolist(), strict=True))
    found = workers.share("images", items, look) if workers else look(items)
    rows = [(address, *row) for address, row in zip(dataset.addresses, found, strict=True)]
    if any(cache.get(address, s) is None for address, s, *_ in rows):
        # A file that can't be read now may be readable later without a change to it, as after a mount.
        cache.keep((address, s, findings) for address, s, *findings in rows if findings[0])
    return [Inspection(*findings) for _, _, *findings in rows]


def _stamper(dataset: Dataset) -> Callable[[int], str]:
    """From an image's index to a stamp that differs once the image changes; empty if unknown."""
    if not dataset.holds_paths:
        return lambda i: stamp_of_bytes(dataset.records[i])
    if dataset.spans is None:
        return lambda i: stamp_of_file(dataset.records[i])
    spans, of_shard = dataset.spans, functools.cache(stamp_of_file)
    return lambda i: of_shard(dataset.records[i]) and f"{of_shard(dataset.records[i])} {spans[i, 0]} {spans[i, 1]}"


def validate(dataset: Dataset, on_bad_image: str = "fail", workers: Any = None) -> Dataset:
    """The images of `dataset` that can be trained on, with their digests; see `scan` and `usable`."""
    return usable(dataset, scan(dataset, workers), on_bad_image)


def usable(dataset: Dataset, inspections: list[Inspection], on_bad_image: str) -> Dataset:
    """The images that can be trained on, with their digests.

    Args:
        dataset: the images.
        inspections: the result of `scan`.
        on_bad_image: `fail` to raise at a bad image, `skip` to leave it out.

    Raises:
        UserError: an image is bad and `on_bad_image` is `fail`, or no image of a class is left.
    """
    found = readable(dataset, inspections)
    bad = len(dataset) - len(found)
    if bad and on_bad_image == "fail":
        raise UserError(
            f"Every image in {printable(dataset.name)} must be a whole JPEG, PNG, GIF or BMP of at most "
            f"{LARGEST_PIXELS // 10**6} megapixels. {bad} of {len(dataset)} can't be used:\n"
            f"{list_bad(dataset, inspections)}\n"
            "Fix or remove them, or pass `on_bad_image=skip` to train without them."
        )
    counts = np.bincount(found.labels, minlength=len(dataset.class_names))
    lost = [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0]
    if lost:
        raise UserError(f"Each class must have an image that can be used. Received none for: {shortened(lost)}.")
    return found


def readable(dataset: Dataset, inspections: list[Inspection]) -> Dataset:
    """The images in which `scan` found no problem, with their digests."""
    good = np.asarray([i for i, inspection in enumerate(inspections) if not inspection.problem], np.int64)
    return replace(dataset.take(good), digests=tuple(inspections[i].digest for i in good))


def list_bad(dataset: Dataset, inspections: list[Inspection]) -> str:
    """The first bad images, one per line with the reason, and how many more there are."""
    lines = [f"  {a}: {i.problem}" for a, i in zip(dataset.addresses, inspections, strict=True) if i.problem]
    more = [f"  ... and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return printable("\n".join(lines[:_LISTED] + more))


def list_odd(dataset: Dataset, inspections: list[Inspection]) -> str:
    """What is unusual about usable images, one kind per line with its count and an example; empty if nothing is."""
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for address, inspection in zip(dataset.addresses, inspections, strict=True):
        for note in filter(None, inspection.notes.split("; ")):
            counts[note] += 1
            example.setdefault(note, address)
    lines = [f"  {count:,} {note}, such as {example[note]}" for note, count in counts.most_common()]
    return printable("\n".join(lines))


def in_parallel(function: Callable, items: Iterable, title: str) -> list:
    """The results of `function` for each item, in order; an interruption cancels the remaining items."""
    items = list(items)
    pool = ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1)))
    try:
        return list(progress(pool.map(function, items), len(items), title))
    finally:
        pool.shutdown(cancel_futures=True)


def _remembered(findings: list[str] | None) -> Inspection | None:
    try:
        digest, problem, notes, width, height = findings or []
        return Inspection(digest, problem, notes, int(width), int(height))
    except ValueError:
        return None  # Never kept, or kept in a file that was edited.


def _decode_fully(encoded: bytes) -> None:
    if encoded.startswith(b"\xff\xd8\xff"):
        # At an eighth of the size, all compressed data is still read, in a third of the time.
        tf.io.decode_jpeg(encoded, channels=3, ratio=8)
    else:
        _decode_small(tf.constant(encoded))


@tf.function(input_signature=[tf.TensorSpec((), tf.string)])
def _decode_small(encoded: tf.Tensor) -> tf.Tensor:
    return decode(encoded, image_size=8)


def _inspect_one(dataset: Dataset, index: int) -> Inspection:
    # The suffix of a file that holds many images says nothing about one of them.
    is_file = dataset.holds_paths and dataset.spans is None
    try:
        problem = _not_to_be_opened(dataset.records[index]) if is_file else ""
        if problem:
            return Inspection("", problem)
        return inspect(dataset.encoded(index), dataset.addresses[index] if is_file else "")
    except (OSError, tf.errors.OpError):
        return Inspection("", _UNREADABLE)


def _not_to_be_opened(path: bytes) -> str:
    """Opening a pipe would wait forever; remote file systems hold only files."""
    if b"://" in path:
        return ""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        return "not a file, but a folder, pipe or device"
    return TOO_MANY_BYTES if status.st_size > LARGEST_BYTES else ""
