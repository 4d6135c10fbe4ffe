"""Starting workers, wrong clusters, and what becomes of a training when one of its workers is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from errors import UserError
from training import cluster, launch, rendezvous
from training.cluster import Place
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Much longer than the ten seconds of the heartbeat, for a busy machine.
LOST_SECONDS = 60
FLAGS = [
    *("train.py", "--model=lenet5", "--data=digits", "--image_size=16", "--learning_rate=1e-3", "--batch_size=54"),
    *("--train_fraction=0.1", "--checkpoint_minutes=0"),
]


def read_with(monkeypatch: pytest.MonkeyPatch, config: object) -> Place | None:
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    return cluster.read()


class TestTfConfig:
    def test_absence_means_no_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
        assert cluster.read() is None
        assert read_with(monkeypatch, "") is None
        assert read_with(monkeypatch, {}) is None

    def test_the_chief_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        jobs = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
        assert read_with(monkeypatch, {"cluster": jobs, "task": {"type": "worker", "index": 1}}) == Place(
            ("c:3", "a:1", "b:2"), 2
        )
        assert read_with(monkeypatch, {"cluster": jobs, "task": {"type": "chief", "index": "0"}}) == Place(
            ("c:3", "a:1", "b:2"), 0
        )

    @pytest.mark.parametrize("worker", [0, 1])
    def test_survives_being_written_and_read(self, monkeypatch: pytest.MonkeyPatch, worker: int) -> None:
        place = Place(("host-0.job:2222", "[::1]:80"), worker)
        assert read_with(monkeypatch, place.as_config()) == place

    @pytest.mark.parametrize(
        ("config", "complaint"),
        [
            ("{", "no JSON"),
            ("[]", "no object"),
            ({"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}, "job ps"),
            ({"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}, "no list"),
            ({"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}, "'a' is no HOST:PORT"),
            ({"cluster": {"worker": ["a:70000"]}, "task": {"type": "worker", "index": 0}}, "no HOST:PORT"),
            ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "more than once"),
            ({"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}, "one chief at most"),
            ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}, "has 1 of the kind"),
            ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}, "whole number"),
            ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}, "whole number"),
            ({"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}, "must be chief or worker"),
            ({"cluster": {"worker": ["a:1"]}}, "must be chief or worker"),
        ],
    )
    def test_says_what_is_wrong(self, monkeypatch: pytest.MonkeyPatch, config: object, complaint: str) -> None:
        with pytest.raises(UserError, match=complaint):
            read_with(monkeypatch, config)

    @pytest.mark.parametrize("seconds", ["0", "soon", "nan", "1e9"])
    def test_wants_a_time_to_wait(self, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
        monkeypatch.setenv(cluster.WAIT_VARIABLE, seconds)
        with pytest.raises(UserError, match="1 to 86400 seconds"):
            cluster.wait_seconds()


def meet(places: list[Place], seconds: float = 2.0, gpus: Sequence[int] = (0, 0, 0, 0, 0)) -> list[str]:
    """What becomes of each place when all try to meet at once: its error, empty if there was none."""
    problems = [""] * len(places)

    def one(i: int) -> None:
        try:
            rendezvous.meet(places[i], seconds, gpus[i])
        except UserError as error:
            problems[i] = str(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return problems


@contextlib.contextmanager
def waiting(chief: Place) -> Iterator[list[str]]:
    """The chief waits for the others while the block runs; its error, or an empty text, is there afterwards."""
    problems: list[str] = []
    thread = threading.Thread(target=lambda: problems.extend(meet([chief], 20.0)))
    thread.start()
    yield problems
    thread.join()


def connected(chief: Place) -> socket.socket:
    """A connection to a chief that has just been started."""
    host, port = chief.addresses[0].split(":")
    for _ in range(500):
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), timeout=1)
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {host}:{port}")


class TestRendezvous:
    def test_lets_everybody_through_when_all_are_there(self) -> None:
        places = launch.on_this_machine(5)
        assert meet(places, 20.0) == [""] * 5
        # The ports are free again, for TensorFlow.
        assert meet(places, 20.0) == [""] * 5

    def test_names_who_is_missing(self) -> None:
        places = launch.on_this_machine(3)
        problems = meet(places[:2])
        assert all(f"did not come within 2 seconds: 2 ({places[0].addresses[2]})" in each for each in problems)

    def test_says_that_the_chief_is_missing(self) -> None:
        places = launch.on_this_machine(3)
        assert all("could not reach worker 0" in each for each in meet(places[1:]))

    def test_finds_other_addresses(self) -> None:
        first, second = launch.on_this_machine(2)
        problems = meet([first, Place((*second.addresses, "127.0.0.1:9"), 1)], 20.0)
        assert all("has other addresses" in each for each in problems)

    def test_finds_different_numbers_of_gpus(self) -> None:
        problems = meet(launch.on_this_machine(3), 20.0, gpus=(4, 4, 2))
        assert all("worker 0 has 4, worker 1 has 4, worker 2 has 2" in each for each in problems)

    def test_finds_a_port_in_use(self) -> None:
        places = launch.on_this_machine(2)
        with socket.socket() as taken:
            taken.bind(("", int(places[1].addresses[1].split(":")[1])))
            taken.listen()
            problems = meet(places)
        assert "did not come" in problems[0] and "Address already in use" in problems[1]

    def test_finds_two_with_one_index(self) -> None:
        """On hosts of their own, each has the port that the other has too."""
        places = launch.on_this_machine(3)
        hello = json.dumps({"worker": 1, "addresses": places[0].addresses, "gpus": 0}).encode() + b"\n"
        with waiting(places[0]) as problems, connected(places[0]) as one, connected(places[0]) as other:
            one.sendall(hello)
            other.sendall(hello)
        assert "two processes say that they are worker 1" in problems[0]

    def test_takes_no_notice_of_strangers(self) -> None:
        places = launch.on_this_machine(2)
        with waiting(places[0]) as problems, connected(places[0]) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert meet(places[1:], 20.0) == [""]
        assert problems == [""]


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
        assert [each["CUDA_VISIBLE_DEVICES"] for each in launch._gpus_of_each(2)] == ["4,5", "6,7"]
        with pytest.raises(UserError, match="at most 5"):
            launch._gpus_of_each(6)


def start(places: list[Place], *flags: str, log: pathlib.Path) -> list[subprocess.Popen]:
    """One `train.py` for each place, each with a cache of its own; what they print goes to files beside `log`."""
    processes = []
    for place in places:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", cluster.WAIT_VARIABLE: "120"}
        if place.workers > 1:
            environment["TF_CONFIG"] = place.as_config()
        with open(f"{log}{place.worker}", "wb") as file:
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
    alone = start([Place(("localhost:1",), 0)], f"--run_dir={run_dir}", "--epochs=6", log=folder / "log")
    assert codes(alone, 300) == [0]
    return run_dir


@pytest.mark.parametrize(
    ("lost", "number"), [(1, signal.SIGKILL), pytest.param(0, signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_lost_worker_ends_the_others_and_the_run_goes_on(
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
        assert "Stopped by SIGTERM" in (tmp_path / "log0").read_text()
        assert 0 not in ended
    assert not (run_dir / "test.json").exists()
    (again,) = start([Place(("localhost:1",), 0)], f"--run_dir={run_dir}", "--resume", log=tmp_path / "again")
    assert codes([again], 300) == [0]
    (weights, metrics), (wanted, wanted_metrics) = finals(run_dir), finals(uninterrupted)
    for value, target in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(value, target, atol=1e-5)
    assert metrics == pytest.approx(wanted_metrics, abs=1e-5)
