"""What happens at the end of a step and of an epoch: records, the best model, checkpoints, and reasons to stop."""

from __future__ import annotations

import math
import os
import signal
import time
from types import FrameType
from typing import Any

import keras

from data.files import replacing
from errors import UserError
from training import checkpoint
from training.checkpoint import Progress
from training.run import MODEL, write_history
from training.transfer import Phase


class Interrupted(UserError):
    """The user, or the system, asked the run to stop, and it has saved its state."""


class StopAtNonFinite(keras.callbacks.Callback):
    """Ends the run at a loss that is NaN or infinite: no later step could bring it back."""

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
        if math.isfinite(loss):
            self._last_finite = loss
            return
        before = "the first step" if self._last_finite is None else f"a loss of {self._last_finite:.4g} before it"
        raise UserError(
            f"The loss became {loss} at step {self._progress.step + 1} of epoch {self._progress.epoch + 1}, after "
            f"{before}, with a learning rate of {self._phase.learning_rate:g}. Try a tenth of it "
            "(--learning_rate or --fine_tune_learning_rate), --precision=float32, or look for odd pictures. "
            f"What the run had saved in {self._run_dir} is unchanged."
        )


class Recorder(keras.callbacks.Callback):
    """Writes a row of history.csv an epoch, keeps the best epoch as model.keras, and stops when nothing improves.

    The best epoch is the one with the lowest validation loss, over all phases: with few validation pictures the
    loss tells two epochs apart whose accuracy is the same.

    Args:
        run_dir: the run folder.
        whole: the model to keep, which may be larger than the one that is fitted.
        phase: what is being fitted.
        progress: brought up to date at the end of each epoch.
        patience: epochs without a lower validation loss after which the phase ends; 0 for never.
    """

    def __init__(self, run_dir: str, whole: keras.Model, phase: Phase, progress: Progress, patience: int) -> None:
        super().__init__()
        self._run_dir, self._whole, self._phase, self._patience = run_dir, whole, phase, patience
        self._progress = progress
        self._start = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the model first and writes the row after, so that every row's best model exists."""
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self._keep_best(metrics["val_loss"])
        seconds = time.monotonic() - self._start
        row = {
            "epoch": epoch + 1,
            "phase": self._phase.name,
            "learning_rate": self._phase.learning_rate,
            "seconds": round(seconds, 3),
            **{name: round(value, 6) for name, value in metrics.items()},
        }
        self._progress.history.append(row)
        self._progress.seconds += seconds
        write_history(self._run_dir, self._progress.history)
        if self._patience and self._progress.epochs_without_gain >= self._patience:
            self.model.stop_training = True

    def _keep_best(self, loss: float) -> None:
        progress = self._progress
        if loss < progress.phase_best_loss:
            progress.phase_best_loss, progress.epochs_without_gain = loss, 0
        else:
            progress.epochs_without_gain += 1
        if loss < progress.best_loss:
            progress.best_loss = loss
            with replacing(os.path.join(self._run_dir, MODEL)) as beside:
                self._whole.save(beside)


class Checkpointer(keras.callbacks.Callback):
    """Saves the whole state every so many minutes and when the run is told to stop, and restores it once.

    Must come last in the list of callbacks: what it saves at the end of an epoch includes what the others did there.

    Args:
        run_dir: the run folder.
        whole: the network; the fitted model may be its head.
        progress: counts the steps here.
        steps_per_epoch: steps of a full epoch.
        minutes: between two checkpoints; 0 for one after every step.
        resumes: whether to restore the last checkpoint before the first step.
    """

    def __init__(
        self,
        run_dir: str,
        whole: keras.Model,
        progress: Progress,
        steps_per_epoch: int,
        minutes: float,
        resumes: bool,
    ) -> None:
        super().__init__()
        self._run_dir, self._whole, self._progress = run_dir, whole, progress
        self._steps_per_epoch, self._seconds, self._resumes = steps_per_epoch, 60 * minutes, resumes
        self._last = time.monotonic()
        self._signal: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """From here on a signal stops the run after a whole step."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the signals back."""
        self.release()

    def release(self) -> None:
        """Lets signals act as they did before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras has built the optimiser and emptied the metrics by now, so this is where a state can be put back."""
        if self._resumes:
            checkpoint.restore(self._run_dir, self._whole, self.model)
            self._resumes = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the step; the last one of an epoch is left to `on_epoch_end`, which validation belongs to."""
        self._progress.step += 1
        if self._progress.step < self._steps_per_epoch:
            self._save_if_due()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts the epoch."""
        self._progress.epoch, self._progress.step = epoch + 1, 0
        self._save_if_due()

    def _save_if_due(self) -> None:
        if self._signal is None and time.monotonic() - self._last < self._seconds:
            return
        checkpoint.save(self._run_dir, self._progress, self._whole, self.model)
        self._last = time.monotonic()
        if self._signal is not None:
            raise Interrupted(
                f"Stopped by {signal.Signals(self._signal).name} after step {self._progress.step} of epoch "
                f"{self._progress.epoch + 1}; the state is saved. Go on with it by "
                f"`python train.py --resume --run_dir={self._run_dir}`."
            )

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
