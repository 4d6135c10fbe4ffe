"""Strict readers of a run folder's files: what train.py wrote, or an error that names the file."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import tensorflow as tf

from data.files import read_text
from data.names import printable
from errors import UserError
from training.config import TrainConfig, check_ranges

# Raise it when an older version of this program would misread the folder.
SCHEMA = 1
SPLIT_COLUMNS = ("address", "label", "split", "sha256")
SPLIT_NAMES = ("train", "val", "test", "unused")

# What config.json holds beside the flags; an older version wrote fewer of them.
_FACTS: dict[str, type | types.UnionType] = {
    "command": str,
    "seed": int,
    "devices": list,
    "versions": dict,
    "git_commit": str | None,
    "parameters": int,
    "skipped_images": list,
    "sha256": dict,
}
# The files that don't change after the start of a run.
FIXED = ("labels.txt", "splits.csv")
_LATER_FACTS: dict[str, type | types.UnionType] = {"training_seconds": int | float}
_NEEDED_FLAGS = ("model", "data", "image_size")
_TEXT_COLUMNS = ("phase",)
_WAY_OUT = "Put a copy of it back, or train again."
_EMPTY = "an empty file"
_SHOWN_CHARACTERS = 60

Content = TypeVar("Content")


class DamagedError(Exception):
    """What is wrong with a file, in words that finish the sentence `Received: ...`, and the way out."""

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
    """What `parse` makes of the text in `path`.

    Raises:
        UserError: the file is missing, or `parse` found it damaged.
    """
    with refusing(path):
        return parse(_text(path))


def check_unchanged(path: str, parse: Callable[[str], Any], sha256: str) -> None:
    """Raises `UserError` for a file with another checksum, and says what `parse` finds wrong with it, if anything."""
    with refusing(path):
        text = _text(path)
        if _digest(text) != sha256:
            parse(text)
            raise DamagedError("a file that was changed after it was written (its SHA-256 is not that in config.json)")


def check_classes(path: str, names: Sequence[str], rows: Iterable[SplitRow]) -> None:
    """Raises `UserError` unless labels.txt of an older version, which kept no checksum, holds the classes of `rows`."""
    with refusing(path):
        if list(names) != sorted({row.label for row in rows}):
            raise DamagedError(
                "names that are not the sorted classes of splits.csv, and the older version that wrote the run kept "
                "no checksum to tell whether they are its own"
            )


def checksums(folder: str) -> dict[str, str]:
    """SHA-256, hexadecimal, of the files of a run that don't change after its start."""
    return {name: _digest(read_text(os.path.join(folder, name))) for name in FIXED}


def parse_config(text: str) -> dict[str, Any]:
    """The record of a run, with flags that `TrainConfig` takes."""
    details = _json_object(text)
    schema = details.get("schema")
    if schema not in (None, SCHEMA) or isinstance(schema, bool):
        raise DamagedError(
            f"schema {_cut(schema)}, while this version of the program reads schema {SCHEMA}",
            "Use the version of the program that wrote it.",
        )
    _check_facts(details, _FACTS, are_needed=schema is not None)
    _check_facts(details, _LATER_FACTS, are_needed=False)
    checksums = details.get("sha256", {})
    is_recorded = all(isinstance(checksums.get(name), str) for name in FIXED)
    if (schema is not None or checksums) and not is_recorded:
        raise DamagedError(f"{_cut(checksums)} as `sha256`, which must hold those of {' and '.join(FIXED)}")
    _check_flags(details.get("flags"))
    return details


def flags_of(details: dict[str, Any]) -> TrainConfig:
    """The flags of a record that `parse_config` gave, defaults filled in."""
    known = {item.name for item in dataclasses.fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in details["flags"].items() if name in known})


def parse_labels(text: str) -> tuple[str, ...]:
    """The names of the classes, two at least."""
    names = tuple(text.splitlines())
    if len(names) < 2 or len(set(names)) < len(names) or not all(names) or not text.endswith("\n"):
        raise DamagedError(f"{_cut(text)}, which is not one name per line for two or more classes" if text else _EMPTY)
    return names


