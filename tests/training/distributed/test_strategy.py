"""Several devices, and several processes, give the numbers of one."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from tests.training.distributed import trainings
from training.config import TrainConfig
from training.distributed import keras_patches, strategy
from training.distributed.strategy import ALONE, Distribution, WorkerLostError
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[3]

# The largest difference of a weight, or of a number in history.csv and test.json. Half precision rounds gradients to 8
# and 11 bits before they are summed, and Adam makes a step of 1e-3 of each, however small; on BatchNorm see
# docs/cluster.md.
TOLERANCES = {
    "scratch": 1e-5,
    "two_heads": 1e-5,
    "phases": 1e-5,
    # One image more or less of the 179 for validation.
    "bfloat16": 7e-3,
    "float16": 2e-3,
    "batch_norm": 1e-4,
}

# Four devices and four workers, which take longer, are tested with all trainings.
TWO_DEVICES = ("scratch", "batch_norm")
TWO_WORKERS = ("scratch", "two_heads", "phases", "batch_norm")
HALF_PRECISION = ("bfloat16", "float16")


def launch(
    folder: pathlib.Path,
    strategy: str,
    *,
    devices: int = 1,
    workers: int = 1,
    names: tuple[str, ...] = tuple(trainings.TRAININGS),
) -> subprocess.Popen:
    cache = folder.with_name(f"{folder.name}-cache")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cache)}
    command = ["tests/training/distributed/trainings.py", str(folder), strategy, str(devices), *names]
    together = ["-m", "training.launch", f"--workers={workers}", "--"] if workers > 1 else []
    with open(f"{folder}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, *together, *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


def finished(process: subprocess.Popen, folder: pathlib.Path) -> pathlib.Path:
    assert process.wait(timeout=600) == 0, pathlib.Path(f"{folder}.log").read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """The folders of all trainings, by how they were trained."""
    folder = tmp_path_factory.mktemp("together")
    trainings.write_weights(str(folder))
    ways = {
        "one": {"strategy": "none", "names": TWO_WORKERS},
        "two devices": {"strategy": "mirrored", "devices": 2, "names": TWO_DEVICES},
        "two workers": {"strategy": "multi_worker", "workers": 2, "names": TWO_WORKERS},
    }
    processes = {way: launch(folder / way.replace(" ", "_"), **arguments) for way, arguments in ways.items()}
    return {way: finished(process, folder / way.replace(" ", "_")) for way, process in processes.items()}


def largest_difference(first: Run, second: Run) -> float:
    weights = zip(first.load_model().get_weights(), second.load_model().get_weights(), strict=True)
    differences = [float(np.abs(a - b).max()) for a, b in weights]
    for one, other in zip(first.history(), second.history(), strict=True):
        assert (one.keys(), one["phase"]) == (other.keys(), other["phase"])
        differences += [abs(float(one[name]) - float(other[name])) for name in one if name not in ("phase", "seconds")]
    metrics = first.test_metrics()
    assert metrics.keys() == second.test_metrics().keys()
    return max(differences + [abs(metrics[name] - second.test_metrics()[name]) for name in metrics])


@pytest.mark.parametrize(
    ("way", "name"),
    [*(("two devices", name) for name in TWO_DEVICES), *(("two workers", name) for name in TWO_WORKERS)],
)
def test_results_are_those_of_one_device(results: dict[str, pathlib.Path], way: str, name: str) -> None:
    one, other = (Run.open(str(results[each] / name)) for each in ("one", way))
    assert largest_difference(one, other) <= TOLERANCES[name]


@pytest.mark.parametrize("way", ["one", "two workers"])
def test_each_heads_loss_counts_every_image_once(results: dict[str, pathlib.Path], way: str) -> None:
    """179 images to test on in batches of 89: the last holds one, which one of the workers has."""
    run = Run.open(str(results[way] / "two_heads"))
    images, model = run.split("test"), run.load_model()
    assert len(images) == 2 * 89 + 1
    pixels = np.concatenate(list(images.pixels(89)))
    outputs = {name: value.numpy() for name, value in model(pixels).items()}
    logits = outputs["class"].astype(np.float64)
    class_loss = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(images)), images.labels]).mean()
    shades = pixels.mean(axis=(1, 2, 3)) / 255
    brightness_loss = ((outputs["brightness"][:, 0] - shades) ** 2).mean()
    metrics = run.test_metrics()
    assert metrics["class_loss"] == pytest.approx(class_loss, rel=1e-5)
    assert metrics["brightness_loss"] == pytest.approx(brightness_loss, rel=1e-5)
    assert metrics["loss"] == pytest.approx(0.7 * class_loss + 0.3 * brightness_loss, rel=1e-5)


@pytest.fixture(scope="module")
def half_precision(results: dict[str, pathlib.Path]) -> pathlib.Path:
    folder = results["one"].with_name("half_precision")
    return finished(launch(folder, "none", names=HALF_PRECISION), folder)


@pytest.mark.slow
@pytest.mark.parametrize("way", [{"strategy": "mirrored", "devices": 4}, {"strategy": "multi_worker", "workers": 4}])
def test_four_give_the_results_of_one(
    results: dict[str, pathlib.Path], half_precision: pathlib.Path, way: dict
) -> None:
    folder = results["one"].with_name(f"four_{way['strategy']}")
    finished(launch(folder, **way), folder)
    for name in trainings.TRAININGS:
        alone = half_precision if name in HALF_PRECISION else results["one"]
        one, other = (Run.open(str(each / name)) for each in (alone, folder))
        assert largest_difference(one, other) <= TOLERANCES[name], name


@pytest.mark.slow
def test_workers_skip_a_step_together() -> None:
    # Without the patch of Keras the worker with finite gradients waits forever.
    launched = ["-m", "training.launch", "--workers=2", "--", "tests/training/distributed/overflowing.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *launched], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    # Halved in each of the five steps.
    assert result.stdout.split() == ["scale", "1024.0"] * 2


def test_only_the_chief_prints(results: dict[str, pathlib.Path]) -> None:
    log = pathlib.Path(f"{results['two workers']}.log").read_text()
    assert log.count("Devices: CPU in each of 2 workers") == len(TWO_WORKERS)


def test_another_version_of_keras_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras, "__version__", "3.16.0")
    with pytest.raises(UserError, match="needs Keras 3.15.x.*Received: Keras 3.16.0.*--strategy=none"):
        keras_patches.apply()


def test_a_lost_worker_is_named() -> None:
    first_of_two = Distribution(ALONE.strategy, 0, 2)
    lost = pytest.raises(WorkerLostError, match="worker 1 has ended.*--run_dir=runs/x")
    with lost, first_of_two.explained("runs/x"):
        raise tf.errors.UnavailableError(None, None, "/job:worker/replica:0/task:1 stopped; task:0 noticed")


def test_an_error_of_its_own_is_left_alone() -> None:
    with pytest.raises(tf.errors.UnavailableError), ALONE.explained("runs/x"):
        raise tf.errors.UnavailableError(None, None, "storage")


def test_multi_worker_needs_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="needs TF_CONFIG"):
        strategy.choose(TrainConfig(strategy="multi_worker"))


def test_a_batch_holds_an_image_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="`batch_size` counts .* Received: batch_size=0 for 1 device"):
        strategy.choose(TrainConfig(batch_size=0))


def test_auto_without_gpus_is_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert strategy.choose(TrainConfig()).is_single
