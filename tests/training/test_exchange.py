from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from data import load
from data.validation import scan
from errors import UserError
from training import exchange
from training.distribution import ALONE


@dataclass(frozen=True)
class Worker:
    """One of several workers, which are threads; the exchange is what the network would do."""

    worker: int
    workers: int
    exchange: Callable[[bytes], list[bytes]]

    def share(self, what: str, items: Sequence, look: Callable) -> list:
        return exchange.share(what, items, look, worker=self.worker, workers=self.workers, exchange=self.exchange)


def together(work: Callable[[Worker], object], workers: int = 3) -> list[object]:
    """What `work` gives, or raises, in each worker."""
    said: list[bytes] = [b""] * workers
    barrier = threading.Barrier(workers, timeout=30)
    results: list[object] = [None] * workers

    def tell(worker: int, own: bytes) -> list[bytes]:
        said[worker] = own
        barrier.wait()
        heard = list(said)
        barrier.wait()
        return heard

    def run(worker: int) -> None:
        try:
            results[worker] = work(Worker(worker, workers, lambda own: tell(worker, own)))
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
    assert ALONE.share("numbers", [1, 2], lambda share: [-item for item in share]) == [-1, -2]


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
    alone = scan(dataset)
    assert together(lambda worker: scan(dataset, worker), workers) == [alone] * workers
