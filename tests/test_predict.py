from __future__ import annotations

import csv
import json
import os
import pathlib
import struct
import subprocess
import sys
import zlib

import numpy as np
import psutil
import pytest

from evaluation import predictions
from evaluation.predictions import Answers
from serving import answers
from tests.conftest import encode, has_imported
from tests.evaluation.conftest import run, write_images
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[1]
__all__ = ["run"]

NAMES = ("dark", "middle", "bright")


def predict(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "predict.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def by_brightness(pixels: np.ndarray) -> Answers:
    """A network that is surer of `bright` the brighter an image is."""
    share = pixels.mean(axis=(1, 2, 3)) / 255
    return {"probabilities": np.stack([0.7 * (1 - share), np.full_like(share, 0.3), 0.7 * share], axis=1)}


def gray(level: int) -> bytes:
    return encode(np.full((20, 30, 3), level, np.uint8), "PNG")


def bomb() -> bytes:
    """A PNG of 80 bytes that claims to be 60,000 x 60,000 px."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9))), (b"IEND", b""))
    sizes = [struct.pack(">I", len(body)) for _, body in chunks]
    sums = [struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    parts = [size + kind + body + check for size, (kind, body), check in zip(sizes, chunks, sums, strict=True)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Good and bad files, hidden ones and a folder in a folder."""
    files = {
        "a.png": gray(250),
        "b.png": gray(5),
        "bomb.png": bomb(),
        "cut.jpg": encode(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))[:900],
        "empty.jpg": b"",
        "notes.txt": b"no image",
        ".hidden.png": gray(1),
        "below/c.png": gray(200),
        ".thumbs/d.png": gray(1),
    }
    for name, content in files.items():
        path = tmp_path / "mixed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "mixed"


def test_each_file_has_its_row_and_a_broken_one_harms_no_other(folder: pathlib.Path) -> None:
    paths = predictions.find_files([str(folder), str(folder / "nowhere.png")])
    rows = list(predictions.of_files(paths, by_brightness, image_size=8, channels=3, batch_size=3))
    assert [pathlib.Path(path).name for path, _, _ in rows] == [
        "a.png", "b.png", "c.png", "bomb.png", "cut.jpg", "empty.jpg", "notes.txt", "nowhere.png",
    ]  # fmt: skip
    good, bad = rows[:3], rows[3:]
    ranked = [answers.ranked(NAMES, answer["probabilities"]) for _, answer, error in good if not error]
    assert list(ranked[0]) == ["bright", "middle", "dark"]
    assert [next(iter(names)) for names in ranked] == ["bright", "dark", "bright"]
    assert ranked[0]["bright"] == pytest.approx(0.7 * 250 / 255)
    assert [error != "" and answer == {} for _, answer, error in bad] == [True] * 5
    reasons = [error for _, _, error in bad]
    assert "megapixels" in reasons[0] and reasons[2] == "empty file" and reasons[4] == "no such file"


def test_a_named_pipe_and_an_unreadable_name_are_rows_too(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    odd = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.png")
    with open(odd, "wb") as file:
        file.write(gray(255))
    paths = predictions.find_files([str(tmp_path)])
    (path, answer, _), (*_, error) = predictions.of_files(paths, by_brightness, image_size=8, channels=3, batch_size=4)
    assert error == "not a file"
    assert path == odd and next(iter(answers.ranked(NAMES, answer["probabilities"]))) == "bright"


@pytest.mark.parametrize("images", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_stays_flat_over_many_images(tmp_path: pathlib.Path, images: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(np.zeros((40, 40, 3), np.uint8), "PNG"))
    # The pixels of 1,000 images are 110 MB.
    rows = predictions.of_files([str(path)] * images, by_brightness, image_size=192, channels=3, batch_size=32)
    resident = []
    for count, _ in enumerate(rows, start=1):
        if count % 500 == 0:
            resident.append(psutil.Process().memory_info().rss)
    assert len(resident) == images // 500
    assert max(resident) - resident[0] < 40e6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("photos")
    write_images(folder / "new", 5, first=300)
    (folder / "new" / "upright" / "300.png").write_bytes(b"broken")
    return folder / "new"


def test_a_table_for_people(run: Run, photos: pathlib.Path) -> None:
    done = predict(f"--run={run.path}", str(photos))
    assert done.returncode == 1, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["image", "label", "score", "error"]
    assert len(rows) == 10
    right = sum(pathlib.Path(row.split()[0]).parent.name == row.split()[1] for row in rows)
    assert right >= 7
    assert sum("not an image" in row for row in rows) == 1
    assert len({row.index("%") for row in rows if "%" in row}) == 1
    assert "1 of 10 images were not answered; see the column error." in done.stderr


@pytest.mark.parametrize("form", ["csv", "json"])
def test_rows_for_programs(run: Run, photos: pathlib.Path, form: str) -> None:
    done = predict(f"--run={run.path}", f"--format={form}", str(photos / "upright"), "nowhere.png")
    assert done.returncode == 1, done.stderr
    if form == "csv":
        rows = list(csv.DictReader(done.stdout.splitlines()))
        probabilities = [f"probability_{name}" for name in run.class_names]
        assert list(rows[0]) == ["image", "label", "score", *probabilities, "error"]
        good = [([float(row[name]) for name in probabilities], row) for row in rows if not row["error"]]
    else:
        rows = json.loads(done.stdout)
        assert {tuple(row) for row in rows} == {("image", "label", "score", "probabilities", "error")}
        good = [([row["probabilities"][name] for name in run.class_names], row) for row in rows if not row["error"]]
    assert [row["error"] for row in rows if row["error"]] == ["not an image", "no such file"]
    assert len(good) == 4
    for values, row in good:
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert row["label"] == run.class_names[int(np.argmax(values))] and float(row["score"]) == max(values)


def test_the_exit_code_says_whether_every_image_was_answered(run: Run, photos: pathlib.Path) -> None:
    good, bad = sorted((photos / "lying").iterdir()), [str(photos / "upright" / "300.png"), "nowhere.png"]
    for paths, code, summary in (
        (good, 0, ""),
        ([*good, *bad], 1, f"2 of {len(good) + 2} images were not answered"),
        (bad, 1, "2 of 2 images were not answered"),
    ):
        done = predict(f"--run={run.path}", "--format=json", *map(str, paths))
        assert (done.returncode, len(json.loads(done.stdout))) == (code, len(paths)), done.stderr
        assert summary in done.stderr and ("not answered" in done.stderr) == bool(code)


def test_wrong_flags_are_answered_at_once_and_in_words(imports_told: None) -> None:
    for arguments, message in (
        (("a.jpg",), "--run must be given. Run folder"),
        (("--run=a",), "needs images or folders"),
        (("--run=a", "--format=xml", "b.jpg"), "--format must be one of table, csv, json"),
        (("--run=a", "--top_k=0", "b.jpg"), "top_k"),
        (("--run=a", "--top_k=2", "--format=json", "b.jpg"), "--top_k belongs to --format=table"),
    ):
        done = predict(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert message in done.stderr and "Traceback" not in done.stderr
        assert not has_imported("tensorflow", done.stderr)


def test_help_needs_no_tensorflow() -> None:
    script = "import sys, predict; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "--top_k" in predict("--help").stdout
