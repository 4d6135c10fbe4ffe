"""A run that is told later to train further ends with the same bits as one that was told so at once."""

from __future__ import annotations

import dataclasses
import pathlib
import signal

import pytest

from tests.reliability import children
from tests.reliability.children import STEP, Fate
from tests.reliability.test_kill import Case, compare, config, start_from, undisturbed
from training.config import TrainConfig
from training.run import Run


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def straight(images: pathlib.Path, cache: None) -> Case:
    """Augmented, with dropout and Adam's moments, three epochs of three steps."""
    given = {"model": "squeezenet", "augment": "full", "weights": "none", "epochs": 3}
    return undisturbed(config(images, "straight", **given))


def extended(wanted: TrainConfig, **changes: object) -> str:
    """What is printed by going on with a run to where `changes` say."""
    stored = Run.open(wanted.run_dir or "").config
    code, log = children.train(dataclasses.replace(stored, resume=True, **changes))  # type: ignore[arg-type]
    assert code == 0, log
    return log


@pytest.mark.parametrize("step", [None, 2], ids=["finished", "killed"])
def test_more_epochs_give_the_bits_of_a_run_that_had_them_at_once(straight: Case, step: int | None) -> None:
    wanted = dataclasses.replace(straight.config, run_dir=f"{straight.config.run_dir}-{step}", epochs=1)
    fate = Fate(signal_at=step, signal_number=signal.SIGKILL) if step else None
    code, log = children.train(wanted, fate)
    assert code == (-signal.SIGKILL if step else 0), log
    log = extended(wanted, epochs=3)
    # The step at which it was killed is made again.
    assert log.count(STEP) == 9 - (step - 1 if step else 3)
    run = Run.open(wanted.run_dir or "")
    compare(straight, run)
    assert run.config.epochs == 3 and run.details()["continued_by"] == [""]


def test_fine_tuning_can_be_added_and_prolonged(images: pathlib.Path, cache: None) -> None:
    given = start_from(images) | {"model": "lenet5", "learning_rate": 0.3, "epochs": 3}
    straight = undisturbed(config(images, "tuned", **given))
    wanted = config(images, "tuned-later", **given | {"fine_tune_epochs": 0})
    code, log = children.train(wanted)
    assert code == 0, log
    assert "Fine-tuning begins from" in extended(wanted, fine_tune_epochs=1)
    extended(wanted, fine_tune_epochs=2)
    compare(straight, Run.open(wanted.run_dir or ""))


def test_early_stopping_stays_the_end_until_it_is_changed(images: pathlib.Path, cache: None) -> None:
    """A learning rate at which nothing changes: no epoch is better than the first."""
    given = {"model": "lenet5", "learning_rate": 1e-12, "early_stopping": 1}
    wanted = config(images, "stalled", epochs=4, **given)
    code, log = children.train(wanted)
    assert code == 0 and "Early stopping after epoch 2 of 4" in log, log
    log = extended(wanted, epochs=5)
    assert STEP not in log and "Early stopping after epoch 2 of 5" in log
    extended(wanted, early_stopping=0, epochs=3)
    assert len(Run.open(wanted.run_dir or "").history()) == 3


def test_a_cosine_is_stretched_over_all_epochs(images: pathlib.Path, cache: None) -> None:
    """Each epoch after the resume has the learning rate that it has in a run of so many epochs."""
    given = {"model": "lenet5", "learning_rate_schedule": "cosine"}
    straight = undisturbed(config(images, "cosine", epochs=4, **given))
    wanted = config(images, "cosine-later", epochs=2, **given)
    code, log = children.train(wanted)
    assert code == 0, log
    extended(wanted, epochs=4)
    rates = [row["learning_rate"] for row in Run.open(wanted.run_dir or "").history()]
    assert rates[2:] == [row["learning_rate"] for row in straight.history][2:]
    assert float(rates[1]) < float(rates[2]) < float(straight.history[0]["learning_rate"])
