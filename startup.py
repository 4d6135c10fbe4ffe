"""Importing TensorFlow without its greeting."""

from __future__ import annotations

import os
import sys
import tempfile

# Printed at every start, whatever TF_CPP_MIN_LOG_LEVEL says (tensorflow#100442); removable when a release is silent.
_GREETING = (
    "All log messages before absl::InitializeLog()",
    "oneDNN custom operations are on",
    "Could not find cuda drivers on your machine",
    "failed call to cuInit",
    "This TensorFlow binary is optimized to use available CPU instructions",
)


def load_tensorflow() -> None:
    """Imports TensorFlow and looks for devices; what that prints on stderr is shown but for the usual greeting.

    Messages about GPU libraries that are missing, and errors, still appear.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            _show(caught.read().decode("utf-8", "replace"))


def _show(text: str) -> None:
    lines = [line for line in text.splitlines() if not any(known in line for known in _GREETING)]
    if any(line.strip() for line in lines):
        print("\n".join(lines), file=sys.stderr)
