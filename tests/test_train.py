"""The command line from end to end, as a user types it."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments: str, folder: pathlib.Path, expected: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == expected, result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_from_a_folder_of_pictures_to_an_exported_model(picture_folder: pathlib.Path) -> None:
    here = picture_folder.parent
    flags = ["--model=lenet5", "--data=photos/", "--epochs=2", "--learning_rate=3e-3", "--run_dir=run"]
    trained = run("train.py", *flags, folder=here)
    assert "Devices: " in trained.stdout
    assert "Results: run." in trained.stdout
    assert trained.stderr == ""
    evaluated = run("evaluate.py", "--run=run", folder=here)
    assert "accuracy" in evaluated.stdout.lower()
    assert (here / "run" / "report" / "index.html").is_file()
    picture = os.path.join("photos", "lying", "00.jpg")
    predicted = run("predict.py", "--run=run", "--format=csv", picture, folder=here)
    assert predicted.stdout.splitlines()[1].startswith(picture)
    run("export.py", "--run=run", folder=here)
    assert (here / "run" / "export" / "1" / "saved_model.pb").is_file()


def test_a_wrong_path_is_answered_with_a_message(tmp_path: pathlib.Path) -> None:
    result = run("train.py", "--model=lenet5", "--data=photos/", folder=tmp_path, expected=2)
    assert "--data=photos/ doesn't exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_main_result_on_real_pictures(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Between bounds: a wrong preprocessing costs 7 points, and only a leak gives 100 %."""
    weights = shared / "weights" / "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
    flags = ["--model=squeezenet", "--freeze", f"--data={shared / 'data' / 'cat_dog'}", f"--weights={weights}"]
    result = run("train.py", *flags, "--run_dir=run", folder=tmp_path)
    accuracy = float(result.stdout.split("Test: accuracy ")[1].split(",")[0])
    assert 0.93 <= accuracy <= 0.99
