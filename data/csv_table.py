"""A CSV table of `path,label`, with paths relative to the table's folder."""

from __future__ import annotations

import csv
import io
import os

import numpy as np

from data.files import read_text
from data.source import Source, as_records
from errors import UserError

_HEADER = ["path", "label"]


def load(path: str) -> Source:
    """Reads the table `path`; class indices follow the sorted labels.

    Raises:
        UserError: another header, a row without path or label, a path that leaves the table's folder, a picture named
            twice, or fewer than two labels.
    """
    rows = _read_rows(path)
    folder = os.path.dirname(path) or "."
    for number, (picture, _) in enumerate(rows, start=2):
        _check_inside(path, number, picture)
    classes = sorted({label for _, label in rows})
    _check(path, rows, classes)
    index = {name: i for i, name in enumerate(classes)}
    return Source(
        name=path,
        addresses=tuple(picture for picture, _ in rows),
        records=as_records([os.fsencode(f"{folder}/{picture}") for picture, _ in rows]),
        labels=np.asarray([index[label] for _, label in rows], np.int64),
        class_names=tuple(classes),
        holds_paths=True,
    )


def _read_rows(path: str) -> list[tuple[str, str]]:
    reader = csv.reader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    header = [cell.strip() for cell in next(reader, [])]
    if header != _HEADER:
        raise UserError(
            f"The first line of {path} must be `path,label`. Received {','.join(header)!r}. "
            "Paths are relative to the table's folder."
        )
    rows = []
    for number, row in enumerate(reader, start=2):
        if not row:
            continue
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise UserError(f"Line {number} of {path} must be `path,label`. Received {','.join(row)!r}.")
        rows.append((row[0].strip(), row[1].strip()))
    return rows


def _check_inside(path: str, number: int, picture: str) -> None:
    """A table from elsewhere must not make the program read, or copy into a report, other files of this machine."""
    normal = os.path.normpath(picture)
    if os.path.isabs(normal) or normal.split(os.sep)[0] == "..":
        raise UserError(
            f"Line {number} of {path} must name a picture below the table's folder, by a relative path. "
            f"Received {picture!r}. Move the table above its pictures."
        )


def _check(path: str, rows: list[tuple[str, str]], classes: list[str]) -> None:
    if len(classes) < 2:
        raise UserError(f"{path} must hold two different labels at least. Received: {', '.join(classes) or 'no rows'}.")
    seen: set[str] = set()
    twice = [picture for picture, _ in rows if picture in seen or seen.add(picture)]  # type: ignore[func-returns-value]
    if twice:
        raise UserError(f"{path} must name each picture once. Received twice: {', '.join(twice[:3])}.")
