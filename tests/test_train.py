"""The command line from end to end, as a user types it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.conftest import write_photos

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*arguments: str, folder: pathlib.Path, expected: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == expected, result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_from_a_folder_of_images_to_an_exported_model(image_folder: pathlib.Path) -> None:
    here = image_folder.parent
    flags = ["--model=lenet5", "--data=photos/", "--epochs=2", "--learning_rate=3e-3", "--run_dir=run"]
    trained = run("train.py", *flags, folder=here)
    assert "Devices: " in trained.stdout
    assert "Results: run." in trained.stdout
    assert trained.stderr == ""
    evaluated = run("evaluate.py", "--run=run", folder=here)
    assert "accuracy" in evaluated.stdout.lower()
    assert (here / "run" / "report" / "index.html").is_file()
    image = os.path.join("photos", "lying", "00.jpg")
    predicted = run("predict.py", "--run=run", "--format=csv", image, folder=here)
    assert predicted.stdout.splitlines()[1].startswith(image)
    run("export.py", "--run=run", folder=here)
    assert (here / "run" / "export" / "1" / "saved_model.pb").is_file()


def test_a_wrong_path_is_answered_with_a_message(tmp_path: pathlib.Path) -> None:
    result = run("train.py", "--model=lenet5", "--data=photos/", folder=tmp_path, expected=2)
    assert "Received: photos/, which doesn't exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


def bash(command: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)


def test_every_printed_command_can_be_pasted(tmp_path: pathlib.Path) -> None:
    """Into a real shell, with names that it would read otherwise; and a closed pipe doesn't end the training."""
    photos = write_photos(tmp_path / "my photos & co", 20)
    train = [str(ROOT / "train.py"), "--model=lenet5", f"--data={photos}", "--run_dir=cats & 'dogs'"]
    done = bash(f"set -o pipefail; {shlex.join([sys.executable, *train])} | head -1", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Devices: CPU. Precision: float32.\n", "")
    run_dir = tmp_path / "cats & 'dogs'"
    command = json.loads((run_dir / "config.json").read_text())["command"]
    again = bash(command, tmp_path)
    assert again.returncode == 2 and "--run_dir=cats & 'dogs' holds a run already" in again.stderr
    shutil.rmtree(run_dir)
    done = bash(command, tmp_path)
    assert done.returncode == 0, done.stderr
    hint = re.search("Look closer with `(.*)`", done.stdout)
    assert hint
    evaluated = bash(hint[1], tmp_path)
    assert evaluated.returncode == 0 and (run_dir / "report" / "index.html").is_file(), evaluated.stderr
    # As after a kill in the first epoch.
    shutil.rmtree(run_dir / "checkpoint")
    for name in ("model.keras", "history.csv", "test.json"):
        (run_dir / name).unlink()
    refused = run("evaluate.py", "--run=cats & 'dogs'", folder=tmp_path, expected=2)
    hint = re.search("Resume by `(.*)`", refused.stderr)
    assert hint, refused.stderr
    resumed = bash(hint[1], tmp_path)
    assert resumed.returncode == 0 and "Test: accuracy" in resumed.stdout, resumed.stderr


def test_resume_starts_a_run_that_is_not_there(tmp_path: pathlib.Path) -> None:
    flags = ["--resume", "--run_dir=nope", "--model=lenet5", "--data=photos/"]
    result = run("train.py", *flags, folder=tmp_path, expected=2)
    assert "nope holds no run yet; starting one." in result.stdout
    assert "photos/, which doesn't exist" in result.stderr and "--run=" not in result.stderr


@pytest.mark.slow
def test_the_main_result_on_real_images(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Between bounds: a wrong preprocessing costs 7 points, and only a leak gives 100 %."""
    weights = shared / "weights" / "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
    flags = ["--model=squeezenet", "--freeze", f"--data={shared / 'data' / 'cat_dog'}", f"--weights={weights}"]
    result = run("train.py", *flags, "--run_dir=run", folder=tmp_path)
    accuracy = float(result.stdout.split("Test: accuracy ")[1].split(",")[0])
    assert 0.93 <= accuracy <= 0.99
