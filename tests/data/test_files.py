from __future__ import annotations

import errno
import os
import pathlib
import socket
import subprocess

import pytest
import tensorflow as tf

from data import files
from errors import UserError


def test_the_previous_file_stays_until_the_new_one_is_whole(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(str(path), "before")
    with pytest.raises(ZeroDivisionError):
        with files.replacing(str(path)) as beside:
            pathlib.Path(beside).write_text("half")
            assert path.read_text() == "before"
            raise ZeroDivisionError
    assert path.read_text() == "before"
    files.write_text(str(path), "after")
    assert os.listdir(tmp_path) == ["a.txt"]
    assert files.read_text(str(path)) == "after"


def test_folders_are_replaced_whole_too(tmp_path: pathlib.Path) -> None:
    with files.replacing(str(tmp_path / "folder")) as beside:
        os.mkdir(beside)
        pathlib.Path(beside, "a").write_text("1")
        assert os.listdir(tmp_path) == [os.path.basename(beside)]
    assert os.listdir(tmp_path) == ["folder"]


def test_the_suffix_is_kept(tmp_path: pathlib.Path) -> None:
    with files.replacing(str(tmp_path / "model.keras")) as beside:
        assert beside.endswith(".keras")
        pathlib.Path(beside).touch()


def test_any_bytes_survive(tmp_path: pathlib.Path) -> None:
    text = os.fsdecode(bytes(range(256))) + "\r\n\u2028é"
    files.write_text(str(tmp_path / "a"), text)
    assert files.read_text(str(tmp_path / "a")).encode("utf-8", "surrogateescape") == text.encode(
        "utf-8", "surrogateescape"
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (OSError("Can't write (errno = 28, error message = 'No space left on device')"), "the disk is full"),
        (RuntimeError("Unable to flush (file write failed: No space left on device)"), "the disk is full"),
        (tf.errors.ResourceExhaustedError(None, None, "/x; No space left on device"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "the file system is read-only"),
        (tf.errors.FailedPreconditionError(None, None, "/x; Read-only file system"), "the file system is read-only"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
    ],
)
def test_what_the_user_can_mend_is_one_clear_message(tmp_path: pathlib.Path, error: Exception, reason: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(UserError, match=f"a.txt can't be written: {reason}. What was there before is unchanged"):
        with files.replacing(str(path)) as beside:
            pathlib.Path(beside).write_text("half")
            raise error
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"),
        FileNotFoundError(errno.ENOENT, "No such file", "/photos/cat/1.jpg"),
    ],
)
def test_other_failures_are_not_dressed_up(tmp_path: pathlib.Path, error: Exception) -> None:
    """An image that has vanished, or a GPU without memory, is no full disk."""
    with pytest.raises(type(error)), files.replacing(str(tmp_path / "a")):
        raise error


def test_a_missing_folder_and_a_file_in_the_way(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="its folder does not exist"):
        files.write_text(str(tmp_path / "no" / "a.txt"), "")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        files.make_folder(str(tmp_path / "file" / "folder"))


def test_a_full_cache_names_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="point XDG_CACHE_HOME to another folder"):
        with files.explained(os.path.join(files.cache_folder(), "features", "x")):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_only_what_dead_processes_left_is_removed(tmp_path: pathlib.Path) -> None:
    with subprocess.Popen(["true"]) as finished:
        dead = finished.pid
    host = socket.gethostname()
    kept = [f".part-{host}.{os.getpid()}-a", f".part-{host}.1-a", f".part-other.{dead}-a", ".part-x", "a", f"{dead}-a"]
    for name in [*kept, f".part-{host}.{dead}-a.txt"]:
        (tmp_path / name).touch()
    (tmp_path / f".part-{host}.{dead}-folder").mkdir()
    files.remove_left_over(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
