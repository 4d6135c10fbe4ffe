"""A training that is killed anywhere and resumed ends with the same bits as one that never was."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import random
import signal

import keras
import numpy as np
import pytest

import models
from tests.reliability import children
from tests.reliability.children import PREPARED, Fate
from training.config import TrainConfig
from training.run import Run


@dataclasses.dataclass(frozen=True)
class Case:
    """A training, and what it ends with when nobody disturbs it."""

    config: TrainConfig
    events: int
    log: str
    weights: dict[str, np.ndarray]
    history: list[dict[str, str]]
    test: dict[str, float]


def config(images: pathlib.Path, name: str, **given: object) -> TrainConfig:
    standard = {"data": str(images), "batch_size": 8, "learning_rate": 1e-3, "image_size": 32, "epochs": 2}
    standard |= {"train_fraction": 0.6, "val_fraction": 0.2, "test_fraction": 0.2}
    standard |= {"deterministic": True, "checkpoint_minutes": 0.0, "run_dir": str(images.parent / name)}
    return TrainConfig(**(standard | given))  # type: ignore[arg-type]


def undisturbed(wanted: TrainConfig) -> Case:
    code, log = children.train(wanted)
    assert code == 0, log
    run = Run.open(wanted.run_dir or "")
    return Case(wanted, log.count("event"), log, children.weights(run.path), _lasting(run), run.test_metrics())


def _lasting(run: Run) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.history()]


@pytest.fixture(scope="module")
def from_scratch(images: pathlib.Path, cache: None) -> Case:
    """Augmented, and with dropout: the order, the views and the units dropped must all go on where they were."""
    return undisturbed(config(images, "scratch", model="squeezenet", augment="full", weights="none"))


def start_from(images: pathlib.Path) -> dict:
    """A head on the frozen backbone of a network that somebody has trained, as far as the program knows."""
    path = str(images.parent / "lenet5.weights.h5")
    if not os.path.exists(path):
        keras.utils.set_random_seed(1)
        models.build("lenet5", 2, image_size=32).save_weights(path)
    return {"weights": path, "freeze": True, "fine_tune_epochs": 2, "fine_tune_learning_rate": 1e-3}


@pytest.fixture(scope="module")
def two_phases(images: pathlib.Path, cache: None) -> Case:
    """A head on stored features of random views, then everything; both with a learning rate that falls."""
    given = start_from(images) | {"learning_rate_schedule": "cosine", "augment": "basic", "augmented_views": 2}
    return undisturbed(config(images, "phases", model="lenet5", early_stopping=1, epochs=3, **given))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def finish(case: Case, name: str, fates: list[Fate]) -> None:
    """Starts the training, disturbs it by each of the fates in turn, resumes it, and compares what it ends with."""
    wanted = dataclasses.replace(case.config, run_dir=f"{case.config.run_dir}-{name}")
    for fate in fates:
        code, log = children.train(_as_resumed(wanted), fate)
        assert code in (0, -signal.SIGKILL), log
    is_finished = os.path.exists(os.path.join(wanted.run_dir or "", "test.json"))
    code, log = children.train(_as_resumed(wanted))
    # Killed after its last file, a run has nothing left to do.
    assert code == (2 if is_finished else 0) and ("has finished" in log) == is_finished, log
    compare(case, Run.open(wanted.run_dir or ""))


def _as_resumed(wanted: TrainConfig) -> TrainConfig:
    """With --resume where the run has begun, as the message of a start in vain says."""
    if not os.path.exists(os.path.join(wanted.run_dir or "", "config.json")):
        return wanted
    return dataclasses.replace(Run.open(wanted.run_dir or "").config, resume=True)


def compare(case: Case, run: Run) -> None:
    weights = children.weights(run.path)
    assert weights.keys() == case.weights.keys()
    for place, expected in case.weights.items():
        np.testing.assert_array_equal(weights[place], expected, strict=True, err_msg=place)
    assert _lasting(run) == case.history
    assert run.test_metrics() == case.test
    left = [name for _, folders, names in os.walk(run.path) for name in folders + names]
    assert not [name for name in left if name.startswith(".part-")], left


@pytest.mark.parametrize("attempt", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def test_killed_between_files(two_phases: Case, attempt: int) -> None:
    events = random.Random(attempt).sample(range(1, two_phases.events), 2)
    finish(two_phases, f"file{attempt}", [Fate(kill_at_event=event) for event in events])


@pytest.mark.parametrize("attempt", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2))])
def test_killed_at_any_moment(from_scratch: Case, attempt: int) -> None:
    generator = random.Random(100 + attempt)
    fates = [Fate(kill_after_seconds=generator.uniform(0, 1.5)) for _ in range(1 + attempt)]
    finish(from_scratch, f"moment{attempt}", fates)


@pytest.mark.parametrize("attempt", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 6))])
def test_killed_while_features_are_computed(two_phases: Case, attempt: int) -> None:
    """Three batches of each of two views, then one of the images to validate on; the cache is empty at first."""
    generator = random.Random(200 + attempt)
    wanted = dataclasses.replace(two_phases.config, run_dir=f"{two_phases.config.run_dir}-features{attempt}")
    done = 0
    for kill in range(1 + attempt % 3):
        at = generator.randint(1, 4 + kill - done)
        code, log = children.train(
            _as_resumed(wanted), Fate(signal_at=at, point=PREPARED, signal_number=signal.SIGKILL)
        )
        assert code == -signal.SIGKILL, log
        done += at
    code, log = children.train(_as_resumed(wanted))
    assert code == 0, log
    # Seven batches, and 18 decoded images to fine-tune on lie in memory.
    assert log.count(PREPARED) == 7 - done
    assert ("Resuming features for training" in log) == (0 < done < 6)
    compare(two_phases, Run.open(wanted.run_dir or ""))


@pytest.mark.parametrize("attempt", [0, *(pytest.param(number, marks=pytest.mark.slow) for number in range(1, 4))])
def test_killed_at_any_moment_from_the_first_features_on(two_phases: Case, attempt: int) -> None:
    generator = random.Random(300 + attempt)
    fates = [Fate(kill_after_seconds=generator.uniform(0, 0.5), point=PREPARED) for _ in range(1 + attempt)]
    finish(two_phases, f"preparing{attempt}", fates)


@pytest.mark.parametrize("before", [1, 3, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 4, 5))])
def test_killed_at_the_change_of_phase(two_phases: Case, before: int) -> None:
    """From the checkpoint at the end of the head's phase to that with its best epoch, from which fine-tuning begins."""
    head, _ = two_phases.log.split("Fine-tuning begins from epoch")
    finish(two_phases, f"change{before}", [Fate(kill_at_event=head.count("event") - before + 1)])


@pytest.mark.slow
def test_killed_after_the_last_file(two_phases: Case) -> None:
    finish(two_phases, "last", [Fate(kill_at_event=two_phases.events)])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_killed_before_and_after_every_file(two_phases: Case, part: int) -> None:
    for event in range(1 + part, two_phases.events, 4):
        finish(two_phases, f"every{event}", [Fate(kill_at_event=event)])
