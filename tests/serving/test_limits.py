"""One limit for all: what can be trained on can be predicted and served, and what is refused is refused everywhere."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from data import load, validation
from evaluation import predictions
from serving import client
from serving.signatures import decode_batch
from serving.transport import Grpc, Patience, Target
from tests.conftest import encode, stripes
from tests.serving.conftest import CLASSES, SIZE

LIMIT = 512 << 20


def padded(folder: pathlib.Path, size: int) -> pathlib.Path:
    """A folder of two classes, whose first image is a sound PNG with zeros behind it, mostly a hole in the file."""
    for name, upright in zip(CLASSES, (False, True), strict=True):
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes(encode(stripes(1, upright=upright), "PNG"))
    with open(folder / CLASSES[0] / "1.png", "r+b") as file:
        file.truncate(size)
    return folder / CLASSES[0] / "1.png"


def predicted(path: pathlib.Path) -> str:
    """Why `predict.py` refuses a file; empty when it answers."""
    rows = predictions.of_files(
        [str(path)],
        lambda pixels: {"probabilities": np.full((len(pixels), 2), 0.5)},
        image_size=SIZE,
        channels=3,
        batch_size=1,
    )
    ((_, _, error),) = rows
    return error


def test_a_large_file_is_taken_everywhere(tmp_path: pathlib.Path, addresses: tuple[str, str]) -> None:
    path = padded(tmp_path, 300 << 20)
    assert [inspection.problem for inspection in validation.scan(load(str(tmp_path)))] == ["", ""]
    assert predicted(path) == ""
    assert len(list(client.split([str(path)] * 2, 32))) == 2, "each in a request of its own"
    transport = Grpc(Target(addresses[0], "darkroom"))
    small = encode(stripes(1, upright=False), "PNG")
    large_answer, answer = client.classify(transport, [client.read(str(path)), small], Patience(120.0))
    assert large_answer == answer and answer.error == ""


def test_a_larger_file_is_refused_everywhere_in_the_same_words(tmp_path: pathlib.Path) -> None:
    path = padded(tmp_path, LIMIT + 1)
    reason = "larger than 512 MiB"
    assert [inspection.problem for inspection in validation.scan(load(str(tmp_path)))] == [reason, ""]
    assert predicted(path) == reason
    assert client.read(str(path)) == b""
    assert client.unreadable(str(path)) == reason


def test_the_exported_graph_has_the_same_limit(tmp_path: pathlib.Path) -> None:
    content = padded(tmp_path, LIMIT + 1).read_bytes()
    refuse = tf.function(lambda batch: decode_batch(batch, SIZE, 3))
    for size, reason in ((LIMIT, b""), (LIMIT + 1, b"larger than 512 MiB")):
        assert refuse(tf.constant([content[:size]]))[1].numpy().tolist() == [reason]


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_itself(tmp_path: pathlib.Path, extra: int) -> None:
    path = padded(tmp_path, LIMIT + extra)
    wanted = "larger than 512 MiB" if extra else ""
    problems = validation.inspect(path.read_bytes()).problem, predicted(path)
    assert problems == (wanted, wanted)
    assert len(client.read(str(path))) == (0 if extra else LIMIT)
