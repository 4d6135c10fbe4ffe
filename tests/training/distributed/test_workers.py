"""What workers tell each other; they are threads here, whose sums are what the network would give."""

from __future__ import annotations

import pathlib
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

from data import load
from data.validation import scan
from errors import UserError
from training.config import TrainConfig
from training.distributed.workers import Workers, own_run_folder


class Thread(Workers):
    """One of several workers.

    Args:
        worker: its index.
        said: a place for the values of each worker, shared by all.
        barrier: where all wait for each other.
    """

    def __init__(self, worker: int, said: list[np.ndarray], barrier: threading.Barrier) -> None:
        self.worker, self.workers = worker, len(said)
        self._said, self._barrier = said, barrier

    def sum(self, values: np.ndarray) -> np.ndarray:
        self._said[self.worker] = values.copy()
        self._barrier.wait()
        total = np.sum(self._said, axis=0, dtype=values.dtype)
        self._barrier.wait()
        return total


def together(work: Callable[[Workers], object], workers: int = 3) -> list[object]:
    """What `work` gives, or raises, in each worker."""
    said = [np.zeros(0)] * workers
    barrier = threading.Barrier(workers, timeout=30)
    results: list[object] = [None] * workers

    def run(worker: int) -> None:
        try:
            results[worker] = work(Thread(worker, said, barrier))
        except UserError as error:
            results[worker] = error

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_each_looks_at_its_share_and_gets_everything() -> None:
    looked: list[list[int]] = []

    def look(share: list[int]) -> list[int]:
        looked.append(list(share))
        return [10 * item for item in share]

    assert together(lambda worker: worker.share("numbers", range(7), look)) == [[0, 10, 20, 30, 40, 50, 60]] * 3
    assert sorted(looked) == [[0, 3, 6], [1, 4], [2, 5]]


def test_one_alone_looks_at_all() -> None:
    assert Workers().share("numbers", [1, 2], lambda share: [-item for item in share]) == [-1, -2]


def test_the_problem_of_one_ends_all() -> None:
    def look(share: list[int]) -> list[int]:
        if 4 in share:
            raise UserError("four is no good")
        return list(share)

    results = together(lambda worker: worker.share("numbers", range(7), look))
    assert [str(result) for result in results] == ["four is no good"] * 3


def test_other_items_are_noticed_by_all() -> None:
    results = together(lambda worker: worker.share("images", [worker.worker // 2], lambda share: list(share)))
    assert all("same images. Received others in worker 2" in str(result) for result in results)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_scan_in_shares_finds_what_a_scan_alone_does(workers: int) -> None:
    dataset = load("digits")
    expected = scan(dataset)
    assert together(lambda worker: scan(dataset, worker), workers) == [expected] * workers


@pytest.mark.parametrize(
    "values", [[b"\xff" * 9, b"", b"abc"], [b"", b""], [b"", b"\xff" * (1 + 2**25), b"abc"]], ids=["few", "no", "many"]
)
def test_bytes_reach_every_worker(values: list[bytes]) -> None:
    """More than 32 MiB go in two sums."""
    assert together(lambda worker: worker.exchange(values[worker.worker]), len(values)) == [values] * len(values)


def test_workers_with_other_images_are_refused_by_all() -> None:
    results = together(lambda worker: worker.agree_on("images", ["a", "b"], worker.worker // 2))
    assert all("same images. Received others in worker 2 than in worker 0" in str(result) for result in results)
    assert together(lambda worker: worker.agree_on("images", ["a", "b"])) == [None] * 3


def test_all_is_true_when_it_is_in_every_worker() -> None:
    assert together(lambda worker: worker.all(worker.worker < 2)) == [False] * 3
    assert together(lambda worker: worker.all(worker.worker < 3)) == [True] * 3


def test_the_chief_worker_keeps_its_run_folder() -> None:
    config = TrainConfig(run_dir="runs/x")
    with own_run_folder(Workers(), config) as own:
        assert own == config


def test_another_worker_copies_what_it_resumes_and_cleans_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.npz").write_bytes(b"state")
    (tmp_path / ".lock").touch()
    second = Workers()
    second.worker = 1
    with own_run_folder(second, TrainConfig(run_dir=str(tmp_path), resume=True)) as own:
        copy = pathlib.Path(own.run_dir or "")
        assert (copy / "checkpoint" / "state.npz").read_bytes() == b"state"
        assert not (copy / ".lock").exists()
    assert not copy.exists()
    sys.stdout.close()
