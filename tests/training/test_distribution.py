"""Several devices, and several processes, give the numbers of one."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from errors import UserError
from tests.training import trainings
from tests.training.test_exchange import Worker, together
from training import distribution, exchange, follower
from training.agreement import Agreement
from training.config import TrainConfig
from training.distribution import ALONE, Distribution, WorkerLostError
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]

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
    command = ["tests/training/trainings.py", str(folder), strategy, str(devices), *names]
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
    # Without the mending the worker with finite gradients waits forever.
    command = [sys.executable, "-m", "training.launch", "--workers=2", "--", "tests/training/overflowing.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    # Halved in each of the five steps.
    assert result.stdout.split() == ["scale", "1024.0"] * 2


def test_only_the_chief_prints(results: dict[str, pathlib.Path]) -> None:
    log = pathlib.Path(f"{results['two workers']}.log").read_text()
    assert log.count("Devices: CPU in each of 2 workers") == len(TWO_WORKERS)


# In a process of its own, for Keras stays mended.
MENDING = """
import keras
from errors import UserError
from training import keras_multi_worker as k
ours, keras.__version__ = keras.__version__, "3.99.0"
try:
    k.mend()
except UserError as error:
    print(error)
keras.__version__ = ours
print(k.mend(), k.faults(), k.mend())
keras.__version__ = "3.99.0"
print(k.mend())
"""


@pytest.fixture(scope="module")
def mending() -> list[str]:
    command = [sys.executable, "-c", MENDING]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_another_keras_with_the_faults_is_refused(mending: list[str]) -> None:
    assert "Received: Keras 3.99.0" in mending[-3] and "scalar reduction" in mending[-3]


def test_faults_of_keras_are_found_and_mended_once(mending: list[str]) -> None:
    everything = ["symbolic build", "scalar reduction", "loss scaling"]
    assert mending[-2] == f"{everything} [] []"


def test_another_keras_without_them_is_left_alone(mending: list[str]) -> None:
    assert mending[-1] == "[]"


class Pair(Distribution):
    """The chief of two workers; what the other one contributes is given."""

    others: list[np.ndarray]

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values + self.others.pop(0)


def pair(*others: object) -> Pair:
    team = Pair(ALONE.strategy, 0, 2)
    object.__setattr__(team, "others", [np.asarray(other) for other in others])
    return team


def test_a_signal_to_another_worker_stops_this_one_too() -> None:
    agreement = Agreement(pair([0, 0, 1, 0]), seconds=600)
    assert agreement(False, None, False) == (False, 15)


def test_the_chief_decides_when_to_save() -> None:
    agreement = Agreement(pair([0, 0, 0, 0], [0, 0, 0, 0]), seconds=0)
    assert agreement(True, None, False) == (True, None)
    assert agreement(False, None, False) == (False, None)


def test_the_end_of_a_phase_is_always_saved() -> None:
    agreement = Agreement(pair([0, 0, 0, 0], [0, 0, 0, 0]), seconds=600)
    agreement(False, None, False)
    assert agreement(False, None, True) == (True, None)


def test_workers_with_other_images_are_refused() -> None:
    others = np.frombuffer(b"\0\0ac\0\0\0\0", np.int64)
    with pytest.raises(UserError, match="same images.*worker 1"):
        pair([0, 2], others).agree_on("images", b"ab")


@pytest.mark.parametrize(
    "values", [[b"\xff" * 9, b"", b"abc"], [b"", b""], [b"", b"\xff" * (1 + 2**25), b"abc"]], ids=["few", "no", "many"]
)
def test_bytes_reach_every_worker(values: list[bytes]) -> None:
    """More than 32 MiB go in two sums."""

    def work(worker: Worker) -> list[bytes]:
        def sum_of_all(own: np.ndarray) -> np.ndarray:
            return sum(np.frombuffer(each, np.int64) for each in worker.exchange(own.tobytes()))

        return exchange.exchange(values[worker.worker], worker.worker, worker.workers, sum_of_all)

    assert together(work, len(values)) == [values] * len(values)


def test_a_lost_worker_is_named() -> None:
    team = Distribution(ALONE.strategy, 0, 2)
    with pytest.raises(WorkerLostError, match="worker 1 has ended.*--run_dir=runs/x"), team.explained("runs/x"):
        raise tf.errors.UnavailableError(None, None, "/job:worker/replica:0/task:1 stopped; task:0 noticed")


def test_an_error_of_its_own_is_left_alone() -> None:
    with pytest.raises(tf.errors.UnavailableError), ALONE.explained("runs/x"):
        raise tf.errors.UnavailableError(None, None, "storage")


def test_multi_worker_needs_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="needs TF_CONFIG"):
        distribution.choose(TrainConfig(strategy="multi_worker"))


def test_auto_without_gpus_is_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert distribution.choose(TrainConfig()).is_single


def test_the_chief_keeps_its_run_folder() -> None:
    config = TrainConfig(run_dir="runs/x")
    with follower.set_apart(ALONE, config) as own:
        assert own == config


def test_a_follower_copies_what_it_resumes_and_cleans_up(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "state.npz").write_bytes(b"state")
    (tmp_path / ".lock").touch()
    team = dataclasses.replace(ALONE, worker=1)
    with follower.set_apart(team, TrainConfig(run_dir=str(tmp_path), resume=True)) as own:
        copy = pathlib.Path(own.run_dir or "")
        assert (copy / "checkpoint" / "state.npz").read_bytes() == b"state"
        assert not (copy / ".lock").exists()
    assert not copy.exists()
    sys.stdout.close()
