"""SIGTERM, SIGHUP, Ctrl-C, and a second process on the same folder."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.reliability import children
from tests.reliability.children import PREPARED, STEP, VALIDATED, Fate
from tests.reliability.test_kill import compare, config, start_from, undisturbed
from training import checkpoint
from training.run import Run
from training.signals import Signals

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 2),
        (signal.SIGHUP, 2),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 3, marks=pytest.mark.slow, id="SIGTERM at the last step of an epoch"),
        pytest.param(signal.SIGTERM, 6, marks=pytest.mark.slow, id="SIGTERM at the last step of all"),
    ],
)
def test_a_signal_stops_after_the_step_and_saves(images: pathlib.Path, number: signal.Signals, step: int) -> None:
    name = f"stopped-{number.name}-{step}"
    wanted = config(images, name, model="lenet5", checkpoint_minutes=600.0, deterministic=False)
    code, log = children.train(wanted, Fate(signal_at=step, signal_number=number))
    assert code == 128 + number and "Traceback" not in log, log
    epoch, left = (step - 1) // 3, (step - 1) % 3 + 1
    assert f"Stopped by {number.name} after step {left} of epoch {epoch + 1}; the state is saved." in log
    command = re.search(r"Resume by `python (.*)`", log)
    assert command and command[1] == f"train.py --resume --run_dir={wanted.run_dir}"
    progress = checkpoint.read_progress(wanted.run_dir or "")
    assert progress and (progress.epoch, progress.step) == (epoch, left)
    code, log = children.train(dataclasses.replace(Run.open(wanted.run_dir or "").config, resume=True))
    assert code == 0, log
    assert log.count(STEP) == 6 - step
    # The bar of what is left would start at 1 again without a word.
    assert ("Resuming epoch 1 after step 2 of 3: 1 step left." in log) == (step == 2)
    assert [row["epoch"] for row in Run.open(wanted.run_dir or "").history()] == ["1", "2"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("batch", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_signal_during_the_validation(images: pathlib.Path, number: signal.Signals, batch: int) -> None:
    """Of three batches each, after nine steps; the whole validation is made again, and every bit is the same."""
    given = {"model": "squeezenet", "augment": "full", "weights": "none", "batch_size": 2}
    wanted = config(images, f"validating-{number.name}-{batch}", checkpoint_minutes=600.0, **given)
    code, log = children.train(wanted, Fate(signal_at=batch, point=VALIDATED, signal_number=number))
    epoch = (batch - 1) // 3
    assert code == 128 + number and "Traceback" not in log, log
    assert f"Stopped by {number.name} after step 9 of epoch {epoch + 1}; the state is saved. Resume by" in log
    assert log.count(VALIDATED) == batch
    code, log = children.train(dataclasses.replace(Run.open(wanted.run_dir or "").config, resume=True))
    assert code == 0, log
    assert (log.count(STEP), log.count(VALIDATED)) == (9 * (1 - epoch), 3 * (2 - epoch))
    compare(undisturbed(config(images, f"valid-{number.name}-{batch}", **given)), Run.open(wanted.run_dir or ""))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "frozen", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["features", "decoded pixels"]
)
def test_a_signal_while_images_are_prepared(images: pathlib.Path, number: signal.Signals, frozen: bool) -> None:
    given = start_from(images) | {"freeze": frozen, "fine_tune_epochs": 0, "cache": "disk", "model": "lenet5"}
    wanted = config(images, f"preparing-{number.name}-{frozen}", checkpoint_minutes=600.0, **given)
    # One batch of decoded images is all that there are.
    at = 2 if frozen else 1
    code, log = children.train(wanted, Fate(signal_at=at, point=PREPARED, signal_number=number))
    assert code == 128 + number and "Traceback" not in log, log
    assert f"Stopped by {number.name} while images were being prepared; what is on disk is kept." in log
    assert f"train.py --resume --run_dir={wanted.run_dir}" in log and STEP not in log
    code, log = children.train(dataclasses.replace(Run.open(wanted.run_dir or "").config, resume=True))
    assert code == 0, log
    if frozen:
        assert "Resuming features for training: 16 of 18 are there." in log
    # Of training three batches, of validation one, of the test one; where images are decoded, the test needs none.
    assert log.count(PREPARED) == (5 if frozen else 2) - at


def test_a_signal_during_the_test(images: pathlib.Path) -> None:
    wanted = config(images, "testing", model="lenet5", checkpoint_minutes=600.0, deterministic=False)
    stop = """
