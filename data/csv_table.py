"""A CSV table of `path,label` and optional further columns, with paths relative to the table's folder."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from data.dataset import Dataset, as_records
from data.files import read_text
from data.names import check_class_names, printable, shortened
from errors import UserError

_HEADER = ["path", "label"]
_SHOWN_CHARACTERS = 100


def accepts(data: str) -> bool:
    """Whether `data` is an existing .csv file."""
    return data.lower().endswith(".csv") and tf.io.gfile.exists(os.fsencode(data))


def load(path: str, data_dir: str | None = None, workers: Any = None) -> Dataset:
    """Reads the table `path`; class indices follow the sorted labels.

    Further columns become `Dataset.columns`: numbers if all cells of a column are, else text.

    Raises:
        UserError: a wrong header, an empty or missing cell, a path out of the table's folder, an image named twice, or
            fewer than two labels.
    """
    header, cells = _read_rows(path)
    rows = [(row[0], row[1]) for row in cells]
    folder = os.path.dirname(path) or "."
    classes = sorted({label for _, label in rows})
    _check(path, rows, classes)
    index = {name: i for i, name in enumerate(classes)}
    return Dataset(
        name=path,
        addresses=tuple(image for image, _ in rows),
        records=as_records([os.fsencode(f"{folder}/{image}") for image, _ in rows]),
        labels=np.asarray([index[label] for _, label in rows], np.int64),
        class_names=tuple(classes),
        holds_paths=True,
        columns={name: _column([row[i] for row in cells]) for i, name in enumerate(header[2:], start=2)},
    )


def _column(cells: list[str]) -> np.ndarray:
    try:
        return np.asarray([float(cell) for cell in cells])
    except ValueError:
        return as_records(cells)


def _read_rows(path: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, without spaces around cells."""
    reader = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    try:
        header = [cell.strip() for cell in next(reader, [])]
        lines = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} of {printable(path)} must be CSV text. Received: {error}.") from error
    if header[:2] != _HEADER or len(set(header)) < len(header) or not all(header):
        raise UserError(
            f"The first line of {printable(path)} must be `path,label`. Received {_cut(header)}. "
            "Paths are relative to the table's folder; further columns may follow, each with a different name."
        )
    for number, row in lines:
        if len(row) != len(header) or not all(cell.strip() for cell in row):
            wanted = printable(",".join(header)[:_SHOWN_CHARACTERS])
            raise UserError(f"Line {number} of {printable(path)} must be `{wanted}`. Received {_cut(row)}.")
        _check_inside(path, number, row[0].strip())
    return header, [[cell.strip() for cell in row] for _, row in lines]


def _cut(row: list[str]) -> str:
    """The start of a line, which may be megabytes if the file is no table."""
    return repr(printable(",".join(row)[:_SHOWN_CHARACTERS]))


def _check_inside(path: str, number: int, image: str) -> None:
    """A table from elsewhere must not make the program read other files of this machine, or put them in a report."""
    normal = os.path.normpath(image)
    if os.path.isabs(normal) or normal.split(os.sep)[0] == ".." or "\0" in image:
        raise UserError(
            f"Line {number} of {printable(path)} must name an image below the table's folder, by a relative path. "
            f"Received {_cut([image])}. Move the table above its images."
        )


def _check(path: str, rows: list[tuple[str, str]], classes: list[str]) -> None:
    if len(classes) < 2:
        raise UserError(
            f"{printable(path)} must hold at least two different labels. Received: {shortened(classes) or 'no rows'}."
        )
    check_class_names(path, classes)
    counts = Counter(os.path.normpath(image) for image, _ in rows)
    twice = [image for image, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"{printable(path)} must name each image once. Received more than once: {shortened(twice)}.")
