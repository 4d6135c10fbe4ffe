"""Trains models for many epochs and watches memory and open files: `python -m tests.reliability.endurance`.

One table a model: resident memory and open files at five moments. The limits: memory within 5 %, not one file more.
"""

from __future__ import annotations

import csv
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
from absl import app, flags

import models
from cli import exits_with_message
from errors import UserError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_IMAGE_SIZE = 32
_LARGEST_GROWTH = 0.05
# By then TensorFlow has traced everything and every thread has had its first turn.
_WARM_SHARE = 0.1


def main(argv: list[str]) -> int:
    """Prints a table a model; 1 when memory or open files have grown for any."""
    specs = [models.find(name) for name in flags.FLAGS.models]
    return max(_endures(spec, flags.FLAGS.epochs) for spec in specs)


def _endures(spec: models.ModelSpec, epochs: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        place = os.path.join(folder, "run")
        samples = _samples(spec, place, epochs)
        _check(place, epochs)
    print(f"{spec.name}, {epochs} epochs")
    return report(samples, epochs)


def report(samples: list[tuple[int, int, int]], epochs: int) -> int:
    """Prints (epoch, bytes of resident memory, open files) at five moments; 1 when the last exceed the first."""
    # After the last epoch comes the test, which has other batches and files.
    warm = [sample for sample in samples if _WARM_SHARE * epochs <= sample[0] < epochs]
    print(f"{'epoch':>6}{'memory, MB':>12}{'open files':>12}")
    for i in range(5):
        epoch, memory, files = warm[i * (len(warm) - 1) // 4]
        print(f"{epoch:6}{memory / 1e6:12.1f}{files:12}")
    fifth = max(1, len(warm) // 5)
    # A sample may fall into the writing of a checkpoint; a leak would raise the fewest files and the median memory too.
    first, last = warm[:fifth], warm[-fifth:]
    growth = (
        statistics.median(memory for _, memory, _ in last) / statistics.median(memory for _, memory, _ in first) - 1
    )
    more = min(files for *_, files in last) - min(files for *_, files in first)
    print(
        f"Growth: memory {growth:+.1%} (limit: {_LARGEST_GROWTH:+.0%}), open files {more:+} (limit: +0).\n", flush=True
    )
    return int(growth > _LARGEST_GROWTH or more > 0)


def _samples(spec: models.ModelSpec, place: str, epochs: int) -> list[tuple[int, int, int]]:
    command = [sys.executable, str(_ROOT / "train.py"), f"--model={spec.name}", "--data=digits"]
    command += [f"--image_size={max(spec.min_image_size, _IMAGE_SIZE)}", "--weights=none"]
    command += ["--train_fraction=0.1", "--val_fraction=0.05", "--test_fraction=0.05", "--learning_rate=1e-4"]
    command += [f"--epochs={epochs}", f"--run_dir={place}", "--checkpoint_minutes=0.05", "--augment=full"]
    samples = []
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                samples.append((_epoch(place), watched.memory_info().rss, watched.num_fds()))
            except psutil.Error:
                break
            time.sleep(0.05)
        if process.wait():
            log.seek(0)
            raise UserError(f"The training ended with exit code {process.returncode}: {log.read()[-2000:]}")
    # A process that is just ending has neither memory nor files any more.
    return [sample for sample in samples if sample[1]]


def _epoch(place: str) -> int:
    try:
        with open(os.path.join(place, "history.csv"), encoding="utf-8") as file:
            return sum(1 for _ in file) - 1
    except OSError:
        return 0


def _check(place: str, epochs: int) -> None:
    with open(os.path.join(place, "history.csv"), newline="", encoding="utf-8") as file:
        numbers = [int(row["epoch"]) for row in csv.DictReader(file)]
    if numbers != list(range(1, epochs + 1)) or not os.path.getsize(os.path.join(place, "curves.png")):
        raise UserError(f"history.csv must have a row for each of {epochs} epochs. Received: {len(numbers)} rows.")


if __name__ == "__main__":
    flags.DEFINE_list("models", ["lenet5"], "Networks to train, one after the other.")
    flags.DEFINE_integer("epochs", 200, "Epochs to train, 20 or more.", lower_bound=20)
    app.run(exits_with_message(main))
