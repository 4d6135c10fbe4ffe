"""SIGTERM, SIGHUP and Ctrl-C in one process, and in one of two workers."""

from __future__ import annotations

import os
import pathlib
import signal
import threading

import numpy as np
import pytest

from training.distributed.workers import Workers
from training.signals import RunInterruptedError, SafePoints, Signals


def test_a_second_ctrl_c_stops_at_once(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt), Signals(str(tmp_path)):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_comes_after_the_last_step_is_not_lost(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        with Signals(str(tmp_path)):
            signal.raise_signal(signal.SIGINT)


def test_a_signal_ends_at_once_what_only_reads(tmp_path: pathlib.Path) -> None:
    with Signals(str(tmp_path)) as signals:
        with pytest.raises(RunInterruptedError, match="Stopped by SIGTERM during the test. Resume by `.*--run_dir="):
            with signals.stopping_at_once("during the test"):
                signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(RunInterruptedError):
            with signals.stopping_at_once("during the test"):
                pytest.fail("begun after the signal")


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: pathlib.Path) -> None:
    failures: list[BaseException] = []

    def begin() -> None:
        try:
            with Signals(str(tmp_path)):
                pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert not failures


class FirstOfTwo(Workers):
    """The chief of two workers.

    Args:
        others: what the other worker contributes to each sum.
    """

    workers = 2

    def __init__(self, *others: list[int]) -> None:
        self.others = list(others)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values + np.array(self.others.pop(0))


NOTHING = [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("other", "number"),
    [([0, 0, 1, 0, 0], signal.SIGTERM), ([0, 0, 0, 1, 0], signal.SIGINT), ([0, 0, 0, 0, 1], signal.SIGHUP)],
)
def test_a_signal_to_another_worker_stops_this_one_too(
    tmp_path: pathlib.Path, other: list[int], number: signal.Signals
) -> None:
    points = SafePoints(Signals(str(tmp_path)), FirstOfTwo(other))
    assert points.reached()
    with pytest.raises(RunInterruptedError, match=f"Stopped by {number.name} here") as caught:
        points.stop_if_asked("here")
    assert caught.value.exit_code == 128 + number


def test_the_chief_worker_decides_when_to_save(tmp_path: pathlib.Path) -> None:
    points = SafePoints(Signals(str(tmp_path)), FirstOfTwo(NOTHING, NOTHING, [1, 0, 0, 0, 0]), asks_each_time=True)
    assert [points.reached(is_due=is_due) for is_due in (True, False)] == [True, False]


def test_the_end_of_a_phase_is_always_saved(tmp_path: pathlib.Path) -> None:
    points = SafePoints(Signals(str(tmp_path)), FirstOfTwo(NOTHING, NOTHING))
    assert not points.reached()
    assert points.reached(is_certain=True)


def test_workers_ask_each_other_about_once_a_second(tmp_path: pathlib.Path) -> None:
    """Not at each of thousands of steps; when it is asked for, at each."""
    seldom, often = (FirstOfTwo(*[NOTHING] * 3000) for _ in range(2))
    for workers, asks_each_time in ((seldom, False), (often, True)):
        points = SafePoints(Signals(str(tmp_path)), workers, asks_each_time=asks_each_time)
        for _ in range(3000):
            points.check()
    assert len(often.others) == 0 and len(seldom.others) > 2000


def test_prepared_images_stop_after_a_batch(tmp_path: pathlib.Path) -> None:
    with Signals(str(tmp_path)) as signals:
        points = SafePoints(signals)
        points.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(RunInterruptedError, match="SIGTERM while images were being prepared; what is on disk"):
            points.check()


def test_another_worker_leaves_the_way_to_resume_to_the_chief(tmp_path: pathlib.Path) -> None:
    error = Signals(str(tmp_path), worker=1).interrupted(signal.SIGTERM, "after step 3 of epoch 1")
    assert str(error) == "Worker 1 stopped with worker 0." and error.exit_code == 143
