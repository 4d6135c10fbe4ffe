"""Starts the workers of a training on this machine: `python -m training.launch --workers=4 -- train.py ...`.

For tests and small servers. Each process gets a TF_CONFIG with free ports of this machine; on a machine with GPUs each
gets its share of them. When one process fails, the others are ended too.
"""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from absl import flags

import cli
import errors
from training.distributed.cluster import Worker

_WORKERS = flags.DEFINE_integer("workers", 2, "Processes to start, 1 or more.", lower_bound=1, upper_bound=1024)
_GRACE_SECONDS = flags.DEFINE_float(
    "grace_seconds", 30.0, "After a process has failed, seconds for the others to end by themselves.", lower_bound=0.0
)
_POLL_SECONDS = 0.1


def main(argv: list[str]) -> int:
    """Runs the command after `--` in every worker; returns the exit code of the first that failed, or 0."""
    command = argv[1:]
    if not command or not command[0].endswith(".py"):
        raise errors.UserError(
            "training.launch needs the script to run after two dashes, such as `python -m training.launch --workers=4 "
            f"-- train.py --data=photos/`. Received: {' '.join(command) or 'none'}."
        )
    workers = on_this_machine(_WORKERS.value)
    processes = [
        subprocess.Popen([sys.executable, *command], env={**os.environ, "TF_CONFIG": worker.tf_config(), **gpus})
        for worker, gpus in zip(workers, gpus_of_each(_WORKERS.value), strict=True)
    ]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _: _send_signal(processes, received))
    return wait(processes, _GRACE_SECONDS.value)


def on_this_machine(workers: int) -> list[Worker]:
    """The workers of a cluster of `workers` processes, at ports that are free now."""
    with contextlib.ExitStack() as sockets:
        # All stay open until the last is found, or one port could be given twice.
        servers = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(workers)]
        addresses = tuple(f"127.0.0.1:{server.getsockname()[1]}" for server in servers)
    return [Worker(addresses, index) for index in range(workers)]


def gpus_of_each(workers: int) -> list[dict[str, str]]:
    """The environment variables that give each worker its share of the GPUs; empty on a machine without GPUs.

    Raises:
        UserError: there are fewer GPUs than workers.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [path.removeprefix("/dev/nvidia") for path in sorted(glob.glob("/dev/nvidia[0-9]*"))]
    gpus = [name for name in visible.split(",") if name] if visible is not None else names
    if not gpus:
        return [{}] * workers
    each = len(gpus) // workers
    if each == 0:
        raise errors.UserError(
            f"--workers must be at most {len(gpus)}, the GPUs of this machine: two workers can't share a GPU. "
            f"Received: --workers={workers}. On one machine --strategy=mirrored uses all of them in one process."
        )
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * each : (i + 1) * each])} for i in range(workers)]


def wait(processes: list[subprocess.Popen], grace_seconds: float) -> int:
    """Waits until all processes have ended, at most `grace_seconds` longer than the first failure.

    Returns:
        the exit code of the first that failed, 128 + N for one ended by signal N; 0 when none did.
    """
    first_failure, deadline = 0, float("inf")
    # A list, since `any` alone would poll no further than the first that runs.
    while None in [process.poll() for process in processes]:
        for worker, process in enumerate(processes):
            if process.returncode and not first_failure:
                first_failure, deadline = process.returncode, time.monotonic() + grace_seconds
                _report(worker, process.returncode, grace_seconds)
        if time.monotonic() > deadline:
            _send_signal(processes, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
    code = first_failure or next((process.returncode for process in processes if process.returncode), 0)
    return code if code >= 0 else 128 - code


def _report(worker: int, code: int, grace_seconds: float) -> None:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    print(f"Worker {worker} {how}. The others get {grace_seconds:g} seconds to end.", file=sys.stderr, flush=True)


def _send_signal(processes: list[subprocess.Popen], number: Any) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


if __name__ == "__main__":
    cli.run(main)
