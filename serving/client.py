"""Asks a served model about pictures: `python -m serving.client --server=localhost:8500 photos/`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from absl import flags

import errors
from data.limits import LARGEST_BYTES, TOO_MANY_BYTES
from data.progress import progress
from errors import UserError
from serving import asking, connecting, table
from serving.metadata import Metadata

_MOST_BYTES_A_REQUEST = 32 * 2**20


def define_flags() -> None:
    """Defines the client's flags."""
    connecting.define_flags()
    flags.DEFINE_enum("format", "table", table.STYLES, "How to print the answers.")
    flags.DEFINE_integer("parallel", 2, "Requests under way at a time, 1 or more.", lower_bound=1)


def main(argv: list[str]) -> int:
    """Prints an answer for each picture; exit code 1 when all were refused."""
    paths = find_pictures(argv[1:])
    options = flags.FLAGS
    transport, patience = connecting.connect(options, options.parallel)
    about = asking.metadata(transport, patience)
    batches = list(split(paths, options.batch_size))
    answers: list[asking.Answer] = []
    reads = [lambda batch=batch: [read(path) for path in batch] for batch in batches]
    answered = asking.classify_all(transport, reads, patience, options.parallel)
    for some in progress(answered, len(batches), "asking (requests)"):
        answers.extend(some)
    _print(table.render([_row(about, *pair) for pair in zip(paths, answers, strict=True)], options.format))
    refused = sum(bool(answer.error) for answer in answers)
    if refused:
        print(f"{refused} of {len(answers)} pictures were refused; see the column error.", file=sys.stderr)
    return 1 if refused == len(answers) else 0


def find_pictures(arguments: list[str]) -> list[str]:
    """The files that `arguments` name, and all visible files in the folders among them, sorted.

    Raises:
        UserError: nothing is named, a path doesn't exist, or a folder is empty.
    """
    if not arguments:
        raise UserError("Name pictures or folders of pictures: python -m serving.client --server=HOST:PORT photos/")
    found = [path for argument in arguments for path in _below(argument)]
    if not found:
        raise UserError(f"There must be a file in {', '.join(arguments)}. Received: no visible file.")
    return found


def read(path: str) -> bytes:
    """The file's bytes; empty for one that can't be a picture, which the server then refuses."""
    if os.path.getsize(path) > LARGEST_BYTES:
        return b""
    with open(path, "rb") as file:
        return file.read()


def _below(argument: str) -> list[str]:
    if os.path.isfile(argument):
        return [argument]
    if not os.path.isdir(argument):
        raise UserError(f"Pictures must be files or folders that exist. Received: {argument}")
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
        bytes_ = min(os.path.getsize(path), LARGEST_BYTES)
        if batch and (len(batch) == batch_size or size + bytes_ > _MOST_BYTES_A_REQUEST):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += bytes_
    yield batch


def _print(text: str) -> None:
    # Names of classes and files can be in any script, wherever the output goes.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    print(text, flush=True)


def _row(about: Metadata, path: str, answer: asking.Answer) -> table.Row:
    row = {"picture": path, "label": answer.label, "score": answer.score}
    if answer.brightness is not None:
        row["brightness"] = answer.brightness
    probabilities = dict(zip(about.class_names, answer.probabilities, strict=True))
    return {**row, "probability": probabilities, "error": answer.error and reason(path, answer.error)}


def reason(path: str, error: str) -> str:
    """Why the file has no answer: what the server says, which does not get to see one that is too large."""
    return TOO_MANY_BYTES if os.path.getsize(path) > LARGEST_BYTES else error


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(connecting)
    errors.run(main)
