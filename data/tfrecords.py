"""Images inside TFRecord files: where each one begins and ends, so that it can be read without the others."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from data.dataset import Dataset, as_records
from data.names import check_class_names, printable, shortened
from data.scan_cache import ScanCache, stamp_of_file
from data.validation import in_parallel
from errors import UserError

# Up to here all images are held in memory, encoded. Reading one from its shard takes 0.25 ms of a core, more than
# decoding an MNIST image (0.05 ms) and less than a photograph (1 ms or more); small images make small data sets.
KEPT_BYTES = 1 << 28

# A TFRecord begins with its length (8 bytes) and the length's checksum (4), and ends with its checksum (4).
_BEFORE, _AFTER = 12, 4
_GZIP, _ZLIB = b"\x1f\x8b", b"\x78"
_RECORDS_A_READ = 64
_RULES = f"1 {tf.__version__}"
_WILDCARDS = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Keys:
    """The names of an example's features: the encoded image, its class index, and its class name or None."""

    image: str = "image/encoded"
    label: str = "image/class/label"
    text: str | None = "image/class/text"


@dataclass(frozen=True)
class Index:
    """Every image of some shards, in order.

    Attributes:
        paths: the shard of each image.
        spans: int64, a row per image: its first byte in the shard, its length, and the bytes after it.
        labels: int64, from the shards; -1 where there is none.
        texts: class names, from the shards; empty where there is none.
        total_bytes: of all shards.
    """

    paths: np.ndarray
    spans: np.ndarray
    labels: np.ndarray
    texts: list[str]
    total_bytes: int

    def numbered(self) -> Iterator[tuple[bytes, int]]:
        """Each image's shard, and its number in it."""
        return ((path, number) for path, group in itertools.groupby(self.paths) for number, _ in enumerate(group))

    def records(self) -> tuple[np.ndarray, np.ndarray | None]:
        """`records` and `spans` of a `Dataset`: what to read, or the images themselves if they are small."""
        if self.total_bytes > KEPT_BYTES:
            return self.paths, self.spans
        content = {path: _read(path) for path in dict.fromkeys(self.paths)}
        cut = [content[p][start : start + n] for p, (start, n, _) in zip(self.paths, self.spans.tolist(), strict=True)]
        return as_records(cut), None


def accepts(data: str) -> bool:
    """Whether `data` is an existing file with `tfrecord` in its name, or a pattern."""
    if tf.io.gfile.exists(os.fsencode(data)):
        return "tfrecord" in os.path.basename(data).lower()
    return _WILDCARDS.search(data) is not None


def load(pattern: str, data_dir: str | None = None, workers: Any = None) -> Dataset:
    """Reads TFRecord files with one image per example, as ImageNet is usually kept: `train-*-of-01024`.

    Their examples have the features `image/encoded`, and `image/class/label` or `image/class/text`.

    Args:
        pattern: of the files' paths, with `*` and `?`.
        workers: index the shards together, see `data.load`.

    Raises:
        UserError: no file matches, or one is damaged, compressed, or holds other features.
    """
    paths = sorted(tf.io.gfile.glob(pattern))
    if not paths:
        raise UserError(f"`data` must name TFRecord files. Received: {printable(pattern)}, which matches none.")
    found = index(pattern, paths, Keys(), workers)
    names, labels = _classes(pattern, found)
    records, spans = found.records()
    folder = os.path.commonprefix([os.path.dirname(path) + "/" for path in paths]).rpartition("/")[0]
    return Dataset(
        name=pattern,
        addresses=tuple(f"{path.decode()[len(folder) + 1 :]}/{number}" for path, number in found.numbered()),
        records=records,
        labels=labels,
        class_names=names,
        holds_paths=spans is not None,
        spans=spans,
    )


