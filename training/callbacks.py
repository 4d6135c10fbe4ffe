"""Keras callbacks that write the history, the best model and checkpoints, and stop a run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from errors import UserError
from training import best_model, checkpoint
from training.checkpoint import Progress
from training.distributed.workers import Workers
from training.phases import Phase, learning_rate_at
from training.run_files import write_history
from training.signals import SafePoints, Signals


@dataclass
class Fit:
    """The fit of one phase, shared by its callbacks.

    Attributes:
        run_dir: the run folder.
        network: the model to keep, which may be larger than the one that is fitted.
        phase: the phase that is fitted.
        progress: how far the run has come; the callbacks update it.
        steps_per_epoch: steps of a full epoch.
        last_loss: mean loss of the epoch after the last step; None before the first step.
    """

    run_dir: str
    network: keras.Model
    phase: Phase
    progress: Progress
    steps_per_epoch: int
    last_loss: float | None = None

    def diverged(self, what: str) -> UserError:
        """The error that says what happened, at which step and after which loss, and what to try."""
        before = "the first step" if self.last_loss is None else f"a mean loss of {self.last_loss:.4g} before it"
        return UserError(
            f"{what} at step {self.progress.step + 1} of epoch {self.progress.epoch + 1}, after "
            f"{before}, with a learning rate of {self.phase.learning_rate:g}. Try a tenth of it "
            "(--learning_rate or --fine_tune_learning_rate), --precision=float32, or look for odd images. "
            f"The files in {self.run_dir} are unchanged."
        )


class StopAtNonFinite(keras.callbacks.Callback):
    """Ends the run at a loss that is NaN or infinite, from which no later step recovers.

    Must come first in the list of callbacks, so that no other records or saves anything of such a step.
    """

    def __init__(self, fit: Fit) -> None:
        super().__init__()
        self._fit = fit

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the mean loss of the epoch so far, which a single NaN turns into NaN.

        Raises:
            UserError: it is not finite.
        """
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise self._fit.diverged(f"The loss became {loss}")
        self._fit.last_loss = loss

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the validation loss, the first loss after the last step of an epoch.

        Raises:
            UserError: it is not finite.
        """
        loss = float((logs or {})["val_loss"])
        if not math.isfinite(loss):
            raise self._fit.diverged(f"The validation loss became {loss}")


class Recorder(keras.callbacks.Callback):
    """Writes a row of history.csv per epoch, keeps the best epoch as model.keras, and stops early.

    The best epoch is the one with the lowest validation loss, over all phases: with few validation images, two
    epochs of the same accuracy still differ in loss.

    Args:
        fit: the fit of the phase.
        patience: epochs without a lower validation loss after which the phase ends; 0 for never.
    """

    def __init__(self, fit: Fit, patience: int) -> None:
        super().__init__()
        self._fit, self._patience, self._start = fit, patience, time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves the model before it writes the row, so that every row's best model exists."""
        fit, progress = self._fit, self._fit.progress
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        if progress.record_loss(metrics["val_loss"], epoch + 1):
            best_model.keep(fit.run_dir, fit.network, progress.best_loss, epoch + 1)
        seconds = time.monotonic() - self._start
        row = {
            "epoch": epoch + 1,
            "phase": fit.phase.name,
            "learning_rate": self._last_learning_rate(),
            "seconds": round(seconds, 3),
            **{name: round(value, 6) for name, value in metrics.items()},
        }
        progress.history.append(row)
        progress.seconds += seconds
        write_history(fit.run_dir, progress.history)
        progress.phase_finished = progress.has_stalled(self._patience) or epoch + 1 == fit.phase.last_epoch
        self.model.stop_training = progress.phase_finished

    def _last_learning_rate(self) -> float:
        """The learning rate of the last step; the optimizer doesn't count steps that mixed_float16 skips."""
        steps = int(self.model.optimizer.iterations.numpy())
        return learning_rate_at(self._fit.phase, self._fit.steps_per_epoch, max(steps - 1, 0))


class Checkpointer(keras.callbacks.Callback):
    """Saves the whole state every few minutes and when the run is asked to stop, and restores it once.

    Must come last in the list of callbacks: what it saves at the end of an epoch includes what the others did there.

    Args:
        fit: the fit of the phase.
        minutes: minutes between two checkpoints; 0 for one after every step.
        signals: stop the run after a step or a validation batch.
        workers: save and stop after the same step; by default this process alone.
        resumes: whether to restore the last checkpoint before the first step.
    """

    def __init__(
        self, fit: Fit, minutes: float, signals: Signals, workers: Workers | None = None, *, resumes: bool = False
    ) -> None:
        super().__init__()
        self._fit, self._seconds, self._resumes = fit, 60 * minutes, resumes
        self._safe_points = SafePoints(signals, workers, asks_each_time=minutes == 0)
        self._last, self._is_saved = time.monotonic(), False
        self._metrics: list[np.ndarray] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restores the state here, since Keras has reset the metrics by now."""
        if self._resumes:
            checkpoint.restore(self._fit.run_dir, self._fit.network, self.model)
            self._resumes, self._is_saved = False, True
            if self._fit.progress.step == 0:
                # A checkpoint between two epochs holds the metrics of the validation.
                self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the step."""
        self._fit.progress.step += 1
        self._is_saved = False
        self._save_if_due()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Keeps the training metrics, which Keras resets now."""
        self._metrics = [variable.numpy() for variable in self.model.metrics_variables]

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Lets the run stop within a long validation, which a resume repeats; it adds nothing to save."""
        self._save_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epoch."""
        self._metrics = None
        progress = self._fit.progress
        progress.epoch, progress.step = epoch + 1, 0
        self._is_saved = False
        self._save_if_due(is_certain=progress.phase_finished)

    def _save_if_due(self, *, is_certain: bool = False) -> None:
        has_waited = time.monotonic() - self._last >= self._seconds
        is_due = self._safe_points.reached(is_due=has_waited and not self._is_saved, is_certain=is_certain)
        if is_due and not self._is_saved:
            self._save()
        progress = self._fit.progress
        self._safe_points.stop_if_asked(f"after step {progress.step} of epoch {progress.epoch + 1}; the state is saved")

    def _save(self) -> None:
        fit = self._fit
        try:
            checkpoint.save(fit.run_dir, fit.progress, fit.network, self.model, self._metrics)
        except checkpoint.NotFiniteError as error:
            raise fit.diverged("Weights became NaN or infinite") from error
        self._last, self._is_saved = time.monotonic(), True
