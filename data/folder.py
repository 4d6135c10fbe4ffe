"""A folder with one sub-folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from data.dataset import Dataset, as_records
from data.names import check_class_names, printable, shortened
from errors import UserError

# What file managers and archivers leave behind; these are not meant as images.
_LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "icon\r"}
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def accepts(data: str) -> bool:
    """Whether `data` is a folder."""
    # TensorFlow takes a path that isn't UTF-8 only as bytes.
    return tf.io.gfile.isdir(os.fsencode(data))


def load(path: str, data_dir: str | None = None, workers: Any = None) -> Dataset:
    """Reads the addresses and labels of `path/<class>/**/<image>`; class indices follow the sorted class names.

    Every visible file counts as an image; the scan finds out whether it is one. Symbolic links are followed, except
    those to a folder that contains them.

    Raises:
        UserError: fewer than two classes, a class without a file, or a folder that can't be read.
    """
    # Otherwise addresses below "/" would begin with a slash, unlike those of other folders.
    root = path.rstrip("/") or "/."
    classes = sorted(_remote_folders(root) if "://" in root else _local_folders(root))
    _check_classes(path, root, classes)
    files = {name: sorted(_files_below(root, name)) for name in classes}
    _check_files(path, files)
    paths = [file for name in classes for file in files[name]]
    labels = [index for index, name in enumerate(classes) for _ in files[name]]
    return Dataset(
        name=path,
        addresses=tuple(file[len(root) + 1 :] for file in paths),
        records=as_records([os.fsencode(file) for file in paths]),
        labels=np.asarray(labels, np.int64),
        class_names=tuple(classes),
        holds_paths=True,
    )


def _check_classes(path: str, root: str, classes: list[str]) -> None:
    if len(classes) < 2:
        raise UserError(
            f"The folder {printable(path)} must hold one sub-folder per class, for at least two classes. "
            f"Received {len(classes)}: {shortened(classes) or 'none'}. "
            "Sort the images into one folder per class, for example photos/cat/ and photos/dog/."
        )
    if {name.lower() for name in classes} <= _SPLITS:
        raise UserError(
            f"The sub-folders of {printable(path)} must be classes, such as cat and dog. Received: "
            f"{', '.join(classes)}, which are splits of a data set. Pass the folder of one of them as `data`, such as "
            f"{printable(_join(root, classes[0]))}; it is split here, see `test_fraction`."
        )
    check_class_names(path, classes)


def _check_files(path: str, files: dict[str, list[str]]) -> None:
    empty = [name for name, members in files.items() if not members]
    if empty:
        raise UserError(
            f"Each class folder in {printable(path)} must hold images. Received no file in: "
            f"{shortened(empty)}. Add images to these folders or remove them."
        )


def _files_below(root: str, name: str) -> Iterator[str]:
    folder = _join(root, name)
    if "://" in root:
        for parent, _, names in tf.io.gfile.walk(folder):
            yield from (_join(parent, name) for name in names if not _is_litter(name))
        return
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        # Two links to one folder would list each of its images twice.
        identity = os.path.realpath(parent)
        folders[:] = [] if identity in seen else _entered(parent, folders)
        if identity not in seen:
            yield from (_join(parent, name) for name in names if not _is_litter(name))
        seen.add(identity)


def _remote_folders(root: str) -> list[str]:
    names = [name.rstrip("/") for name in tf.io.gfile.listdir(root)]
    return [name for name in names if not _is_litter(name) and tf.io.gfile.isdir(_join(root, name))]


def _local_folders(root: str) -> list[str]:
    """Lists them without TensorFlow, which can't list names that aren't UTF-8."""
    try:
        names = os.listdir(root)
    except OSError as error:
        _refuse(error)
    return _entered(root, [name for name in names if os.path.isdir(_join(root, name))])


def _entered(parent: str, names: list[str]) -> list[str]:
    """The folders to enter: no litter, and no links upwards, which would add other classes' images to this one."""
    here = os.path.realpath(parent)
    return [
        name
        for name in names
        if not _is_litter(name)
        and not (
            os.path.islink(_join(parent, name))
            and os.path.commonpath([here, target := os.path.realpath(_join(parent, name))]) == target
        )
    ]


def _refuse(error: OSError) -> None:
    raise UserError(
        f"Every folder of images must be readable. Received: {printable(str(error.filename))}, which is not "
        f"({error.strerror}). Change its permissions or remove it."
    ) from error


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower().rstrip("/") in _LITTER


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}"
