"""Everything that a run needs to resume: weights, optimizer, metrics, position, history.

The last checkpoint stays when the run has finished, so that the run can be trained further.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data import files
from data.files import make_folder, replacing
from errors import UserError
from training.run_files import CHECKPOINT

_STATE = "state.npz"
_PROGRESS = "progress"


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        phase: index of the current phase.
        epoch: index of the next epoch to finish, counted over all phases.
        step: steps of that epoch that are already done.
        seconds: training time so far.
        history: a row for each finished epoch.
        best_loss: lowest validation loss so far, that of model.keras.
        epochs_without_gain: finished epochs of this phase since its lowest validation loss.
        phase_best_loss: lowest validation loss of this phase.
        phase_finished: whether the phase has ended, by its last epoch or by early stopping.
        best_epoch: number of the epoch of `best_loss`, counted from 1; None before the first has finished.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_loss: float = float("inf")
    epochs_without_gain: int = 0
    phase_best_loss: float = float("inf")
    phase_finished: bool = False
    best_epoch: int | None = None

    def record_loss(self, loss: float, epoch: int) -> bool:
        """Records the validation loss of a finished epoch; returns whether it is the lowest of the run.

        Args:
            loss: the validation loss.
            epoch: number of the epoch, counted from 1.
        """
        if loss < self.phase_best_loss:
            self.phase_best_loss, self.epochs_without_gain = loss, 0
        else:
            self.epochs_without_gain += 1
        is_best = loss < self.best_loss
        if is_best:
            self.best_loss, self.best_epoch = loss, epoch
        return is_best

    def has_stalled(self, patience: int) -> bool:
        """Whether early stopping ends the phase; `patience` is 0 for never."""
        return 0 < patience <= self.epochs_without_gain


class NotFiniteError(Exception):
    """The weights hold NaN or infinity, so the previous checkpoint is kept."""


def save(
    run_dir: str,
    progress: Progress,
    model: keras.Model,
    trainee: keras.Model | None,
    metrics: list[np.ndarray] | None = None,
) -> None:
    """Writes one file with the whole state; a kill leaves the previous one.

    Args:
        run_dir: the run folder.
        progress: how far the run has come.
        model: the whole network, whose variables hold the state of its dropout layers too; a `.keras` file of
            Keras 3.15 does not.
        trainee: the model that is being fitted, the network or its head, with its optimizer and metrics; None before
            the first step of a phase, which begins with fresh ones.
        metrics: values of the metrics' variables to save in place of the current ones.

    Raises:
        NotFiniteError: nothing was written.
        UserError: the disk is full, or the folder can't be written to.
    """
    values = [variable.numpy() for variable in _variables(model, trainee)]
    if metrics is not None:
        values[len(values) - len(metrics) :] = metrics
    weights = values[: len(model.variables)]
    if not all(np.isfinite(weight).all() for weight in weights):
        raise NotFiniteError
    folder = os.path.join(run_dir, CHECKPOINT)
    make_folder(folder)
    with replacing(os.path.join(folder, _STATE)) as beside, tf.io.gfile.GFile(beside, "wb") as file:
        content = io.BytesIO()
        position = {_PROGRESS: np.asarray(json.dumps(dataclasses.asdict(progress)))}
        np.savez(content, allow_pickle=False, **position, **{f"{i:05d}": value for i, value in enumerate(values)})
        file.write(content.getvalue())


def read_progress(run_dir: str) -> Progress | None:
    """The progress of the last checkpoint; None when there is none.

    Raises:
        UserError: the checkpoint is damaged.
    """
    with _opened(run_dir) as state:
        return Progress(**json.loads(str(state[_PROGRESS]))) if state else None


def restore(run_dir: str, model: keras.Model, trainee: keras.Model | None = None) -> None:
    """Sets all variables to the values of the last checkpoint; optimizer and metrics must be built.

    Args:
        run_dir: the run folder.
        model: the whole network.
        trainee: what was being fitted; None to restore the network's own variables only.

    Raises:
        UserError: the checkpoint is damaged or from another network.
    """
    variables = _variables(model, trainee)
    names = [f"{i:05d}" for i in range(len(variables))]
    with _opened(run_dir) as state:
        values = [state[name] if state and name in state else None for name in names]
    for variable, value in zip(variables, values, strict=True):
        if value is None or value.shape != tuple(variable.shape):
            raise UserError(
                f"The checkpoint in {run_dir} is of another network: {variable.path} doesn't fit. {_RESTART}"
            )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


_RESTART = "Start again with another --run_dir."


def remove_left_over(run_dir: str) -> None:
    """Deletes what a kill during the writing of a checkpoint has left."""
    files.remove_left_over(os.path.join(run_dir, CHECKPOINT))


def _variables(model: keras.Model, trainee: keras.Model | None) -> list[Any]:
    """The network's variables come first, so that they can be restored without the others."""
    fitted = [*trainee.optimizer.variables, *trainee.metrics_variables] if trainee else []
    return [*model.variables, *fitted]


@contextlib.contextmanager
def _opened(run_dir: str) -> Iterator[Any]:
    """The checkpoint, whose arrays are read on access; None when there is none."""
    path = os.path.join(run_dir, CHECKPOINT, _STATE)
    if not tf.io.gfile.exists(path):
        yield None
        return
    try:
        with tf.io.gfile.GFile(path, "rb") as file, np.load(file, allow_pickle=False) as state:
            yield state
    except Exception as error:
        raise UserError(f"The checkpoint {path} is damaged. {_RESTART}") from error
