"""Opens a run folder for training by one process at a time, and finishes it."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import keras
import tensorflow as tf

from data.files import explained, make_folder, remove_left_over, write_text
from data.names import printable, shortened
from errors import UserError
from training import checkpoint, run_record
from training.config import CONFIG, EXTENDABLE, TrainConfig
from training.examples import Examples
from training.run import Run
from training.run_files import CHECKPOINT, LABELS, MODEL, SPLITS, TEST, SplitRow, write_json, write_splits

_LOCK = ".lock"


def check(config: TrainConfig) -> None:
    """Checks that the run can be written, before its images are scanned.

    Raises:
        UserError: the folder holds a run already, can't be written to, is in use, or its run has finished.
    """
    run_dir = config.run_dir or ""
    if "://" not in run_dir:
        _check_not_in_use(run_dir)
        _check_writable(run_dir)
    if config.resume:
        run = Run.open(run_dir)
        _check_resumable(run, _changes(run, config))
    elif tf.io.gfile.isdir(run_dir):
        _check_is_free(run_dir)


def _check_not_in_use(run_dir: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        with open(os.path.join(run_dir, _LOCK), encoding="utf-8") as lock:
            _lock(lock, fcntl.LOCK_SH, run_dir)


def _check_writable(run_dir: str) -> None:
    place = os.path.abspath(run_dir)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    try:
        with explained(place), tempfile.TemporaryDirectory(dir=place):
            pass
    except OSError as error:
        raise UserError(
            f"--run_dir must be a folder that can be written to. Received: --run_dir={run_dir}. Nothing can be created "
            f"in {place}: {error.strerror}. Pass another folder, such as runs/NAME."
        ) from error


@contextlib.contextmanager
def opened(
    config: TrainConfig, examples: Examples, model: keras.Model, command: str, devices: list[str]
) -> Iterator[Run]:
    """Creates and records a new run in its folder, or opens the folder of the run to resume.

    Args:
        config: the flags of the run.
        examples: its images and splits.
        model: its network.
        command: the command line, for the record.
        devices: names of the devices, for the record.

    Raises:
        UserError: the folder can't be written to, holds a run already, or holds none that can be resumed.
    """
    if config.resume:
        with _reopened(config, examples, command) as run:
            yield run
        return
    run_dir = config.run_dir or ""
    is_new = not tf.io.gfile.isdir(run_dir)
    make_folder(run_dir)
    with _locked(run_dir):
        _check_is_free(run_dir)
        try:
            write_splits(run_dir, examples.dataset, examples.splits)
            write_text(os.path.join(run_dir, LABELS), "".join(f"{name}\n" for name in examples.dataset.class_names))
            record = run_record.made(config, run_dir, examples, model, command, devices)
            write_json(os.path.join(run_dir, CONFIG), record)
        except BaseException:
            _clear(run_dir, is_new)
            raise
        yield Run.open(run_dir)


def _check_is_free(run_dir: str) -> None:
    """Allows overwriting what a killed start has left; anything else belongs to the user."""
    names = tf.io.gfile.listdir(run_dir)
    if CONFIG in names:
        raise UserError(f"--run_dir={run_dir} holds a run already. Pass another folder, or --resume to resume it.")
    remove_left_over(run_dir)
    others = set(tf.io.gfile.listdir(run_dir)) - {_LOCK, SPLITS, LABELS}
    if others:
        raise UserError(
            f"--run_dir must be a new or an empty folder. Received: --run_dir={run_dir}, which holds "
            f"{shortened(sorted(others))}. Pass another folder."
        )


def _clear(run_dir: str, is_new: bool) -> None:
    """Removes the files of a run that could not be started."""
    with contextlib.suppress(OSError, tf.errors.OpError):
        for name in {_LOCK, SPLITS, LABELS} & set(tf.io.gfile.listdir(run_dir)):
            tf.io.gfile.remove(os.path.join(run_dir, name))
        if is_new:
            tf.io.gfile.rmtree(run_dir)


@contextlib.contextmanager
def _reopened(config: TrainConfig, examples: Examples, command: str) -> Iterator[Run]:
    """Opens the folder of a run to resume it, and records what `config` extends, with `command`.

    Raises:
        UserError: another process trains in it, it has finished and `config` doesn't extend it, or its images have
            changed.
    """
    run = Run.open(config.run_dir or "")
    with _locked(run.path):
        changes = _changes(run, config)
        _check_resumable(run, changes)
        remove_left_over(run.path)
        checkpoint.remove_left_over(run.path)
        if not _has_same_images(run.splits(), examples):
            raise UserError(
                f"--resume needs the images that {run.path} was started with. Those in {printable(config.data)} have "
                "changed since. Put them back, or start a new run with another --run_dir."
            )
        if any(math.isfinite(float(row["val_loss"])) for row in run.history()):
            run.check_model()
        if changes:
            _extend(run, changes, command)
        yield run


def _changes(run: Run, config: TrainConfig) -> dict[str, Any]:
    """The extendable flags whose values in `config` differ from the run's."""
    return {name: getattr(config, name) for name in EXTENDABLE if getattr(config, name) != getattr(run.config, name)}


