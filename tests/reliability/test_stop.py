"""SIGTERM, Ctrl-C, and a second process on the same folder."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.reliability import children
from tests.reliability.children import Fate
from tests.reliability.test_kill import config
from training import checkpoint
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 2),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow, id="SIGTERM at the last step of an epoch"),
        pytest.param(signal.SIGTERM, 6, marks=pytest.mark.slow, id="SIGTERM at the last step of all"),
    ],
)
def test_a_signal_stops_after_the_step_and_saves(pictures: pathlib.Path, number: signal.Signals, step: int) -> None:
    name = f"stopped-{number.name}-{step}"
    wanted = config(pictures, name, model="lenet5", checkpoint_minutes=600.0, deterministic=False)
    code, log = children.train(wanted, Fate(signal_at_step=step, signal_number=number))
    assert code == 128 + number and "Traceback" not in log, log
    epoch, left = divmod(step, 3)
    assert f"Stopped by {number.name} after step {left} of epoch {epoch + 1}; the state is saved." in log
    command = re.search(r"Go on with it by `python (.*)`", log)
    assert command and command[1] == f"train.py --resume --run_dir={wanted.run_dir}"
    progress = checkpoint.read_progress(wanted.run_dir or "")
    assert progress and (progress.epoch, progress.step) == (epoch, left)
    code, log = children.train(dataclasses.replace(Run.open(wanted.run_dir or "").config, resume=True))
    assert code == 0, log
    assert log.count("a training step") == 6 - step
    assert [row["epoch"] for row in Run.open(wanted.run_dir or "").history()] == ["1", "2"]


def test_the_command_line(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The real script: Ctrl-C while it scans, --resume of nothing, a second process, of a finished run, other flags."""
    place = tmp_path / "run"
    flags = [f"--data={pictures}", f"--run_dir={place}", "--model=lenet5", "--image_size=32", "--learning_rate=1e-3"]
    flags += ["--train_fraction=0.6", "--val_fraction=0.2", "--test_fraction=0.2", "--checkpoint_minutes=0"]
    place.mkdir()
    answer = _train("--resume", *flags)
    assert answer.returncode == 2 and "the run was stopped before its first step" in answer.stderr
    log = tmp_path / "log"
    with open(log, "w") as file, _started([*flags, "--epochs=5000"], file) as first:
        _wait_for(lambda: (place / "history.csv").exists())
        second = _train("--resume", f"--run_dir={place}")
        assert second.returncode == 2, second.stderr
        assert f"Another process is training in --run_dir={place}" in second.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 130
    assert "Stopping after this step" in log.read_text() and "Traceback" not in log.read_text()
    answer = _train("--resume", f"--run_dir={place}", "--epochs=7")
    assert answer.returncode == 2 and "--epochs=5000. Received: --epochs=7" in answer.stderr
    answer = _train(*flags)
    assert answer.returncode == 2 and "holds a run already" in answer.stderr


def test_ctrl_c_before_the_first_step_is_one_line(pictures: pathlib.Path, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    flags = [f"--data={pictures}", f"--run_dir={tmp_path / 'run'}", "--model=resnet152", "--weights=none"]
    with open(log, "w") as file, _started(flags, file) as process:
        _wait_for(lambda: "Devices" in log.read_text())
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 130, log.read_text()
        finally:
            process.kill()
    assert log.read_text().endswith("Stopped by Ctrl-C.\n")
    assert not (tmp_path / "run" / "config.json").exists()


def _train(*flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "train.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _started(flags: list[str], log: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *flags],
        stdout=log,  # type: ignore[call-overload]
        stderr=subprocess.STDOUT,
        env=environment,
    )


def _wait_for(condition: object, seconds: float = 100) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
