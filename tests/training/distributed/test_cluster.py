"""TF_CONFIG, right and wrong, and the meeting of all workers before TensorFlow starts."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from errors import UserError
from training.distributed import cluster
from training.distributed.cluster import Worker
from training.launch import on_this_machine


def read_with(monkeypatch: pytest.MonkeyPatch, config: object) -> Worker | None:
    monkeypatch.setenv("TF_CONFIG", config if isinstance(config, str) else json.dumps(config))
    return cluster.from_environment()


class TestTfConfig:
    def test_absence_means_no_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
        assert cluster.from_environment() is None
        assert read_with(monkeypatch, "") is None
        assert read_with(monkeypatch, {}) is None

    def test_the_chief_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        jobs = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
        assert read_with(monkeypatch, {"cluster": jobs, "task": {"type": "worker", "index": 1}}) == Worker(
            ("c:3", "a:1", "b:2"), 2
        )
        assert read_with(monkeypatch, {"cluster": jobs, "task": {"type": "chief", "index": "0"}}) == Worker(
            ("c:3", "a:1", "b:2"), 0
        )

    @pytest.mark.parametrize("index", [0, 1])
    def test_survives_being_written_and_read(self, monkeypatch: pytest.MonkeyPatch, index: int) -> None:
        worker = Worker(("host-0.job:2222", "[::1]:80"), index)
        assert read_with(monkeypatch, worker.tf_config()) == worker

    @pytest.mark.parametrize(
        ("config", "complaint"),
        [
            ("{", "not JSON"),
            ("[]", "not an object"),
            ({"cluster": {"ps": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": 0}}, "job ps"),
            ({"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}, "not a list"),
            ({"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}, "'a' is not HOST:PORT"),
            ({"cluster": {"worker": ["a:70000"]}, "task": {"type": "worker", "index": 0}}, "not HOST:PORT"),
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


def meet(workers: list[Worker], seconds: float = 2.0, gpus: Sequence[int] = (0, 0, 0, 0, 0)) -> list[str]:
    """What becomes of each worker when all try to meet at once: its error, empty if there was none."""
    problems = [""] * len(workers)

    def one(i: int) -> None:
        try:
            cluster.meet(workers[i], seconds, gpus[i])
        except UserError as error:
            problems[i] = str(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return problems


@contextlib.contextmanager
def waiting(chief: Worker) -> Iterator[list[str]]:
    """The chief waits for the others while the block runs; its error, or an empty text, is there afterwards."""
    problems: list[str] = []
    thread = threading.Thread(target=lambda: problems.extend(meet([chief], 20.0)))
    thread.start()
    yield problems
    thread.join()


def connected(chief: Worker) -> socket.socket:
    """A connection to a chief that has just been started."""
    host, port = chief.addresses[0].split(":")
    for _ in range(500):
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), timeout=1)
        time.sleep(0.02)
    raise AssertionError(f"nobody listens at {host}:{port}")


class TestMeet:
    def test_lets_everybody_through_when_all_are_there(self) -> None:
        workers = on_this_machine(5)
        assert meet(workers, 20.0) == [""] * 5
        # The ports are free again, for TensorFlow.
        assert meet(workers, 20.0) == [""] * 5

    def test_names_who_is_missing(self) -> None:
        workers = on_this_machine(3)
        problems = meet(workers[:2])
        assert all(f"did not come within 2 seconds: 2 ({workers[0].addresses[2]})" in each for each in problems)

    def test_says_that_the_chief_is_missing(self) -> None:
        workers = on_this_machine(3)
        assert all("could not reach worker 0" in each for each in meet(workers[1:]))

    def test_finds_other_addresses(self) -> None:
        first, second = on_this_machine(2)
        problems = meet([first, Worker((*second.addresses, "127.0.0.1:9"), 1)], 20.0)
        assert all("has other addresses" in each for each in problems)

    def test_finds_different_numbers_of_gpus(self) -> None:
        problems = meet(on_this_machine(3), 20.0, gpus=(4, 4, 2))
        assert all("worker 0 has 4, worker 1 has 4, worker 2 has 2" in each for each in problems)

    def test_finds_a_port_in_use(self) -> None:
        workers = on_this_machine(2)
        with socket.socket() as taken:
            taken.bind(("", int(workers[1].addresses[1].split(":")[1])))
            taken.listen()
            problems = meet(workers)
        assert "did not come" in problems[0] and "Address already in use" in problems[1]

    def test_finds_two_with_one_index(self) -> None:
        """On hosts of their own, each has the port that the other has too."""
        workers = on_this_machine(3)
        hello = json.dumps({"worker": 1, "addresses": workers[0].addresses, "gpus": 0}).encode() + b"\n"
        with waiting(workers[0]) as problems, connected(workers[0]) as one, connected(workers[0]) as other:
            one.sendall(hello)
            other.sendall(hello)
        assert "two processes say that they are worker 1" in problems[0]

    def test_takes_no_notice_of_strangers(self) -> None:
        workers = on_this_machine(2)
        with waiting(workers[0]) as problems, connected(workers[0]) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert meet(workers[1:], 20.0) == [""]
        assert problems == [""]
