"""Publishes a SavedModel to a running TensorFlow Serving: as the next version, whole or not at all."""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator

import tensorflow as tf

from data import files
from errors import UserError
from models.saved_models import versions

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
_GRAPH = "saved_model.pb"


def publish(write: Callable[[str], None], base: str, *, version: int | None = None, keep_versions: int = 0) -> str:
    """Moves a SavedModel that `write` makes into `base`, under the next number.

    In a local folder any number of exports can run at once: the rename to a number is atomic, and an export whose
    number was taken meanwhile tries the next one. A killed export leaves nothing that a server would load.

    On object storage nothing can be renamed, so the graph is copied last: a server that polls the folder meanwhile
    finds a version without `saved_model.pb`, refuses it and tries again. Two exports at the same time would take the
    same number, which can't be prevented there.

    Args:
        write: creates a local folder at the path that it is passed, where nothing exists yet.
        base: the folder of the versions, on any path of `tf.io.gfile`; created if it doesn't exist.
        version: the number to take, at least 1; None for one more than the highest.
        keep_versions: how many of the highest versions to keep; 0 for all.

    Returns:
        The path of the new version.

    Raises:
        UserError: `base` is full or can't be written to, or `version` exists.
    """
    _check(base, version, keep_versions)
    put, remove = (_copy, tf.io.gfile.rmtree) if "://" in base else (_rename, files.discard)
    path = put(write, base.rstrip("/"), version)
    for number in versions(base)[:-keep_versions] if keep_versions else []:
        # A low `version` stays, or the export would be deleted at once.
        if str(number) != os.path.basename(path):
            remove(os.path.join(base, str(number)))
    return path


def _check(base: str, version: int | None, keep_versions: int) -> None:
    if version is not None and (version < 1 or version in versions(base)):
        raise UserError(
            f"`version` must be at least 1 and not in {base} yet, which holds {versions(base) or 'no version'}. "
            f"Received: {version}. Leave it out to take the next number."
        )
    if keep_versions < 0:
        raise UserError(f"`keep_versions` must be 0, which keeps all, or more. Received: {keep_versions}.")


def _next(base: str) -> int:
    return max(versions(base), default=0) + 1


def _rename(write: Callable[[str], None], base: str, version: int | None) -> str:
    files.make_folder(base)
    files.remove_left_over(base)
    # A server reads only folders whose name is a number.
    unfinished = files.path_beside(os.path.join(base, uuid.uuid4().hex))
    try:
        with files.explained(base):
            write(unfinished)
            _flush_to_disk(unfinished)
            path = _take_number(unfinished, base, version)
            _flush(base)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def _take_number(unfinished: str, base: str, version: int | None) -> str:
    while True:
        path = os.path.join(base, str(version or _next(base)))
        try:
            os.rename(unfinished, path)
            return path
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            if version:
                raise UserError(
                    f"`version` {version} was taken by another export meanwhile. Leave it out to take the next one."
                ) from error


def _copy(write: Callable[[str], None], base: str, version: int | None) -> str:
    path = posixpath.join(base, str(version or _next(base)))
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder, files.explained(base):
        local = os.path.join(folder, "version")
        write(local)
        for name in sorted(_files(local), key=lambda name: (name == _GRAPH, name)):
            place = posixpath.join(path, name)
            tf.io.gfile.makedirs(posixpath.dirname(place))
            tf.io.gfile.copy(os.path.join(local, name), place)
    return path


def _files(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.relpath(os.path.join(parent, name), folder) for name in names)


def _flush_to_disk(folder: str) -> None:
    """Without it, a power loss soon after the rename could leave a version with empty files."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _flush(os.path.join(parent, name))
        _flush(parent)


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
