"""Labels for any image files, one row each, a broken one included; memory doesn't grow with their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from data.decode import decode
from data.image_header import LARGEST_BYTES, TOO_MANY_BYTES, read_header
from data.names import printable
from evaluation.predictions import Answers

_OF_THE_CLASS = ("label", "score", "probabilities")


@dataclass(frozen=True)
class Row:
    """What is said of one file.

    Attributes:
        path: as it was given or found.
        answers: the most probable class names with their probabilities, best first; empty with an error.
        further: what the heads beside the class say, by name; empty with an error.
        error: why the file can't be read; empty for a good one.
    """

    path: str
    answers: tuple[tuple[str, float], ...] = ()
    further: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Reader:
    """How images become pixels, and answers become rows.

    Attributes:
        image_size: height and width that the network sees, in px.
        channels: 3 (RGB) or 1 (gray).
        class_names: in index order.
        top_k: how many answers to give for each image, at most.
    """

    image_size: int
    channels: int
    class_names: tuple[str, ...]
    top_k: int = 1

    def rows(self, paths: Sequence[str], answer: Callable[[np.ndarray], Answers], batch_size: int) -> Iterator[Row]:
        """One row for each path, in order; reads ahead by one batch while the network is busy."""
        with ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool:
            batches = _batches(paths, batch_size)
            ahead = [(batch, pool.map(self._read, batch)) for batch in islice(batches, 1)]
            while ahead:
                batch, pixels = ahead.pop()
                ahead = [(following, pool.map(self._read, following)) for following in islice(batches, 1)]
                yield from self._answered(batch, list(pixels), answer)

    def _read(self, path: str) -> np.ndarray | str:
        """Pixels, or why there are none."""
        try:
            encoded = _read_remote(path) if "://" in path else _read_local(path)
        except OSError as error:
            return f"can't be read: {(error.strerror or 'unknown reason').lower()}"
        except tf.errors.OpError as error:
            return f"can't be read: {error.message}"
        if isinstance(encoded, str):
            return encoded
        # A few bytes can claim to be a gigapixel; nothing is decoded before this has looked.
        if problem := read_header(encoded).problem:
            return problem
        try:
            return decode(tf.constant(encoded), self.image_size, self.channels).numpy()
        except tf.errors.OpError:
            return "damaged or cut off"

    def _answered(
        self, paths: Sequence[str], pixels: list[np.ndarray | str], answer: Callable[[np.ndarray], Answers]
    ) -> Iterator[Row]:
        good = [image for image in pixels if not isinstance(image, str)]
        answers = answer(np.stack(good)) if good else {}
        number = 0
        for path, image in zip(paths, pixels, strict=True):
            if isinstance(image, str):
                yield Row(path, error=image)
            else:
                yield self._row(path, answers, number)
                number += 1

    def _row(self, path: str, answers: Answers, number: int) -> Row:
        probabilities = answers["probabilities"][number]
        best = np.argsort(-probabilities, kind="stable")[: self.top_k]
        named = tuple((printable(self.class_names[i]), float(probabilities[i])) for i in best)
        further = {name: values[number] for name, values in answers.items() if name not in _OF_THE_CLASS}
        return Row(path, named, {name: _plain(value) for name, value in further.items()})


def _plain(value: np.float64 | bytes) -> float | str:
    return value.decode() if isinstance(value, bytes) else float(value)


def _read_local(path: str) -> bytes | str:
    """A file's bytes, or why they are not wanted."""
    # Opening a named pipe would wait forever, and reading a film would fill the memory.
    if not os.path.isfile(path):
        return "no such file" if not os.path.exists(path) else "not a file"
    if os.path.getsize(path) > LARGEST_BYTES:
        return TOO_MANY_BYTES
    with open(path, "rb") as file:
        return file.read()


def _read_remote(path: str) -> bytes | str:
    if tf.io.gfile.stat(path).length > LARGEST_BYTES:
        return TOO_MANY_BYTES
    with tf.io.gfile.GFile(path, "rb") as file:
        return file.read()


def find(places: Iterable[str]) -> list[str]:
    """The files among `places`, and all visible ones below the folders among them, by name."""
    return [path for place in places for path in (sorted(_below(place)) if _is_folder(place) else [place])]


def _is_folder(place: str) -> bool:
    return tf.io.gfile.isdir(place) if "://" in place else os.path.isdir(place)


def _below(folder: str) -> Iterator[str]:
    for parent, folders, names in (tf.io.gfile.walk if "://" in folder else os.walk)(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def _batches(paths: Sequence[str], batch_size: int) -> Iterator[Sequence[str]]:
    return (paths[i : i + batch_size] for i in range(0, len(paths), batch_size))
