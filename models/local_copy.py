"""Reading files of other file systems by libraries that know local ones only (h5py, zipfile)."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[pathlib.Path]:
    """A local path with the content of `path`, which may be any that `tf.io.gfile` understands.

    A file of another file system is copied to the temporary folder while the block runs. What is no file there gives
    the path of no file here.
    """
    if "://" not in path:
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        # The name tells the format.
        local = os.path.join(folder, os.path.basename(path.rstrip("/")))
        if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
            tf.io.gfile.copy(path, local)
        yield pathlib.Path(local)
