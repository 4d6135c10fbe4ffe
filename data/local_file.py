"""Writing files of other file systems by libraries that know local ones only (h5py, zipfile, Pillow)."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from data.files import replacing


@contextlib.contextmanager
def replacing_from_local(path: str) -> Iterator[str]:
    """As `data.files.replacing`, but what it yields is always a local path.

    Raises:
        UserError: the disk is full, or the place can't be written to.
    """
    if "://" not in path:
        with replacing(path) as beside:
            yield beside
        return
    with tempfile.TemporaryDirectory(prefix="darkroom-") as folder:
        local = os.path.join(folder, os.path.basename(path))
        yield local
        with replacing(path) as beside:
            tf.io.gfile.copy(local, beside)
