from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import errors

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", ["photos", "my photos & co", "it's", '"$HOME" `ls` \\', "-x", "é\n*", "~"])
def test_a_command_means_the_same_after_pasting(name: str) -> None:
    """In bash, with a script that prints what it gets."""
    command = errors.command("train.py", "--resume", f"--run_dir={name}")
    python = os.path.basename(sys.executable)
    script = f"{python}() {{ printf '%s\\0' \"$@\"; }}\n{command}\n"
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split("\0")[1:] == ["--resume", f"--run_dir={name}", ""]


def test_a_command_finds_the_script_from_elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = os.path.basename(sys.executable)
    monkeypatch.chdir(ROOT)
    assert errors.command("train.py") == f"{python} train.py"
    monkeypatch.chdir(tmp_path)
    assert errors.command("train.py") == f"{python} {ROOT}/train.py"


def test_one_is_not_many() -> None:
    assert [errors.counted(n, "image") for n in (0, 1, 2, 1234)] == ["0 images", "1 image", "2 images", "1,234 images"]
    assert errors.counted(2, "class") == "2 classes"


@pytest.mark.parametrize(
    ("received", "expected"),
    [("ResNet50", " Did you mean resnet50?"), ("resnet5", " Did you mean resnet50?"), ("xyzzy", ""), ("", "")],
)
def test_what_was_probably_meant(received: str, expected: str) -> None:
    assert errors.suggestion(received, ["resnet18", "resnet50", "resnet152", "vgg16"]) == expected
