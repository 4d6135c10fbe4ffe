"""Gives `predict.py`'s reader mutated images: `python -m tests.reliability.mutants --data=photos/ --images=10000`.

Every file gets a label or an error of its own, and memory doesn't grow. One table: what was done to the images, how
many got a label, how many an error.
"""

from __future__ import annotations

import csv
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import psutil
from absl import app, flags

from cli import exits_with_message
from errors import UserError

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HEADER_BYTES = 64
# The half with which memory is compared has loaded TensorFlow, traced the network and filled every thread's arena.
_WARM_SHARE = 0.5
_LARGEST_GROWTH = 0.05

_Mutation = Callable[[random.Random, bytearray], bytes]


def _bytes_changed(generator: random.Random, content: bytearray, end: int) -> bytes:
    for _ in range(generator.randint(1, 8)):
        content[generator.randrange(min(end, len(content)))] = generator.randrange(256)
    return bytes(content)


MUTATIONS: dict[str, _Mutation] = {
    "nothing": lambda generator, content: bytes(content),
    "header changed": lambda generator, content: _bytes_changed(generator, content, _HEADER_BYTES),
    "body changed": lambda generator, content: _bytes_changed(generator, content, len(content)),
    "cut off": lambda generator, content: bytes(content[: generator.randrange(len(content))]),
    "a piece left out": lambda generator, content: bytes(
        content[: (place := generator.randrange(len(content)))] + content[place + generator.randint(1, 300) :]
    ),
    "a piece put in": lambda generator, content: bytes(
        content[: (place := generator.randrange(len(content)))] + generator.randbytes(50) + content[place:]
    ),
    "noise behind it": lambda generator, content: bytes(content) + generator.randbytes(200),
    "noise instead": lambda generator, content: generator.randbytes(generator.randrange(400)),
}


def main(argv: list[str]) -> int:
    """Prints the table; 1 when a file is without an answer or memory has grown."""
    options = flags.FLAGS
    originals = [path.read_bytes() for path in _images(options.data)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        run = _train(folder)
        kinds = write(pathlib.Path(folder, "mutants"), originals, options.images, options.seed)
        answers, growth = _predict(run, pathlib.Path(folder, "mutants"))
    wrong = report(kinds, answers)
    print(f"Resident memory in the second half: {growth:+.1%} (limit: {_LARGEST_GROWTH:+.0%}).")
    return int(wrong or growth > _LARGEST_GROWTH)


def write(place: pathlib.Path, originals: list[bytes], count: int, seed: int) -> dict[str, str]:
    """Writes `count` mutated images below `place`, the same for the same seed; gives what was done to each."""
    generator = random.Random(seed)
    place.mkdir()
    kinds = {}
    for number in range(count):
        kind = generator.choice(list(MUTATIONS))
        name = f"{number:06d}.jpg"
        content = MUTATIONS[kind](generator, bytearray(generator.choice(originals)))
        (place / name).write_bytes(content)
        kinds[name] = kind
    return kinds


def report(kinds: dict[str, str], answers: dict[str, dict[str, str]]) -> int:
    """Prints how many of each kind got a label and how many an error; gives how many got neither or both."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, kind in kinds.items():
        answer = answers.get(name, {"label": "", "error": ""})
        outcome = "wrong" if bool(answer["label"]) == bool(answer["error"]) else "label" if answer["label"] else "error"
        counts[kind, outcome] += 1
    print(f"{'mutation':<18}{'label':>8}{'error':>8}{'neither':>9}")
    for kind in MUTATIONS:
        print(f"{kind:<18}{counts[kind, 'label']:>8}{counts[kind, 'error']:>8}{counts[kind, 'wrong']:>9}")
    return sum(count for (_, outcome), count in counts.items() if outcome == "wrong")


def _images(data: str) -> list[pathlib.Path]:
    """Also images of the other formats, made from the first of the folder."""
    found = sorted(path for path in pathlib.Path(data).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not found:
        raise UserError(f"--data must be a folder of .jpg or .png images. Received: --data={data}, which has none.")
    return found[:: max(1, len(found) // 200)]


def _train(folder: str) -> str:
    run = os.path.join(folder, "run")
    command = [
        sys.executable,
        str(_ROOT / "train.py"),
        "--data=digits",
        "--model=lenet5",
        "--epochs=1",
        "--batch_size=256",
    ]
    subprocess.run([*command, f"--run_dir={run}"], check=True, capture_output=True)
    return run


def _predict(run: str, place: pathlib.Path) -> tuple[dict[str, dict[str, str]], float]:
    """The rows of `predict.py` by file name, and by how much its memory has grown in the second half."""
    command = [sys.executable, str(_ROOT / "predict.py"), f"--run={run}", "--format=csv", str(place)]
    # Not a pipe, which the decoders' complaints would fill.
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
        with subprocess.Popen(command, stdout=said, stderr=told) as process:
            sizes = _watch(process)
        for file in (said, told):
            file.seek(0)
        if process.returncode not in (0, 1):
            raise UserError(f"predict.py ended with exit code {process.returncode}: {told.read()[-2000:]}")
        rows = {os.path.basename(row["image"]): row for row in csv.DictReader(said)}
    warm = sizes[int(_WARM_SHARE * len(sizes)) :]
    tenth = max(1, len(warm) // 10)
    return rows, max(warm[-tenth:]) / max(warm[:tenth]) - 1


def _watch(process: subprocess.Popen) -> list[int]:
    sizes = []
    while process.poll() is None:
        try:
            sizes.append(psutil.Process(process.pid).memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.1)
    process.wait()
    return [size for size in sizes if size] or [1]


if __name__ == "__main__":
    flags.DEFINE_string("data", None, "Folder of the images to mutate.", required=True)
    flags.DEFINE_integer("images", 10_000, "How many mutated images.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Decides the mutations.")
    app.run(exits_with_message(main))
