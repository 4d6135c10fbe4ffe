"""Kills trainings at random moments, resumes them, and compares their last bits: `python -m tests.reliability.kill`.

With `--power_loss` it isn't the process but the disk below it that ends, with all that was not flushed to it.

The table's limit is zero: no run may end with other weights, other history or other test metrics than the run that
nobody disturbed.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags

from cli import exits_with_message
from errors import UserError
from tests.reliability.fingerprint_items import weights
from tests.reliability.power import Disk, mounted

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MOST_KILLS = 4
_LONGEST_STEP_SECONDS = 0.2
_ANYWHERE = 0.2  # Share of the kills that may also fall into the imports and the scan, where nothing is at stake.

_COMMON = (
    *("--data=digits", "--image_size=32", "--batch_size=32", "--deterministic", "--checkpoint_minutes=0"),
    *("--train_fraction=0.2", "--val_fraction=0.05", "--test_fraction=0.05"),
)
_CASES = {
    "squeezenet, dropout, augmented": ("--model=squeezenet", "--augment=full", "--epochs=2", "--learning_rate=1e-3"),
    "lenet5, head, then fine-tuned": (
        *("--model=lenet5", "--freeze", "--epochs=2", "--fine_tune_epochs=2", "--fine_tune_learning_rate=1e-3"),
    ),
    # Most of its time goes to the features.
    "squeezenet, features of two views": (
        *("--model=squeezenet", "--freeze", "--epochs=2", "--augment=basic", "--augmented_views=2"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of one training.

    Attributes:
        case: which training.
        kills: what each kill found: how far the run was.
        is_same: whether weights, history and test metrics are those of the undisturbed run.
        problem: what else went wrong.
    """

    case: str
    kills: tuple[str, ...]
    is_same: bool
    problem: str = ""


def main(argv: list[str]) -> int:
    """Prints a line for each training and the sum; 1 when any differs."""
    options = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        disk = stack.enter_context(mounted(pathlib.Path(folder))) if options.power_loss else None
        trials = list(run(pathlib.Path(folder), disk, options.times, options.seed))
    same = sum(trial.is_same for trial in trials)
    kills = sum(len(trial.kills) for trial in trials)
    others = len(trials) - same
    print(f"{len(trials)} trainings, {kills} kills: {same} end with the same bits, {others} do not (limit: 0).")
    return int(others > 0)


def run(folder: pathlib.Path, disk: Disk | None, times: int, seed: int) -> Iterator[Trial]:
    """Trains each case once undisturbed, then `times` trainings in turn, killed and resumed until they finish."""
    generator = random.Random(seed)
    commands = {case: _command(folder, case) for case in _CASES}
    undisturbed = {case: _undisturbed(folder, commands[case]) for case in _CASES}
    print(f"{'training':>8}  {'case':<32}  {'same bits':<9}  killed at", flush=True)
    for number in range(times):
        case = list(_CASES)[number % len(_CASES)]
        place = (disk.path if disk else folder) / str(number)
        trial = _disturbed(generator, case, commands[case], place, disk, undisturbed[case])
        _remove(place)
        answer = "yes" if trial.is_same else "NO"
        print(f"{number + 1:8}  {case:<32}  {answer:<9}  {'; '.join(trial.kills)} {trial.problem}", flush=True)
        yield trial


def _command(folder: pathlib.Path, case: str) -> list[str]:
    command = [sys.executable, str(_ROOT / "train.py"), *_COMMON, *_CASES[case]]
    if "--freeze" not in command:
        return command
    model = _CASES[case][0].removeprefix("--model=")
    return [*command, f"--weights={_random_weights(folder, model)}"]


def _random_weights(folder: pathlib.Path, model: str) -> pathlib.Path:
    """For this purpose a backbone need not know anything."""
    import keras

    import models

    path = folder / f"{model}.weights.h5"
    keras.utils.set_random_seed(1)
    models.build(model, 10, image_size=32).save_weights(path)
    return path


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """What a training does when nobody kills it.

    Attributes:
        result: fingerprint of what it ends with.
        seconds: from its start to its end.
        saves: checkpoints on the way, one per step and one per batch of features.
    """

    result: str
    seconds: float
    saves: int


