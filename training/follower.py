"""What a worker does that is not the chief: it trains along, and leaves writing and printing to the chief."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from data.files import make_folder
from training.config import TrainConfig
from training.distribution import Distribution
from training.examples import Examples
from training.interruption import RunInterruptedError


@contextlib.contextmanager
def set_apart(team: Distribution, config: TrainConfig) -> Iterator[TrainConfig]:
    """Gives every worker but the chief a run folder of its own, which is deleted in the end, and keeps it silent.

    So all workers run the same code, and each has the best epoch at hand for the test. To go on with a run, a worker
    copies what the chief has written, from storage that they share.
    """
    if team.is_chief:
        _wait_for_copies(team, config)
        yield config
        return
    # For good: the script would say where the results are, and only the chief has some.
    sys.stdout = open(os.devnull, "w", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="darkroom-worker-") as folder:
        scratch = os.path.join(folder, "run")
        if config.resume:
            _copy(config.run_dir or "", scratch)
        _wait_for_copies(team, config)
        try:
            yield dataclasses.replace(config, run_dir=scratch)
        except RunInterruptedError as error:
            # Its message names the scratch folder.
            raise RunInterruptedError(f"Worker {team.worker} stopped with worker 0.", error.exit_code - 128) from error


def flags(config: TrainConfig) -> bytes:
    """The flags that must be the same in every worker."""
    return repr(dataclasses.replace(config, run_dir=None, data_dir=None)).encode()


def fingerprint(gathered: Examples) -> bytes:
    """A hash of the images, which must be the same in every worker."""
    digest = hashlib.sha256()
    for values in (gathered.digests, gathered.splits.tolist(), gathered.dataset.labels.tolist()):
        digest.update(repr(values).encode())
    return digest.digest()


def _wait_for_copies(team: Distribution, config: TrainConfig) -> None:
    # The chief must not write a new state while the others still copy the old one.
    if config.resume:
        team.all(True)


def _copy(source: str, destination: str) -> None:
    for folder, _, names in tf.io.gfile.walk(source):
        target = os.path.join(destination, os.path.relpath(folder, source))
        make_folder(target)
        for name in names:
            if not name.startswith("."):
                tf.io.gfile.copy(os.path.join(folder, name), os.path.join(target, name))
