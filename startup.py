"""Imports TensorFlow without the messages of every start and those that the program reports itself.

Run as a script, this file copies its standard input without such lines.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

_QUIET = (
    # Printed at every start, whatever TF_CPP_MIN_LOG_LEVEL is (tensorflow#100442); removable once a release is silent.
    b"All log messages before absl::InitializeLog()",
    b"oneDNN custom operations are on",
    b"Could not find cuda drivers on your machine",
    b"failed call to cuInit",
    b"This TensorFlow binary is optimized to use available CPU instructions",
    # libjpeg's, without the file's name. The scan reports files that can't be decoded.
    b"Corrupt JPEG data: ",
    b"Premature end of JPEG ",
    b"Improper call to JPEG library ",
)
_LAST_LINES_SECONDS = 2.0


def load_tensorflow() -> None:
    """Imports TensorFlow and lists its devices; its C++ messages are shown, except routine ones."""
    if "tensorflow" in sys.modules:
        return
    # Read when the C++ library is loaded; 2 shows errors only.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _filter_messages()
    import tensorflow as tf

    tf.config.list_physical_devices()


def lazy(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562) for names in modules that need TensorFlow, which takes seconds to import.

    Args:
        package: its name.
        names: from each name to its `MODULE:NAME`.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        load_tensorflow()
        module, attribute = names[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    return get


@functools.cache
def _filter_messages() -> None:
    """Pipes descriptor 2 through another process, which shows the last messages before a crash, too."""
    sys.stderr.flush()
    stderr = os.dup(2)
    reading, writing = os.pipe()
    # If no process can be started, the messages are shown unfiltered.
    with contextlib.suppress(OSError):
        process = subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=reading, stdout=stderr)
        os.dup2(writing, 2)
        atexit.register(_end, process, stderr)
    os.close(reading)
    os.close(writing)


def _end(process: subprocess.Popen, stderr: int) -> None:
    os.dup2(stderr, 2)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_LINES_SECONDS)


def _pass_on() -> None:
    # It must outlive the process that it reads from.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        if not any(known in line for known in _QUIET):
            with contextlib.suppress(OSError):
                os.write(1, line)


if __name__ == "__main__":
    _pass_on()
