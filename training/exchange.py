"""Bytes from every worker to every worker, by sums, the one thing that all strategies can do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# 32 MiB at a time, in numbers of 8 bytes.
_LARGEST = 1 << 22


def exchange(own: bytes, worker: int, workers: int, sum_of_all: Callable[[np.ndarray], np.ndarray]) -> list[bytes]:
    """Every worker's bytes, in the order of the workers; all must call this together.

    Args:
        own: what this worker gives.
        worker: its index.
        workers: how many there are.
        sum_of_all: gives the sum of all workers' int64 arrays of one shape.
    """
    sizes = np.zeros(workers, np.int64)
    sizes[worker] = len(own)
    ends = np.cumsum(sum_of_all(sizes))
    # Each writes where the others have zeros, so no byte of the sum carries into the next.
    everything = np.zeros(-(-int(ends[-1]) // 8), np.int64)
    end = int(ends[worker])
    everything.view(np.uint8)[end - len(own) : end] = np.frombuffer(own, np.uint8)
    for first in range(0, len(everything), _LARGEST):
        everything[first : first + _LARGEST] = sum_of_all(everything[first : first + _LARGEST])
    content = everything.tobytes()
    return [content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