def index(name: str, paths: Sequence[str], keys: Keys, workers: Any = None) -> Index:
    """Finds every image in `paths`; the index of a shard that hasn't changed since an earlier run is reused.

    Args:
        name: of the data set.
        paths: the shards, in order.
        keys: the features to look for.
        workers: read the shards together, see `data.load`; each gets the whole index.

    Raises:
        UserError: a shard is damaged, compressed, or holds other features.
    """
    cache = ScanCache(name, f"{_RULES} {keys}")
    sizes = [tf.io.gfile.stat(path).length for path in paths]

    def look(share: Sequence[str]) -> list[list[str]]:
        stamps = [stamp_of_file(path.encode()) for path in share]
        kept = [cache.get(path, stamp) for path, stamp in zip(share, stamps, strict=True)]
        missing = [path for path, rows in zip(share, kept, strict=True) if rows is None]
        fresh = iter(in_parallel(lambda path: _rows_of(path, keys), missing, "indexing shards"))
        return [[stamp, *(rows or next(fresh))] for stamp, rows in zip(stamps, kept, strict=True)]

    findings = workers.share("TFRecord files", paths, look) if workers else look(paths)
    if any(cache.get(path, stamp) is None for path, (stamp, *_) in zip(paths, findings, strict=True)):
        cache.keep((path, stamp, rows) for path, (stamp, *rows) in zip(paths, findings, strict=True))
    return _joined(paths, sizes, [rows for _, *rows in findings])


def _joined(paths: Sequence[str], sizes: list[int], findings: list[list[str]]) -> Index:
    cells = [row.split(" ", 3) for rows in findings for row in rows]
    counts = [len(rows) for rows in findings]
    shards = as_records([path.encode() for path in paths])
    numbers = np.asarray([row[:3] for row in cells], np.int64).reshape(-1, 3)
    after = np.repeat(np.asarray(sizes, np.int64), counts) - numbers[:, 0] - numbers[:, 1]
    spans = np.column_stack([numbers[:, :2], after])
    return Index(np.repeat(shards, counts), spans, numbers[:, 2], [row[3] for row in cells], sum(sizes))


def _rows_of(path: str, keys: Keys) -> list[str]:
    """`start length label text` of each image in a shard; checks the checksums of all its records."""
    rows, start = [], 0
    try:
        batches = tf.data.TFRecordDataset(path).batch(_RECORDS_A_READ).as_numpy_iterator()
        for record in itertools.chain.from_iterable(batches):
            rows.append(_row(path, record, start + _BEFORE, keys))
            start += _BEFORE + len(record) + _AFTER
    except tf.errors.DataLossError as error:
        raise _unusable(path, _why(path)) from error
    except tf.errors.OpError as error:
        raise _unusable(path, str(error.message).splitlines()[0]) from error
    return rows


def _row(path: str, record: bytes, start: int, keys: Keys) -> str:
    try:
        features = tf.train.Example.FromString(record).features.feature
    except Exception as error:  # Protobuf's errors differ between its versions.
        raise _unusable(path, "its records are no tf.train.Example") from error
    images = features[keys.image].bytes_list.value
    labels = features[keys.label].int64_list.value
    texts = features[keys.text].bytes_list.value if keys.text else []
    if len(images) != 1 or len(labels) > 1 or len(texts) > 1 or not (labels or texts):
        held = ", ".join(sorted(key for key, value in features.items() if value.WhichOneof("kind")))
        wanted = f"one {keys.image} and one {keys.label}{f' or {keys.text}' if keys.text else ''}"
        raise _unusable(path, f"an example must hold {wanted}, and holds {held or 'nothing'}")
    # If a record holds the same bytes twice, either will do.
    first = start + record.find(images[0])
    text = texts[0].decode(errors="replace").replace("\n", " ") if texts else ""
    return f"{first} {len(images[0])} {labels[0] if labels else -1} {text}"


def _classes(pattern: str, found: Index) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names and int64 indices: by name if every image has one, else by number."""
    by_name = all(found.texts)
    if not by_name and (found.labels < 0).any():
        raise _unusable(pattern, "some examples have a class name only, others a number only")
    keys: list = sorted(set(found.texts)) if by_name else sorted(set(found.labels.tolist()))
    names = tuple(map(str, keys))
    if len(names) < 2:
        raise UserError(
            f"The TFRecord files {printable(pattern)} must hold images of at least two classes. Received: "
            f"{shortened(names) or 'no image'}."
        )
    check_class_names(pattern, names)
    place = {key: i for i, key in enumerate(keys)}
    return names, np.asarray([place[key] for key in (found.texts if by_name else found.labels.tolist())], np.int64)


def _read(path: bytes) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def _why(path: str) -> str:
    with tf.io.gfile.GFile(path, "rb") as file:
        start = file.read(2)
    if start == _GZIP or start[:1] == _ZLIB:
        return "it seems to be compressed, so a single image can't be read; write it without compression"
    return "it is damaged or no TFRecord file"


def _unusable(path: str, why: str) -> UserError:
    return UserError(
        f"Every TFRecord file must hold whole examples, with one image each. Received {printable(path)}: {why}."
    )
