"""Records what small trainings end with, bit for bit, to be compared before and after a refactoring.

    python -m tests.reliability.fingerprints before.json
    python -m tests.reliability.fingerprints after.json --compare=before.json
    python -m tests.reliability.fingerprints after.json --only=csv,workers

Each training is a real command line with a fixed seed and `--deterministic`, followed by `evaluate.py`, `predict.py`
and `export.py`; together they cross all features. Recorded are the weights, splits.csv, test.json, history.csv without
the seconds, the predictions, the report's metrics.json, and the answers of the exported SavedModel. With `--compare`
the trainings of the two files are compared instead where the first file exists; exit code 1 means that one differs.

A tool, not a test. It knows the command lines and the files they write, and imports nothing of the project, so that
the files `fingerprint*.py` can be copied into any version. Only runs on the same machine, with the same packages, give
the same bits. TF_CONFIG must not be set.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from tests.reliability import fingerprint_items, fingerprint_photos
from tests.reliability.fingerprint_compare import compare

ROOT = pathlib.Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "weights" / "squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5"
LAUNCH = ("-m", "training.launch", "--workers=2", "--")

COMMON = (
    *("--deterministic", "--seed=7", "--batch_size=8", "--epochs=3", "--checkpoint_minutes=0"),
    *("--train_fraction=0.6", "--val_fraction=0.2", "--test_fraction=0.2"),
)
_SQUEEZENET = ("--model=squeezenet", "--image_size=48", "--data={folder}/photos")
_AUGMENTED = (*_SQUEEZENET, "--weights=none", "--augment=full", "--learning_rate_schedule=cosine", "--cache=disk")
_LENET = ("--model=lenet5", "--image_size=24", "--learning_rate=1e-3")
# {squeezenet} is a weights file; {NAME} the run folder of the training NAME, which must stand above.
TRAININGS: dict[str, tuple[str, ...]] = {
    "augmented": _AUGMENTED,
    "csv": ("--model=bn_mlp", "--data={folder}/table.csv", "--on_bad_image=skip", "--early_stopping=1"),
    "frozen": (*_SQUEEZENET, "--weights={squeezenet}", "--freeze"),
    "fine_tuned": (
        *("--model=bn_mlp", "--weights={csv}/model.keras", "--data={folder}/photos"),
        *("--freeze", "--fine_tune_epochs=2", "--fine_tune_learning_rate=1e-4", "--early_stopping=2"),
    ),
    "two_heads": (
        *("--model=multitask", "--image_size=16", "--data={folder}/photos"),
        *("--augment=basic", "--loss_weights=class=0.6,brightness=0.4"),
    ),
    "views": (*_SQUEEZENET, "--weights={squeezenet}", "--freeze", "--augment=full", "--augmented_views=2"),
    "tfrecord": (*_LENET, "--data={folder}/records/train-*", "--precision=mixed_bfloat16", "--cache=none"),
    "workers": (*_LENET, "--data={folder}/table.csv", "--on_bad_image=skip", "--augment=basic"),
    # Its items must equal those of `augmented`, whom nobody stops.
    "resumed": _AUGMENTED,
}
# After how many new checkpoints `resumed` is stopped, and how.
STOPS = ((4, signal.SIGKILL), (5, signal.SIGTERM))


def main() -> int:
    """Records or compares; 1 when a comparison finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="JSON file to write; the weights go into an .npz file beside it")
    parser.add_argument("--only", help=f"names of trainings, of {', '.join(TRAININGS)}; default: all")
    parser.add_argument("--compare", type=pathlib.Path, help="JSON file recorded before, to compare OUT with")
    options = parser.parse_args()
    if not (options.compare and options.out.exists()):
        record(options.out, options.only.split(",") if options.only else list(TRAININGS))
    return compare(options.compare, options.out) if options.compare else 0


