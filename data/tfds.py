"""Data sets that TensorFlow Datasets prepares."""

from __future__ import annotations

import itertools
import os
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import tensorflow as tf

import errors
from data import tfrecords
from data.dataset import Dataset
from errors import UserError

_REACHABLE_WITHIN_SECONDS = 10
_TEST_SPLIT = "test"
_LABELLED_SPLITS = ("train", "validation", _TEST_SPLIT)


def accepts(data: str) -> bool:
    """Whether `data` may be the name of a data set, not of a file."""
    return os.sep not in data and not data.lower().endswith(".csv")


def load(name: str, data_dir: str | None = None, workers: Any = None) -> Dataset:
    """Finds (and when needed downloads and prepares) a TFDS data set; its own test split becomes the test split.

    The images stay encoded. A small data set is held in memory; a larger one stays in its shards.

    Args:
        name: a TFDS name such as `cats_vs_dogs` or `mnist:3.0.1`.
        data_dir: where TFDS keeps prepared data sets; None for its default, `~/tensorflow_datasets`.
        workers: index the shards together, see `data.load`.

    Raises:
        UserError: the name is unknown, or the data set is no image classification, neither prepared nor downloadable,
            or not stored as TFRecords.
    """
    # TFDS takes a second to import, which other data sets don't need.
    import tensorflow_datasets as tfds

    builder = _find(tfds, name, data_dir)
    image_key, label_key = _supervised_keys(tfds, builder)
    _prepare(builder)
    _check_format(builder)
    splits = [split for split in _LABELLED_SPLITS if split in builder.info.splits]
    shards = {split: [str(path) for path in builder.info.splits[split].filepaths] for split in splits}
    keys = tfrecords.Keys(image_key, label_key, None)
    found = tfrecords.index(str(builder.data_path), [path for split in splits for path in shards[split]], keys, workers)
    origin = {path.encode(): split for split in splits for path in shards[split]}
    records, spans = found.records()
    is_test = np.asarray([origin[path] == _TEST_SPLIT for path in found.paths], bool)
    return Dataset(
        name=name,
        addresses=_addresses(builder.name, [origin[path] for path in found.paths]),
        records=records,
        labels=found.labels,
        class_names=tuple(builder.info.features[label_key].names),
        holds_paths=spans is not None,
        is_test=is_test if is_test.any() else None,
        spans=spans,
    )


def _addresses(name: str, splits: list[str]) -> tuple[str, ...]:
    """`mnist/test/17` is the 18th image in the shards of the test split."""
    return tuple(f"{name}/{split}/{i}" for split, group in itertools.groupby(splits) for i, _ in enumerate(group))


def _find(tfds: Any, name: str, data_dir: str | None) -> Any:
    try:
        return tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        meant = errors.suggestion(name, ["digits", *tfds.list_builders(with_community_datasets=False)])
        raise UserError(
            "`data` must be a folder with one sub-folder per class, a .csv of path,label, a TensorFlow Datasets name "
            f"such as cats_vs_dogs or mnist, or digits. Received: {name}, which is no existing folder or file "
            f"and no TensorFlow Datasets name. Check the path.{meant}"
        ) from error


def _supervised_keys(tfds: Any, builder: Any) -> tuple[str, str]:
    features = builder.info.features
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, tfds.features.ClassLabel)]
    preferred = builder.info.supervised_keys
    if preferred and preferred[0] in images and preferred[1] in labels:
        return preferred
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    raise UserError(
        f"The data set {builder.name} must be an image classification with one image and one class label per example. "
        f"Received the features: {', '.join(features)}. Choose another data set."
    )


def _prepare(builder: Any) -> None:
    """Downloads what is missing; without a network, TFDS alone would retry for minutes before failing."""
    if tf.io.gfile.isdir(str(builder.data_path)) and builder.info.splits:
        return
    address = _first_download(builder)
    if not _can_reach(address):
        raise UserError(
            f"The data set {builder.name} is not prepared in {builder.data_path}, and it can't be downloaded: "
            f"{address or 'its server'} can't be reached. On a machine with a network run "
            f"`python -c \"import tensorflow_datasets as tfds; tfds.load('{builder.name}', data_dir='DIR')\"`, copy "
            f"DIR/{builder.name} here and pass its parent folder as `data_dir`; or pass as `data` a folder of your "
            "own images, or digits, which needs no download."
        )
    builder.download_and_prepare()


def _check_format(builder: Any) -> None:
    kind = builder.info.file_format.value
    if kind != "tfrecord":
        raise UserError(
            f"The data set {builder.name} must be prepared as TFRecord files. Received {builder.data_path}, which "
            f"holds {kind} files. Prepare it again in another folder: `tfds build {builder.name} "
            "--file_format=tfrecord --data_dir=DIR`, and pass `data_dir=DIR`."
        )


def _first_download(builder: Any) -> str | None:
    return next((url for url in builder.url_infos if "://" in url), None)


def _can_reach(address: str | None) -> bool:
    if address is None:
        return False
    try:
        urllib.request.urlopen(address, timeout=_REACHABLE_WITHIN_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # The server answers; TFDS reports what is wrong with the request.
    except OSError:
        return False
    return True
