"""A folder with one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from data.source import Source, as_records
from errors import UserError

# What file managers and archivers leave behind; nobody means these as pictures.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


def load(path: str) -> Source:
    """Reads the addresses and labels of `path/<class>/**/<picture>`; class indices follow the sorted class names.

    Every visible file counts as a picture; whether it is one, the scan finds out.

    Raises:
        UserError: fewer than two classes, or a class without a file.
    """
    root = path.rstrip("/")
    classes = sorted(name for name in _visible(root) if tf.io.gfile.isdir(_join(root, name)))
    files = {name: sorted(_files_below(_join(root, name))) for name in classes}
    _check(path, files)
    paths = [file for name in classes for file in files[name]]
    labels = [index for index, name in enumerate(classes) for _ in files[name]]
    return Source(
        name=path,
        addresses=tuple(file[len(root) + 1 :] for file in paths),
        records=as_records([os.fsencode(file) for file in paths]),
        labels=np.asarray(labels, np.int64),
        class_names=tuple(classes),
        holds_paths=True,
    )


def _check(path: str, files: dict[str, list[str]]) -> None:
    if len(files) < 2:
        raise UserError(
            f"--data={path} must hold one sub-folder for each class, two classes at least. "
            f"Received {len(files)}: {', '.join(files) or 'none'}. "
            "Sort the pictures into one folder a class, for example photos/cat/ and photos/dog/."
        )
    empty = [name for name, members in files.items() if not members]
    if empty:
        raise UserError(
            f"Each class folder in --data={path} must hold pictures. Received no file in: {', '.join(empty)}. "
            "Add pictures to these folders or remove them."
        )


def _files_below(folder: str) -> Iterator[str]:
    if "://" in folder:
        yield from _remote_files_below(folder)
        return
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # A symbolic link to a parent would be walked for ever.
        identity = os.path.realpath(parent)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = [name for name in folders if not _is_litter(name)]
        yield from (_join(parent, name) for name in names if not _is_litter(name))


def _remote_files_below(folder: str) -> Iterator[str]:
    for parent, _, names in tf.io.gfile.walk(folder):
        yield from (_join(parent, name) for name in names if not _is_litter(name))


def _visible(folder: str) -> list[str]:
    names = tf.io.gfile.listdir(folder) if "://" in folder else os.listdir(folder)
    return [name.rstrip("/") for name in names if not _is_litter(name)]


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name.lower().rstrip("/") in _LITTER


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}"
