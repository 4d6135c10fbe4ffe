"""Time and memory to shuffle one epoch at the size of ImageNet: `python -m benchmarks.epoch_order`."""

from __future__ import annotations

import multiprocessing
import pathlib
from collections.abc import Callable

from absl import flags

import cli
import startup

_ROWS = flags.DEFINE_integer("rows", 1_281_167, "Number of images.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Repeats of each measurement; the median counts.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Prints one table of milliseconds and one of MB."""
    startup.load_tensorflow()
    from benchmarks.table import as_markdown, machine, measure_side_by_side, seconds_of

    rows = _ROWS.value
    print(" | ".join(machine().values()), "\n")
    orders = _orders(rows)
    for make in orders.values():
        make(0)
    times = {name: lambda make=make: 1000 * seconds_of(lambda: make(1)) for name, make in orders.items()}
    title = f"The order of an epoch of {rows:,} images"
    print(as_markdown(title, "ms", measure_side_by_side(times, _REPEATS.value), compare="ours"))
    # A peak can be measured only in a process that has done nothing else.
    peaks = {name: lambda name=name: _in_a_process(name, rows) for name in orders}
    print(as_markdown(f"{title}, peak memory", "MB", measure_side_by_side(peaks, 1), compare="ours"))


def _orders(rows: int) -> dict[str, Callable[[int], object]]:
    import numpy as np
    import tensorflow as tf

    from data.batches import epoch_order

    def index_shuffle(epoch: int) -> object:
        return tf.random.experimental.index_shuffle(tf.range(rows, dtype=tf.int64), [0, epoch], rows - 1)

    return {
        "ours": lambda epoch: epoch_order(0, epoch, rows),
        "index_shuffle, all rows at once": index_shuffle,
        "NumPy's permutation": lambda epoch: np.random.default_rng([0, epoch]).permutation(rows),
    }


def _in_a_process(name: str, rows: int) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (name, rows))


def _peak(name: str, rows: int) -> float:
    """MB by which the process grows while it makes an order, after a small one has loaded everything (Linux only)."""
    startup.load_tensorflow()
    _orders(1000)[name](0)
    # Resets the peak of the start, which is higher.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = _peak_mb()
    _orders(rows)[name](1)
    return _peak_mb() - before


def _peak_mb() -> float:
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    cli.run(main)