def _undisturbed(folder: pathlib.Path, command: list[str]) -> Undisturbed:
    place = folder / "undisturbed"
    start = time.monotonic()
    with _started(command, place) as process:
        saves = _watch(process, place, None)
    if process.returncode:
        raise UserError(f"The training must work undisturbed first. It ended with:\n{_log(place).read_text()}")
    result = Undisturbed(_fingerprint(place), time.monotonic() - start, saves)
    _remove(place)
    return result


def _watch(process: subprocess.Popen, place: pathlib.Path, most: int | None) -> int:
    """Counts the checkpoints until there are `most` new ones or the process ends."""
    saves, last = 0, _stamp(place)
    while process.poll() is None and (most is None or saves < most):
        now = _stamp(place)
        saves, last = saves + (now != last), now
        time.sleep(0.001)
    return saves


def _stamp(place: pathlib.Path) -> int:
    """When something was last saved, of the state or of the features."""
    last = 0
    for path in (*(place / "checkpoint").glob("**/*"), *_features(place)):
        with contextlib.suppress(OSError):
            last = max(last, path.stat().st_mtime_ns)
    return last


def _disturbed(
    generator: random.Random,
    case: str,
    command: list[str],
    place: pathlib.Path,
    disk: Disk | None,
    expected: Undisturbed,
) -> Trial:
    kills: list[str] = []
    while not (place / "test.json").exists():
        resume = ["--resume"] if (place / "config.json").exists() else []
        with _started([*command, *resume], place) as process:
            if len(kills) < _MOST_KILLS and _kill(generator, process, place, disk, expected):
                kills.append(_how_far(place))
                continue
        if process.returncode:
            return Trial(case, tuple(kills), False, f"exit code {process.returncode}: {_log(place).read_text()[-500:]}")
    return Trial(case, tuple(kills), _fingerprint(place) == expected.result)


def _kill(
    generator: random.Random,
    process: subprocess.Popen,
    place: pathlib.Path,
    disk: Disk | None,
    expected: Undisturbed,
) -> bool:
    """Kills at a random step and a random moment within it, or now and then anywhere; False when it came too late."""
    if generator.random() < _ANYWHERE:
        wait = generator.uniform(0, expected.seconds)
    else:
        _watch(process, place, generator.randrange(expected.saves))
        wait = generator.uniform(0, _LONGEST_STEP_SECONDS)
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        if disk:
            disk.lose_power()
        process.kill()
        process.wait()
        if disk:
            disk.restart()
        return True
    return False


def _started(command: list[str], place: pathlib.Path) -> subprocess.Popen:
    # Each training computes its features itself.
    environment = os.environ | {"XDG_CACHE_HOME": str(_cache(place))}
    with open(_log(place), "wb") as log:
        return subprocess.Popen([*command, f"--run_dir={place}"], stdout=log, stderr=log, cwd=_ROOT, env=environment)


def _log(place: pathlib.Path) -> pathlib.Path:
    return place.with_suffix(".log")


def _cache(place: pathlib.Path) -> pathlib.Path:
    return place.with_suffix(".cache")


def _remove(place: pathlib.Path) -> None:
    for folder in (place, _cache(place)):
        shutil.rmtree(folder, ignore_errors=True)


def _how_far(place: pathlib.Path) -> str:
    if (place / "test.json").exists():
        return "after the test"
    if (place / "checkpoint").exists():
        return f"epoch {len(_history(place)) + 1}"
    if _features(place):
        return "features"
    return "before the first checkpoint" if (place / "config.json").exists() else "before the run folder"


def _features(place: pathlib.Path) -> list[pathlib.Path]:
    return list(_cache(place).glob("darkroom/features/**/*"))


def _history(place: pathlib.Path) -> list[dict[str, str]]:
    try:
        with open(place / "history.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def _fingerprint(place: pathlib.Path) -> str:
    """A hash of all arrays of the best model, of the history but for its seconds, and of the test metrics."""
    digest = hashlib.sha256()
    # The bytes of the file also hold names such as adam_1, which count the optimizers that the process has made.
    for name, values in weights(place).items():
        digest.update(f"{name} {values.shape} {values.dtype}".encode() + values.tobytes())
    for row in _history(place):
        digest.update(repr([value for name, value in row.items() if name != "seconds"]).encode())
    digest.update((place / "test.json").read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    flags.DEFINE_integer("times", 50, "Trainings to disturb, 1 or more.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Decides the moments of the kills.")
    flags.DEFINE_bool("power_loss", False, "Cut the power of a disk made for it, as root on Linux.")
    app.run(exits_with_message(main))
