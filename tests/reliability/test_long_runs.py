"""The long scripts of this folder, with small counts; docs/what_happens_when.md names them with their large ones."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(module: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"tests.reliability.{module}", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_trainings_end_with_the_same_bits() -> None:
    """One training of each kind."""
    done = run("kill", "--times=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 end with the same bits, 0 do not" in done.stdout


@pytest.mark.slow
def test_a_training_whose_power_was_cut_ends_with_the_same_bits() -> None:
    done = run("kill", "--times=1", "--power_loss")
    if "whose power can be cut" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 end with the same bits, 0 do not" in done.stdout


@pytest.mark.slow
def test_no_file_is_left_open_and_memory_stays() -> None:
    done = run("endurance", "--epochs=60")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_each_mutated_image_has_an_answer(image_folder: pathlib.Path) -> None:
    done = run("mutants", f"--data={image_folder}", "--images=2000")
    assert done.returncode == 0, done.stdout + done.stderr
