"""What is recorded of one training, read from the files and the output that its four programs have left."""

from __future__ import annotations

import csv
import hashlib
import json
import pathlib
import re
import zipfile
from typing import Any

import h5py
import numpy as np


def read(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """All items of the run folder `folder/name`, ready for JSON; paths are written without `folder`."""
    run = folder / name
    return {
        "weights": {path: _described(values) for path, values in weights(run).items()},
        "splits.csv": _rows(run / "splits.csv", folder),
        "test.json": json.loads(_text(run / "test.json", folder)),
        "history.csv": [_without_seconds(row) for row in _rows(run / "history.csv", folder)],
        "predictions": _rows(folder / f"{name}.predict.out", folder),
        "report": json.loads(_text(run / "report" / "metrics.json", folder)),
        "answers": _answers(run / "export" / "1", folder / "photos"),
    }


def weights(run: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of model.keras by its path in the archive, layers 2 before layers 10."""
    arrays: dict[str, np.ndarray] = {}

    def add(path: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[path] = item[()]

    with zipfile.ZipFile(run / "model.keras") as archive, archive.open("model.weights.h5") as member:
        with h5py.File(member, "r") as file:
            file.visititems(add)
    return {path: arrays[path] for path in sorted(arrays, key=_natural)}


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", path)]


def _described(values: np.ndarray) -> dict[str, Any]:
    content = np.ascontiguousarray(values).tobytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "shape": list(values.shape), "dtype": str(values.dtype)}


def _text(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8").replace(f"{folder}/", "")


def _rows(path: pathlib.Path, folder: pathlib.Path) -> list[dict[str, Any]]:
    rows = csv.DictReader(_text(path, folder).splitlines())
    return [{column: _number(cell) for column, cell in row.items()} for row in rows]


def _number(cell: str) -> str | float:
    try:
        return float(cell)
    except ValueError:
        return cell


def _without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in row.items() if "second" not in column}


def _answers(export: pathlib.Path, photos: pathlib.Path) -> dict[str, Any]:
    """Each output of the default signature for each photograph."""
    import tensorflow as tf

    paths = sorted(path for path in photos.rglob("*") if path.is_file())
    serve = tf.saved_model.load(str(export)).signatures["serving_default"]
    outputs = serve(image_bytes=tf.constant([path.read_bytes() for path in paths]))
    values = {output: _plain(tensor.numpy()) for output, tensor in outputs.items()}
    return {
        str(path.relative_to(photos)): {output: rows[i] for output, rows in values.items()}
        for i, path in enumerate(paths)
    }


def _plain(values: np.ndarray) -> list[Any]:
    return values.astype(str).tolist() if values.dtype == object else values.tolist()
