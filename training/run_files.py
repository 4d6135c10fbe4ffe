"""Writes the files of a run folder, and reads them strictly: an error names a file that was changed."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from data.dataset import Dataset
from data.files import read_text, write_text
from data.names import printable
from errors import UserError

SPLITS, LABELS, MODEL, CHECKPOINT = "splits.csv", "labels.txt", "model.keras", "checkpoint"
HISTORY, CURVES, TEST = "history.csv", "curves.png", "test.json"

SPLIT_COLUMNS = ("address", "label", "split", "sha256")
SPLIT_NAMES = ("train", "val", "test", "unused")

# The files that don't change after the start of a run.
FIXED = (LABELS, SPLITS)
_TEXT_COLUMNS = ("phase",)
_WAY_OUT = "Put a copy of it back, or train again."
_EMPTY = "an empty file"
_SHOWN_CHARACTERS = 60

Content = TypeVar("Content")


class DamagedError(Exception):
    """What is wrong with a file, worded to follow `Received: `, and the way out."""

    def __init__(self, reason: str, way_out: str = _WAY_OUT) -> None:
        super().__init__(reason)
        self.way_out = way_out


class SplitRow(NamedTuple):
    """One line of `splits.csv`.

    Attributes:
        address: of the image in its data set.
        label: the name of its class.
        split: `train`, `val`, `test` or `unused`.
        sha256: of the image file's bytes, hexadecimal; empty in a run of an older version.
    """

    address: str
    label: str
    split: str
    sha256: str = ""


@contextlib.contextmanager
def refusing(path: str) -> Iterator[None]:
    """Turns a `DamagedError` into a `UserError` that names the file `path`."""
    try:
        yield
    except DamagedError as problem:
        raise UserError(
            f"{printable(path)} must be as train.py has written it. Received: {printable(str(problem))}. "
            f"{problem.way_out}"
        ) from problem


def read(path: str, parse: Callable[[str], Content]) -> Content:
    """The text in `path`, parsed by `parse`.

    Raises:
        UserError: the file is missing, or `parse` found it damaged.
    """
    with refusing(path):
        return parse(_text(path))


def check_unchanged(path: str, parse: Callable[[str], Any], sha256: str) -> None:
    """Raises `UserError` for a file with another checksum, and says what `parse` finds wrong with it, if anything."""
    with refusing(path):
        text = _text(path)
        if digest(text) != sha256:
            parse(text)
            raise DamagedError("a file that was changed after it was written (its SHA-256 differs from config.json)")


def check_classes(path: str, names: Sequence[str], rows: Iterable[SplitRow]) -> None:
    """Raises `UserError` unless labels.txt of an older version, which kept no checksum, holds the classes of `rows`."""
    with refusing(path):
        if list(names) != sorted({row.label for row in rows}):
            raise DamagedError(
                "names that are not the sorted classes of splits.csv, and the older version that wrote the run kept "
                "no checksum to tell whether they are its own"
            )


def write_json(path: str, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_splits(path: str, dataset: Dataset, splits: Iterable[str]) -> None:
    """Writes splits.csv for the images of `dataset`, with the SHA-256 of each, into the run folder `path`."""
    labels = (dataset.class_names[label] for label in dataset.labels)
    rows = zip(dataset.addresses, labels, splits, dataset.known_digests, strict=True)
    write_text(os.path.join(path, SPLITS), _as_csv([SPLIT_COLUMNS, *rows]))


def write_history(path: str, history: list[dict[str, Any]]) -> None:
    """Writes history.csv: a row per epoch, a column for each name that any row has."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    rows = [[row.get(column, "") for column in columns] for row in history]
    write_text(os.path.join(path, HISTORY), _as_csv([columns, *rows]))


def read_history(path: str) -> list[dict[str, str]]:
    """The rows of history.csv, numbers as text; empty before the first epoch has finished."""
    file = os.path.join(path, HISTORY)
    return read(file, parse_history) if tf.io.gfile.exists(file) else []


def parse_labels(text: str) -> tuple[str, ...]:
    """The class names in labels.txt, at least two."""
    names = tuple(text.splitlines())
    if len(names) < 2 or len(set(names)) < len(names) or not all(names) or not text.endswith("\n"):
        raise DamagedError(f"{cut(text)}, which is not one name per line for two or more classes" if text else _EMPTY)
    return names


def parse_splits(text: str) -> list[SplitRow]:
    """The rows of splits.csv."""
    header, *rows = _csv_rows(text)
    # Older runs name the third column otherwise, and the oldest have no fourth one.
    columns = tuple("split" if name == "part" else name for name in header)
    if columns not in (SPLIT_COLUMNS, SPLIT_COLUMNS[:-1]):
        raise DamagedError(f"{cut(','.join(header))} in place of the header {','.join(SPLIT_COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or row[2] not in SPLIT_NAMES:
            raise DamagedError(f"{cut(','.join(row))} in row {number}, which is not an image with its class and split")
    return [SplitRow(*row) for row in rows]


def parse_history(text: str) -> list[dict[str, str]]:
    """The rows of history.csv, in which every cell but the name of the phase is a number."""
    header, *rows = _csv_rows(text)
    if header[0] != "epoch" or "val_loss" not in header or not rows:
        raise DamagedError(f"{cut(','.join(header))} in place of columns such as epoch and val_loss, with rows below")
    for number, row in enumerate(rows, start=2):
        cells = dict(zip(header, row, strict=False))
        numbers = [cell for name, cell in cells.items() if name not in _TEXT_COLUMNS and cell]
        if len(row) != len(header) or not cells["epoch"].isdecimal() or not all(map(_is_number, numbers)):
            raise DamagedError(f"{cut(','.join(row))} in row {number}, which is not an epoch with its numbers")
    return [dict(zip(header, row, strict=True)) for row in rows]


def parse_metrics(text: str) -> dict[str, float]:
    """The metrics of test.json."""
    metrics = json_object(text)
    if not metrics or not all(type(value) in (int, float) for value in metrics.values()):
        raise DamagedError(f"{cut(text)}, which is not a number for each metric")
    return metrics


def _text(path: str) -> str:
    try:
        return read_text(path)
    except (OSError, tf.errors.OpError) as error:
        exists = tf.io.gfile.exists(os.fsencode(path))
        raise DamagedError("a file that can't be read" if exists else "no such file") from error


def digest(text: str) -> str:
    """SHA-256, hexadecimal, of a file's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`; raises `DamagedError` for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{cut(text)}, which is not JSON" if text.strip() else _EMPTY) from error
    if not isinstance(value, dict):
        raise DamagedError(f"{cut(text)}, which is not a JSON object")
    return value


def _csv_rows(text: str) -> list[list[str]]:
    """The header, which is not empty, and the rows."""
    if not text.strip():
        raise DamagedError(_EMPTY)
    if not text.endswith("\n"):
        raise DamagedError("a file that was cut off: its last line has no end")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DamagedError(f"{cut(text)}, which is not CSV ({error})") from error
    if not rows[0]:
        raise DamagedError("a first line without column names")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def cut(value: object) -> str:
    """What was received, cut to 60 characters, since another kind of file may hold megabytes."""
    return ascii(value if not isinstance(value, str) else value[: _SHOWN_CHARACTERS + 1])[:_SHOWN_CHARACTERS]


def _as_csv(rows: Iterable[Iterable[Any]]) -> str:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(rows)
    return table.getvalue()
