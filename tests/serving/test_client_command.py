"""The client's command line against a stand-in server: rows, exit codes and words."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from serving import export
from tests.serving import stand_in
from tests.serving.conftest import CLASSES
from tests.serving.test_client import ROOT, free_address


def ask(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "serving.client", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def mixed_folder(image_folder: pathlib.Path) -> pathlib.Path:
    (image_folder / "lying" / "03.jpg").write_bytes(b"not an image")
    (image_folder / ".hidden").write_bytes(b"")
    return image_folder


def test_the_command_prints_a_row_an_image(addresses, mixed_folder: pathlib.Path) -> None:
    done = ask(f"--server={addresses[0]}", "--batch_size=7", "--format=csv", str(mixed_folder))
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert (done.returncode, len(rows)) == (1, 40), done.stderr
    assert "1 of 40 images were not answered; see the column error." in done.stderr
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    for row in rows:
        if row["image"].endswith("lying/03.jpg"):
            assert (row["label"], row["error"]) == ("", "not a JPEG, PNG, GIF or BMP image")
        else:
            probabilities = [float(row[f"probability_{name}"]) for name in CLASSES]
            assert row["label"] == CLASSES[int(np.argmax(probabilities))] and not row["error"]
            assert float(row["score"]) == max(probabilities)


def test_the_command_over_http_as_json_and_table(addresses, image_folder: pathlib.Path) -> None:
    paths = [str(image_folder / name / "00.jpg") for name in CLASSES]
    as_json = ask("--rest", f"--server={addresses[1]}", "--format=json", *paths)
    rows = json.loads(as_json.stdout)
    assert (as_json.returncode, [row["image"] for row in rows]) == (0, paths)
    for row in rows:
        assert list(row) == ["image", "label", "score", "probabilities", "error"]
        assert set(row["probabilities"]) == set(CLASSES) and row["error"] is None
        assert row["score"] == row["probabilities"][row["label"]] == max(row["probabilities"].values())
    lines = ask(f"--server={addresses[0]}", *paths).stdout.splitlines()
    assert lines[0].split() == ["image", "label", "score", "error"]
    assert [line.split()[1] for line in lines[1:]] == [row["label"] for row in rows]


def test_the_exit_code_says_whether_every_image_was_answered(addresses, mixed_folder: pathlib.Path) -> None:
    good, broken = mixed_folder / "upright", mixed_folder / "lying" / "03.jpg"
    (mixed_folder / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(mixed_folder / "pipe.jpg")
    bad = [broken, mixed_folder / "link.jpg", mixed_folder / "pipe.jpg", mixed_folder / "none.jpg"]
    for paths, code, failed, total in (([good], 0, 0, 20), ([good, *bad], 1, 4, 24), (bad, 1, 4, 4)):
        done = ask(f"--server={addresses[0]}", "--format=json", *map(str, paths))
        rows = json.loads(done.stdout)
        assert (done.returncode, len(rows)) == (code, total), done.stderr
        summary = f"{failed} of {total} images were not answered"
        assert (summary in done.stderr) == bool(code) and "Traceback" not in done.stderr
    assert [row["error"] for row in rows] == [
        "not a JPEG, PNG, GIF or BMP image", "no such file", "not a file", "no such file",
    ]  # fmt: skip


def test_predict_and_the_client_write_the_same(served_run, run) -> None:
    path, server = served_run
    image = str(path / "digit.png")
    asked = ask(f"--server={server}", "--format=json", image, str(path / "none.png"))
    command = [sys.executable, "predict.py", f"--run={run.path}", "--format=json", image, str(path / "none.png")]
    own = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (asked.returncode, own.returncode) == (1, 1), asked.stderr + own.stderr
    (theirs, their_failure), (ours, our_failure) = json.loads(asked.stdout), json.loads(own.stdout)
    assert list(theirs) == list(ours) and their_failure == our_failure
    assert (theirs["image"], theirs["label"]) == (ours["image"], ours["label"])
    assert list(theirs["probabilities"]) == list(ours["probabilities"])
    np.testing.assert_allclose(list(theirs["probabilities"].values()), list(ours["probabilities"].values()), atol=1e-5)


@pytest.fixture
def served_run(run, tmp_path: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """A folder with an image of a digit, and the address of a server that has the run's model."""
    (tmp_path / "digit.png").write_bytes(run.split("test").encoded(0))
    export.export_run(run, base=str(tmp_path / "export"))
    with stand_in.running(stand_in.load(str(tmp_path / "export"))) as (server, _):
        yield tmp_path, server


def test_the_command_says_what_is_wrong_without_a_traceback(image_folder: pathlib.Path) -> None:
    for arguments, message in (
        ((), "Name images or folders"),
        (("--top_k=2", "--format=csv", str(image_folder)), "--top_k belongs to --format=table"),
        (("--server=localhost", str(image_folder)), "--server must be HOST:PORT"),
        ((f"--server={free_address()}", str(image_folder)), "No server can be reached"),
    ):
        done = ask(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr and "Traceback" not in done.stderr


def test_help_comes_at_once_and_without_tensorflow() -> None:
    script = "import sys, serving.client, serving.check; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    help_text = ask("--help").stdout
    assert all(f"--{name}:" in help_text for name in ("server", "batch_size", "format", "deadline_seconds"))
