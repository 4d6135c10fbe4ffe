from __future__ import annotations

import os
import pathlib
import shutil
import signal
import time

import keras
import numpy as np
import pytest

from errors import UserError
from training import checkpoint
from training.callbacks import Checkpointer, Fit, Recorder, StopAtNonFinite
from training.checkpoint import Progress
from training.phases import Phase
from training.run_files import read_history
from training.signals import RunInterruptedError, Signals

PHASE = Phase("all", 0, 5, 1e-3)


class Clock:
    """A monotonic clock that can be put forward."""

    def __init__(self) -> None:
        self._really, self._ahead = time.monotonic, 0.0

    def __call__(self) -> float:
        return self._really() + self._ahead

    def put_forward(self, minutes: float) -> None:
        self._ahead += 60 * minutes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def model() -> keras.Model:
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    network.compile(loss="mse")
    network.fit(np.zeros((2, 2)), np.zeros((2, 1)), verbose=0)
    return network


def recorder(run_dir: pathlib.Path, patience: int = 0, progress: Progress | None = None) -> Recorder:
    network = model()
    made = Recorder(Fit(str(run_dir), network, PHASE, progress or Progress(), 1), patience)
    made.set_model(network)
    return made


def checkpointer(
    run_dir: pathlib.Path, progress: Progress, minutes: float = 600.0, signals: Signals | None = None
) -> Checkpointer:
    network = model()
    fit = Fit(str(run_dir), network, PHASE, progress, 3)
    made = Checkpointer(fit, minutes, signals or Signals(str(run_dir)))
    made.set_model(network)
    return made


def test_only_a_better_epoch_replaces_the_model(tmp_path: pathlib.Path) -> None:
    made = recorder(tmp_path)
    kept = []
    for epoch, loss in enumerate([0.5, 0.4, 0.6, 0.4, 0.3]):
        made.model.layers[0].bias.assign([epoch])
        made.on_epoch_begin(epoch)
        made.on_epoch_end(epoch, {"loss": 1.0, "val_loss": loss})
        saved = keras.saving.load_model(tmp_path / "model.keras", compile=False)
        kept.append(int(saved.layers[0].bias.numpy()[0]))
    assert kept == [0, 1, 1, 1, 4]
    rows = read_history(str(tmp_path))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [float(row["val_loss"]) for row in rows] == [0.5, 0.4, 0.6, 0.4, 0.3]
    assert made.model.stop_training, "the phase has had its last epoch"


@pytest.mark.parametrize(("patience", "epochs"), [(0, 5), (1, 3), (2, 4)])
def test_early_stopping_counts_epochs_without_gain(tmp_path: pathlib.Path, patience: int, epochs: int) -> None:
    progress = Progress()
    made = recorder(tmp_path, patience, progress)
    seen = 0
    for epoch, loss in enumerate([0.5, 0.4, 0.4, 0.6, 0.5]):
        made.on_epoch_end(epoch, {"val_loss": loss})
        seen += 1
        if made.model.stop_training:
            break
    assert seen == epochs
    assert progress.phase_finished


def test_the_best_of_an_earlier_phase_stays(tmp_path: pathlib.Path) -> None:
    progress = Progress(best_loss=0.1)
    made = recorder(tmp_path, 1, progress)
    made.on_epoch_end(0, {"val_loss": 0.2})
    assert not (tmp_path / "model.keras").exists()
    assert progress.epochs_without_gain == 0, "but within its phase it is a gain"


def test_the_first_step_and_a_loss_that_is_no_number() -> None:
    guard = StopAtNonFinite(Fit("runs/x", model(), PHASE, Progress(epoch=2, step=4), 7))
    with pytest.raises(UserError, match=r"became nan at step 5 of epoch 3, after the first step, .*0.001.*runs/x"):
        guard.on_train_batch_end(0, {"loss": np.nan})


def test_checkpoints_come_by_time_and_at_the_end_of_a_phase(tmp_path: pathlib.Path, clock: Clock) -> None:
    progress = Progress()
    made = checkpointer(tmp_path, progress)
    made.on_train_batch_end(0)
    assert checkpoint.read_progress(str(tmp_path)) is None
    clock.put_forward(600)
    made.on_train_batch_end(1)
    saved = checkpoint.read_progress(str(tmp_path))
    assert saved and (saved.epoch, saved.step) == (0, 2)
    made.on_train_batch_end(2)
    made.on_epoch_end(0)
    assert checkpoint.read_progress(str(tmp_path)) == saved
    progress.phase_finished = True
    made.on_epoch_end(1)
    saved = checkpoint.read_progress(str(tmp_path))
    assert saved and (saved.epoch, saved.step, saved.phase_finished) == (2, 0, True)


def test_every_step_is_saved_and_the_validation_apart_from_the_last(tmp_path: pathlib.Path) -> None:
    made = checkpointer(tmp_path, Progress(), minutes=0.0)
    steps = []
    for batch in range(3):
        made.on_train_batch_end(batch)
        saved = checkpoint.read_progress(str(tmp_path))
        steps.append(saved and saved.step)
    assert steps == [1, 2, 3]
    made.on_epoch_end(0)
    saved = checkpoint.read_progress(str(tmp_path))
    assert saved and (saved.epoch, saved.step) == (1, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_step(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(RunInterruptedError, match="train.py --resume --run_dir=") as caught:
        with Signals(str(tmp_path)) as signals:
            made = checkpointer(tmp_path, Progress(), signals=signals)
            os.kill(os.getpid(), number)
            made.on_train_batch_end(0)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before
    assert checkpoint.read_progress(str(tmp_path))


def test_a_signal_during_the_validation_waits_for_one_batch(tmp_path: pathlib.Path) -> None:
    """What is saved is the state after the last step, with the metrics that the validation has emptied since."""
    with Signals(str(tmp_path)) as signals:
        made = checkpointer(tmp_path, Progress(), signals=signals)
        made.model.metrics[0].update_state(7.0)
        expected = [np.array(variable) for variable in made.model.metrics_variables]
        for batch in range(3):
            made.on_train_batch_end(batch)
        made.on_test_begin()
        made.model.reset_metrics()
        made.on_test_batch_end(0)
        assert checkpoint.read_progress(str(tmp_path)) is None
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(RunInterruptedError, match="after step 3 of epoch 1; the state is saved"):
            made.on_test_batch_end(1)
    saved = checkpoint.read_progress(str(tmp_path))
    assert saved and (saved.epoch, saved.step) == (0, 3)
    checkpoint.restore(str(tmp_path), made.model, made.model)
    for restored, value in zip(made.model.metrics_variables, expected, strict=True):
        np.testing.assert_array_equal(restored.numpy(), value)


def test_a_long_validation_saves_the_last_step_once(tmp_path: pathlib.Path, clock: Clock) -> None:
    made = checkpointer(tmp_path, Progress())
    for batch in range(3):
        made.on_train_batch_end(batch)
    made.on_test_begin()
    clock.put_forward(600)
    made.on_test_batch_end(0)
    shutil.rmtree(tmp_path / "checkpoint")
    clock.put_forward(600)
    made.on_test_batch_end(1)
    assert not (tmp_path / "checkpoint").exists()


def test_the_clock_of_an_epoch(tmp_path: pathlib.Path) -> None:
    progress = Progress()
    made = recorder(tmp_path, progress=progress)
    made.on_epoch_begin(0)
    time.sleep(0.02)
    made.on_epoch_end(0, {"val_loss": 1.0})
    assert 0.02 <= progress.seconds < 20