def _check_resumable(run: Run, changes: dict[str, Any]) -> None:
    is_finished = bool(run.test_metrics())
    if is_finished and not changes:
        raise UserError(
            f"The run in {run.path} has finished; there is nothing to resume. Pass --epochs above "
            f"{run.config.epochs} to train further, or another --run_dir."
        )
    progress = checkpoint.read_progress(run.path)
    if is_finished and progress is None:
        raise UserError(
            f"Training a finished run further needs its checkpoint. Received: {run.path} without {CHECKPOINT}/. Start "
            f"a new run from its best epoch with --weights={run.file(MODEL)}."
        )
    if progress is not None and progress.phase > 0 and "epochs" in changes:
        raise UserError(
            "--epochs counts the epochs before the fine-tuning, which has begun. Received: "
            f"--epochs={changes['epochs']} for {run.path} with {run.config.epochs}. Raise --fine_tune_epochs, now "
            f"{run.config.fine_tune_epochs}."
        )


def _extend(run: Run, changes: dict[str, Any], command: str) -> None:
    """Marks the run as unfinished first, so that after a kill in between the same command extends it."""
    with contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.remove(run.file(TEST))
    details = run.details()
    continued = [*details.get("continued_by", []), command]
    write_json(run.file(CONFIG), details | {"flags": details["flags"] | changes, "continued_by": continued})


def _has_same_images(rows: list[SplitRow], examples: Examples) -> bool:
    """Whether address, class, split and content are as at the start; older versions didn't record the content."""
    labels = [examples.dataset.class_names[label] for label in examples.dataset.labels]
    columns = (examples.dataset.addresses, labels, examples.splits, examples.dataset.digests)
    now = [SplitRow(*values) for values in zip(*columns, strict=True)]
    if not all(row.sha256 for row in rows):
        now = [row._replace(sha256="") for row in now]
    return rows == now


def finish(run: Run, metrics: dict[str, float], seconds: float) -> None:
    """Writes the best epoch's `metrics` on the test split, and the training time in seconds."""
    write_json(run.file(CONFIG), run.details() | {"training_seconds": round(seconds, 1)})
    write_json(run.file(TEST), metrics)


@contextlib.contextmanager
def _locked(run_dir: str) -> Iterator[None]:
    """Keeps a second process out of the folder; the system releases the lock however this one ends."""
    if "://" in run_dir:
        yield
        return
    path = os.path.join(run_dir, _LOCK)
    with explained(path):
        lock = open(path, "w", encoding="utf-8")
    with lock:
        _lock(lock, fcntl.LOCK_EX, run_dir)
        yield


def _lock(lock: IO[str], kind: int, run_dir: str) -> None:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"Another process is training in --run_dir={run_dir}. Wait for it, or pass another folder."
        ) from error