def record(out: pathlib.Path, names: list[str]) -> None:
    """Runs the trainings two at a time, and writes `out` and the file of their weights beside it."""
    if unknown := set(names) - set(TRAININGS):
        raise SystemExit(f"--only must name trainings of {', '.join(TRAININGS)}. Received: {', '.join(unknown)}.")
    arrays: dict[str, np.ndarray] = {}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor(2) as pool:
        folder = pathlib.Path(temporary).resolve()
        fingerprint_photos.write(folder)
        done: dict[str, concurrent.futures.Future] = {}
        for name in [name for name in TRAININGS if name in _with_needed(names)]:
            done[name] = pool.submit(_run, folder, name, [done[other] for other in _needs(name)])
        for name, future in done.items():
            future.result()
            arrays |= {f"{name}/{path}": values for path, values in fingerprint_items.weights(folder / name).items()}
            results[name] = fingerprint_items.read(folder, name)
            # After each, so that what is there counts when the rest is stopped.
            np.savez_compressed(out.with_suffix(".npz"), **arrays)
            out.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _needs(name: str) -> list[str]:
    return [other for other in TRAININGS if f"{{{other}}}" in " ".join(_arguments(name))]


def _with_needed(names: list[str]) -> set[str]:
    return {*names, *(other for name in names for other in _needs(name))}


def _arguments(name: str) -> list[str]:
    squeezenet = str(PUBLISHED) if PUBLISHED.exists() else "{augmented}/model.keras"
    return [argument.replace("{squeezenet}", squeezenet) for argument in (*TRAININGS[name], *COMMON)]


def _run(folder: pathlib.Path, name: str, needed: list[concurrent.futures.Future]) -> None:
    """All four programs, one after the other."""
    for other in needed:
        other.result()
    run = folder / name
    places = {"{folder}": folder} | {f"{{{other}}}": folder / other for other in TRAININGS}
    arguments = [_filled(argument, places) for argument in _arguments(name)]
    launch = LAUNCH if name == "workers" else ()
    train = [*launch, "train.py", *arguments, f"--run_dir={run}"]
    if name == "resumed":
        for checkpoints, number in STOPS:
            _stop(train, folder, run, checkpoints, number)
            train = [*train, "--resume"] if "--resume" not in train else train
    _call(train, folder, name)
    _call(["evaluate.py", f"--run={run}"], folder, name)
    _call(["predict.py", f"--run={run}", "--format=csv", str(folder / "photos")], folder, name)
    _call(["export.py", f"--run={run}"], folder, name)


def _filled(argument: str, places: dict[str, pathlib.Path]) -> str:
    for word, place in places.items():
        argument = argument.replace(word, str(place))
    return argument


def _call(command: list[str], folder: pathlib.Path, name: str) -> None:
    """Runs one program; its output is kept beside the run folder."""
    start = time.monotonic()
    with _started(command, folder, name) as process:
        code = process.wait()
    program = next(word for word in command if word.endswith(".py"))
    print(f"{name}: {program} took {time.monotonic() - start:.0f} s.", file=sys.stderr, flush=True)
    if code:
        said = _output(folder, name, command).with_suffix(".err").read_text(errors="replace")
        raise SystemExit(f"{' '.join(command)} must end with exit code 0. Received: {code}.\n{said[-3000:]}")


def _started(command: list[str], folder: pathlib.Path, name: str) -> subprocess.Popen:
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / f"{name}.cache")}
    out = _output(folder, name, command)
    with out.open("wb") as said, out.with_suffix(".err").open("wb") as errors:
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=said, stderr=errors)


def _output(folder: pathlib.Path, name: str, command: list[str]) -> pathlib.Path:
    program = next(word for word in command if word.endswith(".py"))
    return folder / f"{name}.{program.removesuffix('.py')}.out"


def _stop(command: list[str], folder: pathlib.Path, run: pathlib.Path, checkpoints: int, number: int) -> None:
    """Sends the signal `number` after so many new checkpoints."""
    last, seen = _stamp(run), 0
    with _started(command, folder, run.name) as process:
        while seen < checkpoints and process.poll() is None:
            now = _stamp(run)
            seen, last = seen + (now != last), now
            time.sleep(0.005)
        process.send_signal(number)
        code = process.wait()
    if code not in (-number, 128 + number):
        raise SystemExit(f"{run.name} must be ended by {signal.Signals(number).name}. Received: exit code {code}.")


def _stamp(run: pathlib.Path) -> int:
    """When the checkpoint changed."""
    times = [0]
    for path in (run / "checkpoint").glob("**/*"):
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:  # It took its last name in this moment.
            continue
    return max(times)


if __name__ == "__main__":
    sys.exit(main())