import os, signal
import keras
really = keras.Model.evaluate
def evaluate(*given, **named):
    if "callbacks" not in named: # Those of a training come with its validation.
        os.kill(os.getpid(), signal.SIGTERM)
    return really(*given, **named)
keras.Model.evaluate = evaluate
"""
    code, log = children.train(wanted, Fate(code=stop))
    assert code == 143 and "Stopped by SIGTERM during the test; the state is saved. Resume" in log, log
    code, log = children.train(dataclasses.replace(Run.open(wanted.run_dir or "").config, resume=True))
    assert code == 0 and STEP not in log, log


def test_the_command_line(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The real script, by the same command line again and again, as a scheduler starts it: from what a killed start
    has left, stopped, by a second process, with other flags; then with more epochs.
    """
    place = tmp_path / "run"
    flags = [f"--data={images}", f"--run_dir={place}", "--model=lenet5", "--image_size=32", "--learning_rate=1e-3"]
    flags += ["--train_fraction=0.6", "--val_fraction=0.2", "--test_fraction=0.2", "--checkpoint_minutes=0"]
    place.mkdir()
    (place / "splits.csv").write_text("half")
    log = tmp_path / "log"
    with open(log, "w") as file, _started(["--resume", *flags, "--epochs=5000"], file) as first:
        _wait_for(lambda: (place / "history.csv").exists())
        second = _train("--resume", f"--run_dir={place}")
        assert second.returncode == 2, second.stderr
        assert f"Another process is training in --run_dir={place}" in second.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 130
    assert f"--resume: {place} holds no run yet; starting one." in log.read_text()
    assert "Stopping after this step" in log.read_text() and "Traceback" not in log.read_text()
    answer = _train("--resume", f"--run_dir={place}", "--epochs=7")
    assert answer.returncode == 2 and "--epochs=5000. Received: --epochs=7" in answer.stderr
    answer = _train("--resume", f"--run_dir={place}", "--learning_rate=1e-2")
    assert answer.returncode == 2 and "--learning_rate=0.001. Received: --learning_rate=0.01" in answer.stderr
    answer = _train(*flags)
    assert answer.returncode == 2 and "holds a run already" in answer.stderr


def test_one_command_line_starts_trains_on_and_ends(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    place = tmp_path / "run"
    flags = ["--resume", f"--data={images}", f"--run_dir={place}", "--model=lenet5", "--image_size=32"]
    flags += ["--train_fraction=0.6", "--val_fraction=0.2", "--test_fraction=0.2"]
    for epochs in (1, 2):
        answer = _train(*flags, f"--epochs={epochs}")
        assert answer.returncode == 0, answer.stderr
        assert len(Run.open(str(place)).history()) == epochs
    assert Run.open(str(place)).config.epochs == 2
    answer = _train(*flags, "--epochs=2")
    assert answer.returncode == 2 and "has finished; there is nothing to resume" in answer.stderr


def test_a_lost_terminal_stops_a_training_that_nohup_does_not_protect(
    images: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The terminal really goes: it hangs up, and whatever is printed from then on fails."""
    place = tmp_path / "run"
    flags = [f"--data={images}", f"--run_dir={place}", "--model=lenet5", "--epochs=100000", "--image_size=32"]
    command = [sys.executable, str(ROOT / "train.py"), *flags]
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, command)
    said = b""
    while not (place / "history.csv").exists():
        said += os.read(terminal, 1 << 16)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP, said
    progress = checkpoint.read_progress(str(place))
    assert progress and progress.epoch >= 1


def test_nohup_keeps_a_training_going(tmp_path: pathlib.Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals(str(tmp_path)) as signals:
            signal.raise_signal(signal.SIGHUP)
            assert signals.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_before_the_first_step_is_one_line(images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    log = tmp_path / "log"
    flags = [f"--data={images}", f"--run_dir={tmp_path / 'run'}", "--model=resnet152", "--weights=none"]
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
