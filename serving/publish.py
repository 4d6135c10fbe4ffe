"""Puts a SavedModel where a running TensorFlow Serving finds it: as the next version, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import uuid
from collections.abc import Callable

from data.files import explained, make_folder
from errors import UserError
from models.saved_models import versions
from serving import remote

# The server reads only folders whose name is a number; what is half-way there has a name that is none.
_UNFINISHED = ".part-"
_RETIRED = ".old-"
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def publish(write: Callable[[str], None], base: str, *, version: int | None = None, keep_versions: int = 0) -> str:
    """Has `write` make a SavedModel beside the versions in `base` and renames it to the next number.

    The rename is atomic, and fails on a number that another export has taken meanwhile, which then tries the next: any
    number of exports can run at once, and one that is killed leaves nothing that a server would load.

    Args:
        write: makes the folder whose path it is given, which doesn't exist yet.
        base: the folder of the versions; made when it doesn't exist. On object storage see `serving.remote`.
        version: the number to take, at least 1; None for one more than the highest.
        keep_versions: how many of the highest numbers stay; 0 for all.

    Returns:
        The path of the new version.

    Raises:
        UserError: `base` is full or not to be written to, or `version` exists.
    """
    _check(base, version, keep_versions)
    if "://" in base:
        return remote.publish(write, base, version, keep_versions)
    make_folder(base)
    _remove_left_over(base)
    unfinished = os.path.join(base, f"{_UNFINISHED}{_owner()}")
    try:
        with explained(base):
            write(unfinished)
            _flush_to_disk(unfinished)
            path = _rename(unfinished, base, version)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if keep_versions:
        _prune(base, keep_versions, int(os.path.basename(path)))
    return path


def _check(base: str, version: int | None, keep_versions: int) -> None:
    if version is not None and (version < 1 or version in versions(base)):
        raise UserError(
            f"--version must be at least 1 and not in {base} yet, which holds {versions(base) or 'no version'}. "
            f"Received: --version={version}. Leave the flag out to take the next number."
        )
    if keep_versions < 0:
        raise UserError(f"--keep_versions must be at least 0 (0 keeps all). Received: --keep_versions={keep_versions}")


def _rename(unfinished: str, base: str, version: int | None) -> str:
    while True:
        number = version or max(versions(base), default=0) + 1
        path = os.path.join(base, str(number))
        try:
            os.rename(unfinished, path)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            if version:
                raise UserError(f"--version={version} has been taken by another export meanwhile.") from error
        else:
            _flush(base)
            return path


def _prune(base: str, keep: int, newest: int) -> None:
    """Renames a version before removing it, so that no server sees half of one; the one just made always stays."""
    for number in versions(base)[:-keep]:
        if number == newest:
            continue
        retired = os.path.join(base, f"{_RETIRED}{_owner()}")
        # Another export may be removing the same version.
        with contextlib.suppress(FileNotFoundError):
            os.rename(os.path.join(base, str(number)), retired)
            shutil.rmtree(retired, ignore_errors=True)


def _owner() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _remove_left_over(base: str) -> None:
    """Removes what an export of this machine that no longer runs has left unfinished."""
    for name in os.listdir(base):
        prefix = next((prefix for prefix in (_UNFINISHED, _RETIRED) if name.startswith(prefix)), None)
        parts = name.removeprefix(prefix or "").rsplit("-", 2)
        if prefix and len(parts) == 3 and parts[0] == socket.gethostname() and not _is_running(parts[1]):
            shutil.rmtree(os.path.join(base, name), ignore_errors=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flush_to_disk(folder: str) -> None:
    """Without it a power loss soon after the rename could leave a version with empty files."""
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
