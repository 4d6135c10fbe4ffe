from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from data.crew import ALONE, Crew
from data.load import load
from data.scan import scan
from errors import UserError


def together(work: Callable[[Crew], object], members: int = 3) -> list[object]:
    """What `work` gives, or raises, in each member of a crew; the members are threads."""
    said: list[bytes] = [b""] * members
    barrier = threading.Barrier(members, timeout=30)
    results: list[object] = [None] * members

    def exchange(member: int, own: bytes) -> list[bytes]:
        said[member] = own
        barrier.wait()
        heard = list(said)
        barrier.wait()
        return heard

    def run(member: int) -> None:
        try:
            results[member] = work(Crew(member, members, lambda own: exchange(member, own)))
        except UserError as error:
            results[member] = error

    threads = [threading.Thread(target=run, args=(member,)) for member in range(members)]
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

    assert together(lambda crew: crew.share("numbers", range(7), look)) == [[0, 10, 20, 30, 40, 50, 60]] * 3
    assert sorted(looked) == [[0, 3, 6], [1, 4], [2, 5]]


def test_one_alone_looks_at_all() -> None:
    assert ALONE.share("numbers", [1, 2], lambda share: [-item for item in share]) == [-1, -2]


def test_the_problem_of_one_ends_all() -> None:
    def look(share: list[int]) -> list[int]:
        if 4 in share:
            raise UserError("four is no good")
        return list(share)

    results = together(lambda crew: crew.share("numbers", range(7), look))
    assert [str(result) for result in results] == ["four is no good"] * 3


def test_other_items_are_noticed_by_all() -> None:
    results = together(lambda crew: crew.share("images", [crew.member // 2], lambda share: list(share)))
    assert all("same images. Received others in worker 2" in str(result) for result in results)


@pytest.mark.parametrize("members", [2, 3])
def test_a_scan_in_shares_finds_what_a_scan_alone_does(members: int) -> None:
    source = load("digits")
    alone = scan(source)
    assert together(lambda crew: scan(source, crew), members) == [alone] * members
