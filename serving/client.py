"""Asks a served model about images: `python -m serving.client --server=localhost:8500 photos/`.

Exit code: 0 when every image was answered, 1 when some or all were not, 2 when the command is wrong or no server
answers.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from absl import flags

import cli
import errors
from data.image_header import LARGEST_BYTES, TOO_MANY_BYTES
from data.progress import progress
from errors import UserError
from serving import answers, transport
from serving.transport import Grpc, Patience, Rest, Target, Transport
from serving.wire import Metadata

_HOST_AND_PORT = re.compile(r"(https?://)?(\[[0-9a-fA-F:]+\]|[\w.-]+):(\d{1,5})/?")
_OF_EVERY_MODEL = ("label", "score", "probabilities", "error")
_MOST_BYTES_PER_REQUEST = 32 * 2**20


@dataclass(frozen=True)
class Answer:
    """The server's answer to one image.

    Attributes:
        label: the most probable class; empty when the image was refused.
        score: its probability in 0-1.
        probabilities: one for each class name, in 0-1.
        error: why the image was refused; empty when it wasn't.
        further: the values of the model's other heads, by name.
    """

    label: str
    score: float
    probabilities: tuple[float, ...]
    error: str = ""
    further: Mapping[str, Any] = field(default_factory=dict)


def define_server_flags() -> None:
    """Defines the flags that say where the server is and how to ask it."""
    flags.DEFINE_string(
        "server", None, "HOST:PORT of TensorFlow Serving. Default: localhost:8500, with --rest localhost:8501."
    )
    flags.DEFINE_boolean("rest", False, "Ask over HTTP and JSON instead of gRPC.")
    flags.DEFINE_string("model_name", "darkroom", "Name under which the server has the model.")
    flags.DEFINE_string(
        "version_label", None, "Version label of the server's configuration, such as canary. Default: newest version."
    )
    flags.DEFINE_integer("batch_size", 32, "Images per request, 1 or more.", lower_bound=1)
    flags.DEFINE_float(
        "deadline_seconds", 30.0, "Seconds for one request with all its retries, above 0.", lower_bound=0.001
    )


def main(argv: list[str]) -> int:
    """Writes a row for each image; returns the exit code."""
    options = flags.FLAGS
    answers.check_flags(options)
    paths = find_images(argv[1:])
    server, patience = connect(options, options.parallel)
    about = metadata(server, patience)
    layout = answers.Layout(paths, about.class_names, about.further_heads)
    batches = [lambda batch=batch: list(map(read, batch)) for batch in split(paths, options.batch_size)]
    answered = chain.from_iterable(classify_all(server, batches, patience, options.parallel))
    rows = (_row(about, path, answer) for path, answer in zip(paths, answered, strict=True))
    # On a terminal the rows themselves show the progress, and a progress line would break them up.
    return answers.write(rows if sys.stdout.isatty() else progress(rows, len(paths), "asking"), layout, options)


def connect(values: flags.FlagValues, connections: int = 1) -> tuple[Transport, Patience]:
    """The transport and the patience that the flags ask for, for `connections` requests at a time.

    Raises:
        UserError: the address isn't valid.
    """
    server = values.server or f"localhost:{8501 if values.rest else 8500}"
    check_address(server, is_rest=values.rest)
    target = Target(server, values.model_name, values.version_label)
    return Rest(target, connections) if values.rest else Grpc(target), Patience(values.deadline_seconds)


def check_address(server: str, *, is_rest: bool) -> None:
    """Raises `UserError` unless `server` is an address for gRPC or, with `is_rest`, for HTTP."""
    match = _HOST_AND_PORT.fullmatch(server)
    if not match or not 0 < int(match[3]) < 65536 or (match[1] and not is_rest):
        schemes = ", with or without http:// or https:// in front" if is_rest else ""
        raise UserError(
            f"--server must be HOST:PORT{schemes}, such as localhost:{8501 if is_rest else 8500}. "
            f"Received: --server={server}"
        )


def metadata(server: Transport, patience: Patience) -> Metadata:
    """The metadata of the served model.

    Raises:
        UserError: no server, no such model, or not a model of this project.
    """
    columns = transport.call(server, "metadata", "request", [b""], patience)
    try:
        return Metadata.from_json(columns["metadata"][0])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise transport.refused(server.target, f"metadata that can't be read ({error})") from error


def classify(server: Transport, images: list[bytes], patience: Patience) -> list[Answer]:
    """The answers to encoded images, in their order.

    Raises:
        UserError: the server is down, too busy for longer than the deadline, or refuses the request.
    """
    columns = transport.call(server, "serving_default", "image_bytes", images, patience)
    try:
        further = [name for name in columns if name not in _OF_EVERY_MODEL]
        rows = zip(*(columns[name] for name in (*_OF_EVERY_MODEL, *further)), strict=True)
        found = [
            Answer(label, score, tuple(values), error, dict(zip(further, others, strict=True)))
            for label, score, values, error, *others in rows
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise transport.refused(server.target, f"other outputs than expected ({error})") from error
    if len(found) != len(images):
        received = f"{errors.counted(len(found), 'answer')} to {errors.counted(len(images), 'image')}"
        raise transport.refused(server.target, received)
    return found


def classify_all(
    server: Transport, batches: Iterable[Callable[[], list[bytes]]], patience: Patience, parallel: int
) -> Iterator[list[Answer]]:
    """The answers to batches, in their order, with up to `parallel` requests at a time.

    Args:
        server: the transport.
        batches: functions that each read one batch when called, so that memory doesn't hold all images.
        patience: for each request.
        parallel: at least 1.
    """

    def ask(read_batch: Callable[[], list[bytes]]) -> list[Answer]:
        return classify(server, read_batch(), patience)

    with ThreadPoolExecutor(parallel) as pool:
        waiting: list[Future[list[Answer]]] = []
        try:
            for batch in batches:
                waiting.append(pool.submit(ask, batch))
                if len(waiting) > parallel:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def find_images(arguments: list[str]) -> list[str]:
    """The files that `arguments` name, and all visible files in the folders among them, sorted.

    A path that doesn't exist is kept, and gets a row with an error.

    Raises:
        UserError: nothing is named, or the folders hold no file.
    """
    if not arguments:
        raise UserError("Name images or folders of images: python -m serving.client --server=HOST:PORT photos/")
    found = [path for argument in arguments for path in _below(argument)]
    if not found:
        raise UserError(f"There must be a file in {', '.join(arguments)}. Received: no visible file.")
    return found


def _below(argument: str) -> list[str]:
    if not os.path.isdir(argument):
        return [argument]
    files = []
    for parent, folders, names in os.walk(argument):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [os.path.join(parent, name) for name in sorted(names) if not name.startswith(".")]
    return files


def split(paths: list[str], batch_size: int) -> Iterator[list[str]]:
    """Cuts `paths` into batches of at most `batch_size` files, and of about 32 MiB."""
    batch: list[str] = []
    size = 0
    for path in paths:
        bytes_ = 0 if unreadable(path) else os.path.getsize(path)
        if batch and (len(batch) == batch_size or size + bytes_ > _MOST_BYTES_PER_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += bytes_
    yield batch


def read(path: str) -> bytes:
    """The file's bytes; empty if it can't be read or can't be an image, which the server then refuses."""
    if unreadable(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def unreadable(path: str) -> str:
    """Why the file can't be sent; empty if it can."""
    # Opening a named pipe would wait forever.
    if not os.path.isfile(path):
        return "not a file" if os.path.exists(path) else "no such file"
    if not os.access(path, os.R_OK):
        return "can't be read: permission denied"
    return TOO_MANY_BYTES if os.path.getsize(path) > LARGEST_BYTES else ""


def _row(about: Metadata, path: str, answer: Answer) -> answers.Row:
    if answer.error:
        return answers.Row(path, error=unreadable(path) or answer.error)
    return answers.Row(path, answers.ranked(about.class_names, answer.probabilities), answer.further)


if __name__ == "__main__":
    define_server_flags()
    answers.define_flags()
    flags.DEFINE_integer("parallel", 2, "Requests under way at a time, 1 or more.", lower_bound=1)
    flags.adopt_module_key_flags(answers)
    cli.run(main)
