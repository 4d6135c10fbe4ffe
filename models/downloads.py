"""Fetches published weights once into Keras's own cache, checked against their publisher's checksum.

`keras.utils.get_file` fetches; this adds what it lacks (Keras 3.15): an error within seconds without a network or an
answer, checksums of which only eight digits are published, and never leaving a wrong file behind, even if two
processes fetch the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import keras

from errors import UserError
from models import ModelSpec, PublishedFile

# Together well under the 30 seconds within which an offline user must get an error.
ANSWER_SECONDS = 10.0
STALL_SECONDS = 15.0


def check(spec: ModelSpec) -> None:
    """Checks that `fetch` can get the backbone's file, without fetching it.

    Raises:
        UserError: it is not in the cache, and the server can't be reached.
    """
    file = spec.weights.backbone if spec.weights else None
    if file and not any((folder / file.file_name).is_file() for folder in cache_folders()):
        _check_reachable(spec, file)


def fetch(spec: ModelSpec, include_head: bool) -> pathlib.Path:
    """The path of the model's published file, fetched if it is not in the cache.

    Raises:
        UserError: nothing is published, the server can't be reached, or the checksum is wrong.
    """
    if spec.weights is None:
        raise UserError(
            f"--weights=imagenet: no matching weights are published for --model={spec.name}. "
            "Pass --weights=PATH to a file of yours, or --weights=none to start from random weights."
        )
    file = spec.weights.full if include_head else spec.weights.backbone
    for folder in cache_folders():
        if _is_right(folder / file.file_name, file):
            return folder / file.file_name
    _check_reachable(spec, file)
    target = next(filter(_is_writable, cache_folders())) / file.file_name
    # Beside its place, where other processes that fetch it don't find it.
    with tempfile.TemporaryDirectory(dir=target.parent) as beside:
        try:
            with _stalls_end(STALL_SECONDS):
                keras.utils.get_file(file.file_name, file.url, cache_dir=beside, cache_subdir=".", force_download=True)
        except Exception as problem:  # get_file raises bare exceptions.
            raise UserError(_advice(spec, file, str(problem))) from problem
        fetched = pathlib.Path(beside, file.file_name)
        if not _is_right(fetched, file):
            raise UserError(_advice(spec, file, "its checksum is wrong"))
        fetched.replace(target)
    return target


def cache_folders() -> list[pathlib.Path]:
    """The folders of keras.applications, best first: in $KERAS_HOME or ~/.keras, else in the temporary folder."""
    home = pathlib.Path(os.environ.get("KERAS_HOME") or pathlib.Path.home() / ".keras")
    return [home / "models", pathlib.Path(tempfile.gettempdir()) / ".keras" / "models"]


def _is_writable(folder: pathlib.Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _algorithm(file: PublishedFile) -> str:
    return "md5" if len(file.checksum) == 32 else "sha256"


def _is_right(path: pathlib.Path, file: PublishedFile) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, _algorithm(file)).hexdigest().startswith(file.checksum)


def _check_reachable(spec: ModelSpec, file: PublishedFile) -> None:
    """Sends a HEAD request in a thread: no socket timeout covers a name server that doesn't answer."""
    problems: list[str] = [f"no answer within {ANSWER_SECONDS:.0f} seconds"]

    def ask() -> None:
        try:
            request = urllib.request.Request(file.url, method="HEAD")
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):
                problems.clear()
        except urllib.error.HTTPError as problem:
            problems[0] = f"the server answers {problem.code} {problem.reason}"
        except Exception as problem:  # Otherwise the thread would print a traceback.
            problems[0] = str(getattr(problem, "reason", problem))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if problems:
        raise UserError(_advice(spec, file, problems[0]))


@contextlib.contextmanager
def _stalls_end(seconds: float) -> Iterator[None]:
    """Makes connections fail that stall for `seconds`; `get_file` itself would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _advice(spec: ModelSpec, file: PublishedFile, problem: str) -> str:
    kind = {"md5": "md5", "sha256": "sha256 starting with"}[_algorithm(file)]
    return (
        f"--weights=imagenet: the weights of --model={spec.name} could not be fetched ({problem}). "
        f"Fetch {file.url} ({kind} {file.checksum}) on a machine with a network and put it at "
        f"{cache_folders()[0] / file.file_name}, or pass its path with --weights=PATH. "
        "Without --freeze, --weights=none needs no file."
    )
