"""Compares a server's answers with a run's own: `python -m serving.check --run=RUN --server=localhost:8500`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

import cli
import errors
import startup
from data.progress import progress
from errors import UserError
from serving import client
from serving.wire import Metadata

if TYPE_CHECKING:
    from training.run import Run

_LISTED = 5


def define_flags() -> None:
    """Defines the flags of the check."""
    client.define_server_flags()
    flags.DEFINE_string("run", None, "Folder of the run whose export the server should have.", required=True)
    flags.DEFINE_integer("limit", 0, "How many of the test images to compare, from the first. 0: all.", lower_bound=0)
    flags.DEFINE_float(
        "tolerance", 1e-5, "Largest difference between two probabilities, in 0-1.", lower_bound=0.0, upper_bound=1.0
    )


def main(argv: list[str]) -> int:
    """Prints the largest difference; returns 1 when it is above the tolerance, else 0."""
    if argv[1:]:
        raise UserError(f"serving.check takes flags only, such as --run=runs/NAME. Received: {' '.join(argv[1:])}.")
    options = flags.FLAGS
    server, patience = client.connect(options)
    served = client.metadata(server, patience)
    # TensorFlow takes seconds to import, which --help and a wrong address needn't wait for.
    startup.load_tensorflow()
    from training.run import Run

    run = Run.open(options.run)
    check_same(served, run)
    differences = compare(
        run, lambda images: client.classify(server, images, patience), options.batch_size, options.limit
    )
    return report(differences, options.tolerance)


def check_same(served: Metadata, run: Run) -> None:
    """Raises `UserError` unless the served model has the classes and the image size of `run`."""
    from serving.export import describe

    own = describe(run)
    if (served.class_names, served.image_size) != (own.class_names, own.image_size):
        raise UserError(
            f"The server must have the model of {run.path}: {_summary(own)}. Received: {_summary(served)}, from the "
            f"run {served.run or 'unknown'}. Check --run, --server and --model_name."
        )


def compare(
    run: Run, ask: Callable[[list[bytes]], list[client.Answer]], batch_size: int, limit: int = 0
) -> dict[str, float]:
    """The largest difference between the run's and the server's probabilities for each test image, by address.

    Args:
        run: the run, with its test split and its best model.
        ask: returns the server's answers to encoded images; a refused image counts as infinitely different.
        batch_size: images per request.
        limit: number of images; 0 for all.
    """
    import tensorflow as tf

    from serving.export import describe
    from serving.signatures import Signatures

    split = run.split("test")
    count = min(limit or len(split), len(split))
    answer = tf.function(Signatures(run.load_model(), describe(run)).pixels, reduce_retracing=True)
    batches = zip(range(0, count, batch_size), split.pixels(batch_size), strict=False)
    differences = {}
    for start, pixels in progress(batches, -(-count // batch_size), "comparing (requests)"):
        stop = min(start + batch_size, count)
        own = answer(pixels)["probabilities"].numpy().tolist()
        served = ask([split.encoded(i) for i in range(start, stop)])
        for address, theirs, ours in zip(split.addresses[start:stop], served, own, strict=False):
            differences[address] = _difference(theirs, ours)
    return differences


def report(differences: dict[str, float], tolerance: float) -> int:
    """Prints what `compare` found; returns 1 when a difference is above `tolerance`, else 0."""
    wrong = {address: value for address, value in differences.items() if not value <= tolerance}
    print(f"{errors.counted(len(differences), 'test image')}, largest difference {max(differences.values()):.1e}")
    if not wrong:
        print(f"The server answers as the run does, within {tolerance:g}.")
        return 0
    print(f"More than {tolerance:g}, in {errors.counted(len(wrong), 'image')}:")
    for address in sorted(wrong, key=lambda address: -wrong[address])[:_LISTED]:
        print(f"  {address}: {'refused' if math.isinf(wrong[address]) else f'{wrong[address]:.1e}'}")
    return 1


def _summary(about: Metadata) -> str:
    return f"{len(about.class_names)} classes ({', '.join(about.class_names[:5])}), {about.image_size} px"


def _difference(served: client.Answer, own: list[float]) -> float:
    if served.error or len(served.probabilities) != len(own):
        return math.inf
    return max(abs(a - b) for a, b in zip(served.probabilities, own, strict=True))


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(client)
    cli.run(main)
