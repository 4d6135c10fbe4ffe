"""Trainings in processes of their own, which can be killed where and when a test wants.

A fork server that has imported TensorFlow, but run nothing yet, starts each within milliseconds.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import h5py
import keras
import numpy as np

from tests import witness
from training.config import TrainConfig
from training.resolve import resolved

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["training.trainer"])
_LONGEST_SECONDS = 240
# Where something can happen; each is printed when a training passes it.
STEP, PREPARED, VALIDATED = "a training step", "a batch of features or pixels on disk", "a batch of the validation"


@dataclass(frozen=True)
class Fate:
    """What happens to a training.

    Attributes:
        kill_at_event: number of the event at which the process is killed by SIGKILL; the events are the moments just
            before and just after each file takes its final name. None for never.
        kill_after_seconds: from the first `point` on. None for never.
        point: what is counted.
        signal_at: the process gets `signal_number` at this point, counted from 1. None for never.
        signal_number: which signal.
        code: Python statements to run first, to make other things go wrong.
    """

    kill_at_event: int | None = None
    kill_after_seconds: float | None = None
    point: str = STEP
    signal_at: int | None = None
    signal_number: int = signal.SIGTERM
    code: str = ""


def train(config: TrainConfig, fate: Fate | None = None, log: pathlib.Path | None = None) -> tuple[int, str]:
    """Trains as `train.py` does, or resumes; gives the exit code (negative: the signal) and what was printed."""
    log = log or pathlib.Path(f"{config.run_dir}.log")
    process = _CONTEXT.Process(target=_child, args=(config, fate or Fate(), str(log), os.environ["XDG_CACHE_HOME"]))
    log.unlink(missing_ok=True)
    process.start()
    if fate and fate.kill_after_seconds is not None:
        while process.is_alive() and not (log.exists() and fate.point in log.read_text()):
            time.sleep(0.01)
        process.join(fate.kill_after_seconds)
        process.kill()
    process.join(_LONGEST_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode or 0, log.read_text()


def weights(run_dir: str) -> dict[str, np.ndarray]:
    """Every array of model.keras by its place in the file."""
    arrays: dict[str, np.ndarray] = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with zipfile.ZipFile(os.path.join(run_dir, "model.keras")) as archive, archive.open("model.weights.h5") as member:
        with h5py.File(member, "r") as file:
            file.visititems(keep)
    return arrays


def _child(config: TrainConfig, fate: Fate, log: str, cache: str) -> None:
    os.environ["XDG_CACHE_HOME"] = cache
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)

    import cli
    from training import trainer

    _arm(fate)
    exec(fate.code, {})

    def main(argv: list[str]) -> None:
        trainer.train(config if config.resume else resolved(config), command="")

    sys.exit(cli.exits_with_message(main)([]))


def before_each(point: str, act: Callable[[int], None]) -> None:
    """Lets `act`, in this process, be called just before each `point` with its number, counted from 1."""
    if point == PREPARED:
        return _around_each_preparation(act, lambda number: None)
    count = itertools.count(1)
    moment = {STEP: "on_train_batch_end", VALIDATED: "on_test_batch_end"}[point]
    witness.insert(keras.callbacks.LambdaCallback(**{moment: lambda batch, logs=None: act(next(count))}))


def _around_each_preparation(before: Callable[[int], None], after: Callable[[int], None]) -> None:
    """Calls `before` when a batch is made, and `after` when it is in its file, and safe where it is time for that."""
    from data.table import Batch, Table

    count, really = itertools.count(1), Table.fill

    def fill(table: Table, batches_from: Callable[[int], Iterator[Batch]], seconds: float) -> list[np.ndarray]:
        def counted(safe: int) -> Iterator[Batch]:
            for batch in batches_from(safe):
                number = next(count)
                before(number)
                yield batch
                after(number)

        return really(table, counted, seconds)

    Table.fill = fill


def _arm(fate: Fate) -> None:
    def passed(point: str) -> Callable[[int], None]:
        def report(number: int) -> None:
            print(point)
            if point == fate.point and number == fate.signal_at:
                os.kill(os.getpid(), fate.signal_number)

        return report

    before_each(STEP, passed(STEP))
    before_each(VALIDATED, passed(VALIDATED))
    _around_each_preparation(lambda number: None, passed(PREPARED))
    _watch_renames(fate)


def _watch_renames(fate: Fate) -> None:
    import tensorflow as tf

    count, rename = itertools.count(1), tf.io.gfile.rename

    def event() -> None:
        number = next(count)
        print(f"event {number}")
        if number == fate.kill_at_event:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted_rename(*arguments: object, **named: object) -> None:
        event()
        rename(*arguments, **named)
        event()

    tf.io.gfile.rename = counted_rename
