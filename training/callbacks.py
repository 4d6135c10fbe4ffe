"""What happens at the end of a step and of an epoch: records, the best model, checkpoints, and reasons to stop."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
import numpy as np

from errors import UserError
from training import best_model, checkpoint
from training.checkpoint import Progress
from training.interruption import Agree, Signals, alone
from training.phases import Phase, learning_rate_at
from training.run_files import write_history


class StopAtNonFinite(keras.callbacks.Callback):
    """Ends the run at a loss that is NaN or infinite: no later step could bring it back.

    Must come first in the list of callbacks, so that none of the others records or saves anything of such a step.
    """

    def __init__(self, phase: Phase, progress: Progress, run_dir: str) -> None:
        super().__init__()
        self._phase, self._progress, self._run_dir = phase, progress, run_dir
        self._last_finite: float | None = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the mean loss of the epoch so far, which a single NaN turns into NaN.

        Raises:
            UserError: it is not finite.
        """
        loss = float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise self.diverged(f"The loss became {loss}")
        self._last_finite = loss

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the validation loss, the first to see what the last step of an epoch has done.

        Raises:
            UserError: it is not finite.
        """
        loss = float((logs or {})["val_loss"])
        if not math.isfinite(loss):
            raise self.diverged(f"The validation loss became {loss}")

    def diverged(self, what: str) -> UserError:
        """The error that says where `what` happened, from where it came, and what to try."""
        before = "the first step" if self._last_finite is None else f"a mean loss of {self._last_finite:.4g} before it"
        return UserError(
            f"{what} at step {self._progress.step + 1} of epoch {self._progress.epoch + 1}, after "
            f"{before}, with a learning rate of {self._phase.learning_rate:g}. Try a tenth of it "
            "(--learning_rate or --fine_tune_learning_rate), --precision=float32, or look for odd images. "
            f"What the run had saved in {self._run_dir} is unchanged."
        )


class Recorder(keras.callbacks.Callback):
    """Writes a row of history.csv an epoch, keeps the best epoch as model.keras, and stops when nothing improves.

    The best epoch is the one with the lowest validation loss, over all phases: with few validation images the
    loss tells two epochs apart whose accuracy is the same.

    Args:
        run_dir: the run folder.
        whole: the model to keep, which may be larger than the one that is fitted.
        phase: what is being fitted.
        progress: brought up to date at the end of each epoch.
        patience: epochs without a lower validation loss after which the phase ends; 0 for never.
        steps_per_epoch: steps of a full epoch.
    """

    def __init__(
        self,
        run_dir: str,
        whole: keras.Model,
        phase: Phase,
        progress: Progress,
        patience: int,
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self._run_dir, self._whole, self._phase, self._patience = run_dir, whole, phase, patience
        self._progress, self._steps_per_epoch = progress, steps_per_epoch
        self._start = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the model first and writes the row after, so that every row's best model exists."""
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self._keep_best(epoch, metrics["val_loss"])
        seconds = time.monotonic() - self._start
        row = {
            "epoch": epoch + 1,
            "phase": self._phase.name,
            "learning_rate": self._last_learning_rate(),
            "seconds": round(seconds, 3),
            **{name: round(value, 6) for name, value in metrics.items()},
        }
        progress = self._progress
        progress.history.append(row)
        progress.seconds += seconds
        write_history(self._run_dir, progress.history)
        progress.phase_finished = progress.has_stalled(self._patience) or epoch + 1 == self._phase.last_epoch
        self.model.stop_training = progress.phase_finished

    def _last_learning_rate(self) -> float:
        """That of the last step; of steps that mixed_float16 skips, the optimizer counts none."""
        steps = int(self.model.optimizer.iterations.numpy())
        return learning_rate_at(self._phase, self._steps_per_epoch, max(steps - 1, 0))

    def _keep_best(self, epoch: int, loss: float) -> None:
        progress = self._progress
        if loss < progress.phase_best_loss:
            progress.phase_best_loss, progress.epochs_without_gain = loss, 0
        else:
            progress.epochs_without_gain += 1
        if loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, epoch + 1
            best_model.keep(self._run_dir, self._whole, loss, epoch + 1)


class Checkpointer(keras.callbacks.Callback):
    """Saves the whole state every so many minutes and when the run is told to stop, and restores it once.

    Must come last in the list of callbacks: what it saves at the end of an epoch includes what the others did there.

    Args:
        run_dir: the run folder.
        whole: the network; the fitted model may be its head.
        progress: counts the steps here.
        steps_per_epoch: steps of a full epoch.
        minutes: between two checkpoints; 0 for one after every step.
        guard: says what to raise when the weights are no numbers any more.
        signals: stop the run after a step, or a batch of the validation.
        agree: see `training.agreement.Agreement`.
        resumes: whether to restore the last checkpoint before the first step.
    """

    def __init__(
        self,
        run_dir: str,
        whole: keras.Model,
        progress: Progress,
        steps_per_epoch: int,
        minutes: float,
        guard: StopAtNonFinite,
        signals: Signals,
        *,
        agree: Agree = alone,
        resumes: bool,
    ) -> None:
        super().__init__()
        self._run_dir, self._whole, self._progress, self._guard = run_dir, whole, progress, guard
        self._steps_per_epoch, self._seconds, self._signals = steps_per_epoch, 60 * minutes, signals
        self._agree, self._resumes = agree, resumes
        self._last, self._is_saved = time.monotonic(), False
        self._metrics: list[np.ndarray] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras has emptied the metrics by now, so this is where a state can be put back."""
        if self._resumes:
            checkpoint.restore(self._run_dir, self._whole, self.model)
            self._resumes, self._is_saved = False, True
            if self._progress.step == 0:
                # What was saved between two epochs are the metrics of the validation.
                self.model.reset_metrics()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the step."""
        self._progress.step += 1
        self._is_saved = False
        self._save_if_due()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Puts the metrics of the training aside, which Keras empties now."""
        self._metrics = [variable.numpy() for variable in self.model.metrics_variables]

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """A validation can be long. It is begun again after a stop, and until its end nothing new is worth saving."""
        self._save_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epoch."""
        self._metrics = None
        self._progress.epoch, self._progress.step = epoch + 1, 0
        self._is_saved = False
        self._save_if_due(is_due=self._progress.phase_finished)

    def _save_if_due(self, *, is_due: bool = False) -> None:
        has_waited = time.monotonic() - self._last >= self._seconds
        is_due, number = self._agree(is_due or (has_waited and not self._is_saved), self._signals.number, is_due)
        if (is_due or number is not None) and not self._is_saved:
            self._save()
        if number is not None:
            place = f"after step {self._progress.step} of epoch {self._progress.epoch + 1}"
            raise self._signals.answer(number, f"{place}; the state is saved")

    def _save(self) -> None:
        try:
            checkpoint.save(self._run_dir, self._progress, self._whole, self.model, self._metrics)
        except checkpoint.NotFiniteError as error:
            raise self._guard.diverged("Weights became NaN or infinite") from error
        self._last, self._is_saved = time.monotonic(), True
