"""Artefacts that appear whole or not at all, on any path that `tf.io.gfile` understands."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

import tensorflow as tf

from errors import UserError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a path beside `path` to write to, and renames it to `path` when the block has succeeded.

    A failure or a kill inside the block leaves the previous `path` as it was. The suffix is kept, for Keras and
    Matplotlib choose the format by it.

    Raises:
        UserError: the disk is full, or the place can't be written to.
    """
    folder, name = os.path.split(str(path))
    beside = os.path.join(folder, f".part-{os.getpid()}-{name}")
    try:
        with explained(str(path)):
            yield beside
            _flush_to_disk(beside)
            tf.io.gfile.rename(beside, str(path), overwrite=True)
    except BaseException:
        _remove_quietly(beside)
        raise


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns the failures to write `path` that a user can mend into a `UserError`."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise UserError(
            f"{path} can't be written: {reason}. What stood there before is unchanged. "
            "Free some space or pass another folder, then run the same command again."
        ) from error


def write_text(path: str, text: str) -> None:
    """Writes `text` to `path`, whole or not at all; file names that aren't UTF-8 survive (surrogateescape)."""
    with replacing(path) as beside, tf.io.gfile.GFile(beside, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def read_text(path: str) -> str:
    """Reads what `write_text` wrote."""
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def make_folder(path: str) -> None:
    """Creates the folder `path` and its parents.

    Raises:
        UserError: the place can't be written to.
    """
    with explained(path):
        tf.io.gfile.makedirs(path)


def cache_folder() -> str:
    """Where things that can be computed again are kept between runs: `$XDG_CACHE_HOME/darkroom`."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "darkroom")


def _reason(error: Exception) -> str | None:
    """What went wrong in plain words, or None when the user can't mend it."""
    number = getattr(error, "errno", None)
    text = str(error)
    # h5py wraps the number of the failed system call into the text of an OSError without errno.
    if number in _DISK_FULL or "No space left" in text or isinstance(error, tf.errors.ResourceExhaustedError):
        return "the disk is full"
    if number == errno.EROFS or "Read-only file system" in text:
        return "the file system is read-only"
    if isinstance(error, PermissionError | tf.errors.PermissionDeniedError):
        return "permission denied"
    if isinstance(error, FileNotFoundError | NotADirectoryError | tf.errors.NotFoundError):
        return "its folder does not exist"
    if isinstance(error, FileExistsError | tf.errors.AlreadyExistsError | tf.errors.FailedPreconditionError):
        return "a file stands where a folder must be"
    return None


def _flush_to_disk(path: str) -> None:
    """Without it a power loss after the rename can leave an empty file under the final name."""
    if "://" in path or not os.path.isfile(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError, tf.errors.OpError):
        if tf.io.gfile.isdir(path):
            tf.io.gfile.rmtree(path)
        elif tf.io.gfile.exists(path):
            tf.io.gfile.remove(path)
