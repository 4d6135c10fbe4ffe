"""Compares two files of `fingerprints.py`: what differs in each training, and by how much."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

# Words in the names of columns, JSON keys and outputs that mean the same in the old file and the new one.
RENAMED = {"part": "split", "parts": "splits", "picture": "image", "pictures": "images"}
_MOST_SHOWN = 5


def compare(old: pathlib.Path, new: pathlib.Path) -> int:
    """Prints "equal" or the differences of every training in both files; 1 when there is any."""
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in (old, new))
    differs = False
    with np.load(old.with_suffix(".npz")) as first_arrays, np.load(new.with_suffix(".npz")) as second_arrays:
        for name in {**first, **second}:
            if name not in first or name not in second:
                print(f"{name}: only in {old if name in first else new}")
                continue
            arrays = [_of(stored, name) for stored in (first_arrays, second_arrays)]
            lines = [*_weights(*arrays), *_items(first[name], second[name])]
            differs = differs or bool(lines)
            print(f"{name}: {'differs' if lines else 'equal'}", *lines, sep="\n    ")
    return int(differs)


def _of(stored: Any, name: str) -> dict[str, np.ndarray]:
    return {key.split("/", 1)[1]: stored[key] for key in stored.files if key.split("/", 1)[0] == name}


def _weights(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> Iterator[str]:
    """Arrays are compared by name; those whose name has gone, with the new ones of the same bits or else shape."""
    pairs = {path: path for path in old if path in new}
    gone, come = [p for p in old if p not in pairs], [p for p in new if p not in pairs]
    for alike in (_same_bits, _same_shape):
        for path in list(gone):
            match = next((other for other in come if alike(old[path], new[other])), None)
            if match:
                pairs[path] = match
                gone.remove(path)
                come.remove(match)
    renamed = [f"{path} is {other}" for path, other in pairs.items() if path != other]
    different = [(path, other) for path, other in pairs.items() if not _same_bits(old[path], new[other])]
    for what, found in (("named anew", renamed), ("only in the old", gone), ("only in the new", come)):
        if found:
            yield f"weights: {len(found)} of {len(old)} arrays {what}: {_shown(found)}"
    if different:
        differences = {path: _distance(old[path], new[other]) for path, other in different}
        worst = max(differences, key=differences.__getitem__)
        yield f"weights: {len(different)} of {len(old)} arrays differ, by {differences[worst]:.3g} at most, in {worst}"


def _same_shape(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return _same_shape(a, b) and a.tobytes() == b.tobytes()


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def _items(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for item in {**old, **new}:
        if item != "weights":
            yield from _differences(item, dict(_flat(old.get(item))), dict(_flat(new.get(item))))


def _differences(item: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    gone, come = [p for p in old if p not in new], [p for p in new if p not in old]
    for what, found in (("only in the old", gone), ("only in the new", come)):
        if found:
            yield f"{item}: {len(found)} of {len(old)} values {what}: {_shown(found)}"
    both = {path: (old[path], new[path]) for path in old if path in new and old[path] != new[path]}
    numbers = {path: abs(a - b) for path, (a, b) in both.items() if _is_number(a) and _is_number(b)}
    if numbers:
        worst = max(numbers, key=numbers.__getitem__)
        yield f"{item}: {len(numbers)} of {len(old)} numbers differ, by {numbers[worst]:.3g} at most, in {worst}"
    others = [f"{path} {a!r} is {b!r}" for path, (a, b) in both.items() if path not in numbers]
    if others:
        yield f"{item}: {len(others)} texts differ: {_shown(others)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each number and text by the path that leads to it, in the new words."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}/{_in_new_words(key)}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _flat(item, f"{path}/{i}")
    else:
        yield path, value


def _in_new_words(key: str) -> str:
    return re.sub(r"[a-z]+", lambda word: RENAMED.get(word[0], word[0]), key)


def _shown(found: list[str]) -> str:
    more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    return "; ".join(found[:_MOST_SHOWN]) + more