def parse_splits(text: str) -> list[SplitRow]:
    """The rows."""
    header, *rows = _csv_rows(text)
    # Older runs have another name for the third column, and the oldest no fourth one.
    columns = tuple("split" if name == "part" else name for name in header)
    if columns not in (SPLIT_COLUMNS, SPLIT_COLUMNS[:-1]):
        raise DamagedError(f"{_cut(','.join(header))} in place of the header {','.join(SPLIT_COLUMNS)}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or row[2] not in SPLIT_NAMES:
            raise DamagedError(f"{_cut(','.join(row))} in row {number}, which is no image with its class and split")
    return [SplitRow(*row) for row in rows]


def parse_history(text: str) -> list[dict[str, str]]:
    """The rows of history.csv, every cell a number but for the name of the phase."""
    header, *rows = _csv_rows(text)
    if header[0] != "epoch" or "val_loss" not in header or not rows:
        raise DamagedError(f"{_cut(','.join(header))} in place of columns such as epoch and val_loss, with rows below")
    for number, row in enumerate(rows, start=2):
        cells = dict(zip(header, row, strict=False))
        numbers = [cell for name, cell in cells.items() if name not in _TEXT_COLUMNS and cell]
        if len(row) != len(header) or not cells["epoch"].isdecimal() or not all(map(_is_number, numbers)):
            raise DamagedError(f"{_cut(','.join(row))} in row {number}, which is no epoch with its numbers")
    return [dict(zip(header, row, strict=True)) for row in rows]


def parse_metrics(text: str) -> dict[str, float]:
    """The metrics of test.json."""
    metrics = _json_object(text)
    if not metrics or not all(type(value) in (int, float) for value in metrics.values()):
        raise DamagedError(f"{_cut(text)}, which is not a number for each metric")
    return metrics


def _text(path: str) -> str:
    try:
        return read_text(path)
    except (OSError, tf.errors.OpError) as error:
        exists = tf.io.gfile.exists(os.fsencode(path))
        raise DamagedError("a file that can't be read" if exists else "no such file") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{_cut(text)}, which is not JSON" if text.strip() else _EMPTY) from error
    if not isinstance(value, dict):
        raise DamagedError(f"{_cut(text)}, which is not a JSON object")
    return value


def _check_facts(details: dict[str, Any], facts: dict[str, Any], *, are_needed: bool) -> None:
    for name, kind in facts.items():
        if (are_needed or name in details) and not _fits(details.get(name), kind):
            raise DamagedError(f"{_cut(details.get(name))} as `{name}`, which is not of the type {_named(kind)}")


def _check_flags(flags: object) -> None:
    if not isinstance(flags, dict) or not flags.keys() >= set(_NEEDED_FLAGS):
        raise DamagedError(f"{_cut(flags)} as `flags`, which must hold at least {', '.join(_NEEDED_FLAGS)}")
    hints = typing.get_type_hints(TrainConfig)
    known = {name: value for name, value in flags.items() if name in hints}
    for name, value in known.items():
        if not _fits(value, hints[name]):
            raise DamagedError(f"{_cut(value)} as the flag `{name}`, which is not of the type {_named(hints[name])}")
    try:
        check_ranges(TrainConfig(**known))
    except UserError as error:
        raise DamagedError(f"a flag that is out of range: {str(error).rstrip('.')}") from error


def _fits(value: object, hint: Any) -> bool:
    kinds = typing.get_args(hint) or (hint,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _named(hint: Any) -> str:
    return " or ".join(kind.__name__.replace("NoneType", "null") for kind in typing.get_args(hint) or (hint,))


def _csv_rows(text: str) -> list[list[str]]:
    """The header, which isn't empty, and the rows."""
    if not text.strip():
        raise DamagedError(_EMPTY)
    if not text.endswith("\n"):
        raise DamagedError("a file that was cut off: its last line has no end")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DamagedError(f"{_cut(text)}, which is not CSV ({error})") from error
    if not rows[0]:
        raise DamagedError("a first line without column names")
    return rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cut(value: object) -> str:
    """What was received, which may be megabytes when the file is something else."""
    return ascii(value if not isinstance(value, str) else value[: _SHOWN_CHARACTERS + 1])[:_SHOWN_CHARACTERS]
