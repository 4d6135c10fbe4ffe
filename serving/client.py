"""Asks a served model about images: `python -m serving.client --server=localhost:8500 photos/`.

Exit code: 0 when every image was answered, 1 when some or all were not, 2 when the command is wrong or no server
answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import chain

from absl import flags

import cli
from data.image_header import LARGEST_BYTES, TOO_MANY_BYTES
from data.progress import progress
from errors import UserError
from serving import answers, asking, connecting
from serving.metadata import Metadata

_MOST_BYTES_A_REQUEST = 32 * 2**20


def define_flags() -> None:
    """Defines the client's flags."""
    connecting.define_flags()
    answers.define_flags()
    flags.DEFINE_integer("parallel", 2, "Requests under way at a time, 1 or more.", lower_bound=1)


def main(argv: list[str]) -> int:
    """Writes a row for each image; gives the exit code."""
    options = flags.FLAGS
    answers.check_flags(options)
    paths = find_images(argv[1:])
    transport, patience = connecting.connect(options, options.parallel)
    about = asking.metadata(transport, patience)
    layout = answers.Layout(paths, about.class_names, about.further_heads)
    batches = list(split(paths, options.batch_size))
    reads = [lambda batch=batch: [read(path) for path in batch] for batch in batches]
    answered = asking.classify_all(transport, reads, patience, options.parallel)
    rows = (_row(about, path, answer) for path, answer in zip(paths, chain.from_iterable(answered), strict=True))
    # On a terminal the rows themselves show the progress, and a second line would tear them.
    return answers.write(rows if sys.stdout.isatty() else progress(rows, len(paths), "asking"), layout, options)


def find_images(arguments: list[str]) -> list[str]:
    """The files that `arguments` name, and all visible files in the folders among them, sorted.

    A path that doesn't exist is kept: it gets a row of its own.

    Raises:
        UserError: nothing is named, or no file is in the folders.
    """
    if not arguments:
        raise UserError("Name images or folders of images: python -m serving.client --server=HOST:PORT photos/")
    found = [path for argument in arguments for path in _below(argument)]
    if not found:
        raise UserError(f"There must be a file in {', '.join(arguments)}. Received: no visible file.")
    return found


def read(path: str) -> bytes:
    """The file's bytes; empty for one that can't be read or be an image, which the server then refuses."""
    if unreadable(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def unreadable(path: str) -> str:
    """Why the file isn't sent; empty for one that is."""
    # Opening a named pipe would wait forever.
    if not os.path.isfile(path):
        return "not a file" if os.path.exists(path) else "no such file"
    if not os.access(path, os.R_OK):
        return "can't be read: permission denied"
    return TOO_MANY_BYTES if os.path.getsize(path) > LARGEST_BYTES else ""


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
        if batch and (len(batch) == batch_size or size + bytes_ > _MOST_BYTES_A_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += bytes_
    yield batch


def _row(about: Metadata, path: str, answer: asking.Answer) -> answers.Row:
    if answer.error:
        return answers.Row(path, error=unreadable(path) or answer.error)
    named = zip(about.class_names, answer.probabilities, strict=True)
    best_first = sorted(named, key=lambda pair: -pair[1])
    return answers.Row(path, dict(best_first), answer.further)


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(connecting)
    flags.adopt_module_key_flags(answers)
    cli.run(main)
