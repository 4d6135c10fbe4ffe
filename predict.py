"""Says what images show: `python predict.py --run=runs/NAME photo.jpg photos/`.

Exit code: 0 when every image was answered, 1 when some or all were not, 2 when the command itself is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

import cli
import errors
import models
import startup
from data.names import printable
from serving import answers

if TYPE_CHECKING:
    from training.run import Run

_RUN = flags.DEFINE_string("run", None, "Folder of the run that train.py has written, such as runs/NAME.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per step, 1 or more.", lower_bound=1)
answers.define_flags()
flags.adopt_module_key_flags(answers)
flags.mark_flag_as_required("run")


def main(argv: list[str]) -> int:
    """Reads the flags and writes a row for each image; gives the exit code."""
    if not argv[1:]:
        raise errors.UserError("predict.py needs images or folders of them. Example: predict.py --run=RUN photos/.")
    answers.check_flags(flags.FLAGS)
    # TensorFlow takes seconds to import, which --help and a wrong flag shouldn't.
    startup.load_tensorflow()
    from evaluation import prediction_rows
    from training import heads
    from training.run import Run

    run = Run.open(_RUN.value or "")
    paths = prediction_rows.find(argv[1:])
    if not paths:
        raise errors.UserError(f"There must be an image at least. Received no file in: {', '.join(argv[1:])}.")
    further = [head.name for head in heads.further(run.heads)]
    layout = answers.Layout(paths, [printable(name) for name in run.class_names], further)
    return answers.write(_predict(run, paths), layout, flags.FLAGS)


def _predict(run: Run, paths: list[str]) -> Iterator[answers.Row]:
    from data.progress import progress
    from evaluation import prediction_rows, predictions

    answer = predictions.answering(run.load_model(), run.heads)
    channels = models.find(run.config.model).channels
    reader = prediction_rows.Reader(run.config.image_size or 0, channels, run.class_names, len(run.class_names))
    found = reader.rows(paths, answer, _BATCH_SIZE.value)
    rows = (answers.Row(row.path, dict(row.answers), row.further, row.error) for row in found)
    # On a terminal the rows themselves show the progress, and a second line would tear them.
    return rows if sys.stdout.isatty() else progress(rows, len(paths), "predicting")


if __name__ == "__main__":
    cli.run(main)
