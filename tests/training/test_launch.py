"""Starting workers on this machine, and what becomes of a training when one of its workers is lost."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from errors import UserError
from training import launch
from training.distributed.cluster import WAIT_VARIABLE, Worker
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Much longer than the ten seconds of the heartbeat, for a busy machine.
LOST_SECONDS = 60
FLAGS = [
    *("train.py", "--model=lenet5", "--data=digits", "--image_size=16", "--learning_rate=1e-3", "--batch_size=54"),
    *("--train_fraction=0.1", "--checkpoint_minutes=0"),
]


class TestLaunch:
    def wait(self, *programs: str, grace_seconds: float = 5.0) -> tuple[int, list[int | None]]:
        """What `launch.wait` gives, and how each process has ended."""
        processes = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
        return launch.wait(processes, grace_seconds), [process.returncode for process in processes]

    def test_gives_zero_when_all_succeed(self) -> None:
        assert self.wait("", "")[0] == 0

    def test_gives_the_code_of_the_first_failure(self) -> None:
        assert self.wait("import time; time.sleep(5); raise SystemExit(4)", "raise SystemExit(3)")[0] == 3

    def test_gives_a_shells_code_for_a_signal(self) -> None:
        assert self.wait("import os; os.kill(os.getpid(), 9)", "")[0] == 128 + 9

    def test_ends_who_does_not_end(self, capfd: pytest.CaptureFixture) -> None:
        found = self.wait("raise SystemExit(3)", "import time; time.sleep(60)", grace_seconds=0.5)
        assert found == (3, [3, -signal.SIGKILL])
        assert "Worker 0 ended with exit code 3" in capfd.readouterr().err

    def test_wants_a_script(self) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "training.launch", "--workers=2"], cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 2
        assert "needs the script to run" in result.stderr

    def test_shares_the_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,9")
        assert [each["CUDA_VISIBLE_DEVICES"] for each in launch.gpus_of_each(2)] == ["4,5", "6,7"]
        with pytest.raises(UserError, match="at most 5"):
            launch.gpus_of_each(6)


def start(workers: list[Worker], *flags: str, log: pathlib.Path) -> list[subprocess.Popen]:
    """One `train.py` for each worker, each with a cache of its own; what they print goes to files beside `log`."""
    processes = []
    for worker in workers:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", WAIT_VARIABLE: "120"}
        if len(worker.addresses) > 1:
            environment["TF_CONFIG"] = worker.tf_config()
        with open(f"{log}{worker.index}", "wb") as file:
            processes.append(
                subprocess.Popen([sys.executable, *FLAGS, *flags], cwd=ROOT, env=environment, stderr=file, stdout=file)
            )
    return processes


def until_trained(run_dir: pathlib.Path, processes: list[subprocess.Popen], epochs: int) -> None:
    """Waits until that many rows are in history.csv."""
    for _ in range(1200):
        if (run_dir / "history.csv").exists() and len((run_dir / "history.csv").read_text().splitlines()) > epochs:
            return
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    raise AssertionError("no epoch was finished")


def codes(processes: list[subprocess.Popen], seconds: float) -> list[int]:
    """The exit codes; fails when a process takes longer."""
    try:
        return [process.wait(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()


def finals(run_dir: pathlib.Path) -> tuple[list[np.ndarray], dict[str, float]]:
    run = Run.open(str(run_dir))
    return run.load_model().get_weights(), run.test_metrics()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_dir = folder / "run"
    single = start([Worker(("localhost:1",), 0)], f"--run_dir={run_dir}", "--epochs=6", log=folder / "log")
    assert codes(single, 300) == [0]
    return run_dir


@pytest.mark.parametrize(
    ("lost", "number"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_lost_worker_ends_the_others_and_the_run_can_be_resumed(
    tmp_path: pathlib.Path, uninterrupted: pathlib.Path, lost: int, number: int
) -> None:
    run_dir = tmp_path / "run"
    flags = [f"--run_dir={run_dir}", "--epochs=6"]
    processes = start(launch.on_this_machine(2), *flags, log=tmp_path / "log")
    try:
        until_trained(run_dir, processes, epochs=1)
        processes[lost].send_signal(number)
        ended = codes(processes, LOST_SECONDS)
    finally:
        for process in processes:
            process.kill()
    if number == signal.SIGKILL:
        assert ended[1 - lost] == 138
        assert "worker 1 has ended or can't be reached" in (tmp_path / "log0").read_text()
    else:
        assert f"Stopped by {number.name}" in (tmp_path / "log0").read_text()
        assert 0 not in ended
    assert not (run_dir / "test.json").exists()
    (again,) = start([Worker(("localhost:1",), 0)], f"--run_dir={run_dir}", "--resume", log=tmp_path / "again")
    assert codes([again], 300) == [0]
    (weights, metrics), (wanted, wanted_metrics) = finals(run_dir), finals(uninterrupted)
    for value, target in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(value, target, atol=1e-5)
    assert metrics == pytest.approx(wanted_metrics, abs=1e-5)
