"""Publishes the trained model of a run: as the next SavedModel version for TensorFlow Serving, or as one file."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from typing import TYPE_CHECKING

from absl import flags

import cli
import errors
import startup

if TYPE_CHECKING:
    from training.run import Run

_RUN = flags.DEFINE_string("run", None, "Run folder that train.py wrote, such as runs/NAME.")
_FORMAT = flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "tflite", "onnx"],
    "saved_model: EXPORT_DIR/VERSION/ for TensorFlow Serving, from encoded images to labels. "
    "tflite, onnx: EXPORT_DIR/model.tflite or model.onnx, from pixels in 0-255 to logits.",
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", None, "Folder of the versions, watched by a server. Default: RUN/export."
)
_VERSION = flags.DEFINE_integer("version", None, "Version number, 1 or more. Default: the next one.")
_KEEP_VERSIONS = flags.DEFINE_integer(
    "keep_versions", 0, "Number of versions to keep, the highest ones; others are removed. 0: all."
)
flags.mark_flag_as_required("run")


def main(argv: list[str]) -> None:
    """Reads the flags and exports."""
    if argv[1:]:
        raise errors.UserError(f"export.py takes flags only, such as --run=RUN. Received: {' '.join(argv[1:])}.")
    if _FORMAT.value != "saved_model" and (_VERSION.value is not None or _KEEP_VERSIONS.value):
        raise errors.UserError(
            f"--version and --keep_versions need --format=saved_model. Received: --format={_FORMAT.value}."
        )
    # TensorFlow takes seconds to import; --help and a wrong flag shouldn't wait.
    startup.load_tensorflow()
    from training.run import Run

    run = Run.open(_RUN.value or "")
    print(f"Exporting {run.path} ...", file=sys.stderr, flush=True)
    if _FORMAT.value == "saved_model":
        _publish(run)
    else:
        from serving import other_formats

        with warnings.catch_warnings():
            # Keras 3.15's copy of tf2onnx tries it and works without it; removable when it no longer does.
            warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)
            path = other_formats.export(run, _FORMAT.value, _EXPORT_DIR.value)
        print(f"Wrote {path}")


def _publish(run: Run) -> None:
    from serving.export import SERVER_VERSION, export_run

    path = export_run(run, base=_EXPORT_DIR.value, version=_VERSION.value, keep_versions=_KEEP_VERSIONS.value)
    base, number = os.path.split(path if "://" in path else os.path.abspath(path))
    print(
        f"Published version {number} of {run.config.model} ({len(run.class_names)} classes) in {base}\n"
        f"Serve it with TensorFlow Serving {SERVER_VERSION}:\n"
        f"  MODEL_DIR={shlex.quote(base)} docker compose -f serving/docker-compose.yml up\n"
        "Query it:\n"
        "  python -m serving.client --server=localhost:8500 photos/"
    )


if __name__ == "__main__":
    cli.run(main)
