"""Files that appear whole or not at all, on any path that `tf.io.gfile` supports."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
import time
from collections.abc import Iterator

import tensorflow as tf

from data.names import printable
from errors import UserError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNFINISHED = ".part-"
# Unfinished files of this age are probably abandoned, and take up space.
GIVEN_UP_SECONDS = 7 * 24 * 3600.0


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a path beside `path` to write to, and renames it to `path` when the block has succeeded.

    A failure or a kill inside the block leaves `path` unchanged. The suffix is kept, because Keras and Matplotlib
    choose the format by it.

    Raises:
        UserError: the disk is full, or `path` can't be written to.
    """
    beside = path_beside(str(path))
    try:
        with explained(str(path)):
            yield beside
            _flush_to_disk(beside)
            tf.io.gfile.rename(beside, str(path), overwrite=True)
    except BaseException:
        _remove_quietly(beside)
        raise


@contextlib.contextmanager
def replacing_from_local(path: str) -> Iterator[str]:
    """Like `replacing`, but always yields a local path, for libraries that write only to those.

    Raises:
        UserError: the disk is full, or `path` can't be written to.
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


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns the failures to write `path` that a user can fix into a `UserError`."""
    try:
        yield
    except Exception as error:
        reason = _reason(error, path)
        if reason is None:
            raise
        elsewhere = "point XDG_CACHE_HOME to" if path.startswith(cache_folder()) else "pass"
        raise UserError(
            f"{printable(path)} can't be written: {reason}. What was there before is unchanged. Free some space, or "
            f"{elsewhere} another folder, and run the same command again; an interrupted training continues with "
            "--resume."
        ) from error


def write_text(path: str, text: str) -> None:
    """Writes `text` to `path`, whole or not at all; file names that aren't UTF-8 survive (surrogateescape)."""
    with replacing(path) as beside, tf.io.gfile.GFile(beside, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def read_text(path: str) -> str:
    """Reads what `write_text` wrote."""
    with tf.io.gfile.GFile(os.fsencode(path), "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def make_folder(path: str) -> None:
    """Creates the folder `path` and its parents.

    Raises:
        UserError: it can't be created.
    """
    with explained(path):
        tf.io.gfile.makedirs(path)


def remove_left_over(folder: str) -> None:
    """Removes unfinished files in `folder` that are over a week old, or whose process on this host has ended."""
    if "://" in folder or not os.path.isdir(folder):
        return
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(_UNFINISHED) and (_is_of_ended_process(name) or _is_abandoned(path)):
            _remove_quietly(path)


def discard(path: str) -> None:
    """Removes the folder `path` atomically: no process sees it with some files missing."""
    beside = path_beside(path)
    _remove_quietly(beside)
    with contextlib.suppress(OSError):
        os.rename(path, beside)
    _remove_quietly(beside)


def cache_folder() -> str:
    """The folder for what can be recomputed: `$XDG_CACHE_HOME/darkroom`, else in `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "darkroom")


def path_beside(path: str) -> str:
    """Where this process writes `path` until it is whole; `remove_left_over` recognizes the name."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{_beside_prefix()}{os.getpid()}-{name}")


def _beside_prefix() -> str:
    """Names the host too: on a shared disk, a process of another host may have the same number."""
    return f"{_UNFINISHED}{socket.gethostname()}."


def _is_of_ended_process(name: str) -> bool:
    process = name.removeprefix(_beside_prefix()).split("-")[0]
    return name.startswith(_beside_prefix()) and process.isdecimal() and not _is_running(int(process))


def _is_abandoned(path: str) -> bool:
    # On a shared disk it may be of a host that no longer exists, or of a container whose processes all have number 1.
    with contextlib.suppress(OSError):
        return time.time() - os.lstat(path).st_mtime > GIVEN_UP_SECONDS
    return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _reason(error: Exception, path: str) -> str | None:
    """What went wrong, in plain words; None if it is unrelated to `path`, or the user can't fix it."""
    number = getattr(error, "errno", None)
    text = str(error)
    # TensorFlow and h5py raise errors without errno, with the system's message in their text.
    if number in _DISK_FULL or "No space left" in text or "Disk quota exceeded" in text:
        return "the disk is full"
    if number == errno.EROFS or "Read-only file system" in text:
        return "the file system is read-only"
    if isinstance(error, PermissionError | tf.errors.PermissionDeniedError):
        return "permission denied"
    if isinstance(error, FileNotFoundError | NotADirectoryError | tf.errors.NotFoundError):
        folder = os.path.dirname(path) or "."
        return None if tf.io.gfile.isdir(folder) else "its folder does not exist"
    if isinstance(error, FileExistsError | tf.errors.AlreadyExistsError | tf.errors.FailedPreconditionError):
        return "there is a file where a folder must be"
    return None


def _flush_to_disk(path: str) -> None:
    """Without this, a power loss after the rename can leave an empty file under the final name."""
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
