"""Publishing a version to object storage, where nothing can be renamed at once: the graph is copied last.

A server that polls the folder meanwhile finds a version without `saved_model.pb`, refuses it and tries again. Two
exports to one folder at the same time would take the same number; nothing on object storage could prevent it.
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Callable, Iterator

import tensorflow as tf

from data.files import explained
from errors import UserError
from models.saved_models import versions

_GRAPH = "saved_model.pb"


def publish(write: Callable[[str], None], base: str, version: int | None, keep_versions: int) -> str:
    """Has `write` make a SavedModel in the temporary folder and copies it to the next number in `base`.

    Args:
        write: makes the local folder whose path it is given, which doesn't exist yet.
        base: the folder of the versions, on any path of `tf.io.gfile`.
        version: the number to take; None for one more than the highest.
        keep_versions: how many of the highest numbers stay; 0 for all.

    Returns:
        The path of the new version.

    Raises:
        UserError: `version` exists, or `base` can't be written to.
    """
    base = base.rstrip("/")
    taken = versions(base)
    if version in taken:
        raise UserError(f"--version must not be in {base} yet. Received: --version={version}. Leave the flag out.")
    number = version or max(taken, default=0) + 1
    target = posixpath.join(base, str(number))
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder, explained(base):
        local = os.path.join(folder, "version")
        write(local)
        for name in sorted(_files(local), key=lambda name: (name == _GRAPH, name)):
            place = posixpath.join(target, name)
            tf.io.gfile.makedirs(posixpath.dirname(place))
            tf.io.gfile.copy(os.path.join(local, name), place)
    for old in versions(base)[:-keep_versions] if keep_versions else []:
        if old != number:
            tf.io.gfile.rmtree(posixpath.join(base, str(old)))
    return target


def _files(folder: str) -> Iterator[str]:
    for parent, _, names in os.walk(folder):
        yield from (os.path.relpath(os.path.join(parent, name), folder) for name in names)
