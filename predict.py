"""Classifies images: `python predict.py --run=runs/NAME photo.jpg photos/`.

Exit code: 0 if every image was classified, 1 if any was not, 2 if the command is wrong.
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
    import keras

    from training.run import Run

_RUN = flags.DEFINE_string("run", None, "Run folder that train.py wrote, such as runs/NAME.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per step, 1 or more.", lower_bound=1)
answers.define_flags()
flags.adopt_module_key_flags(answers)
flags.mark_flag_as_required("run")


def main(argv: list[str]) -> int:
    """Reads the flags and writes a row per image; returns the exit code."""
    if not argv[1:]:
        raise errors.UserError("predict.py needs images or folders of them. Example: predict.py --run=RUN photos/.")
    answers.check_flags(flags.FLAGS)
    # TensorFlow takes seconds to import; --help and a wrong flag shouldn't wait.
    startup.load_tensorflow()
    from data.progress import progress
    from evaluation import predictions
    from training import heads
    from training.run import Run

    run = Run.open(_RUN.value or "")
    paths = predictions.find_files(argv[1:])
    if not paths:
        raise errors.UserError(f"There must be at least one image. Received no file in: {', '.join(argv[1:])}.")
    further = [head.name for head in heads.further(run.heads)]
    layout = answers.Layout(paths, [printable(name) for name in run.class_names], further)
    rows = _rows(run, run.load_model(), layout)
    # On a terminal the rows show the progress, and a progress line would break into them.
    return answers.write(rows if sys.stdout.isatty() else progress(rows, len(paths), "predicting"), layout, flags.FLAGS)


def _rows(run: Run, model: keras.Model, layout: answers.Layout) -> Iterator[answers.Row]:
    from evaluation import predictions

    found = predictions.of_files(
        layout.images,
        predictions.answering(model, run.heads),
        image_size=run.config.image_size or 0,
        channels=models.find(run.config.model).channels,
        batch_size=_BATCH_SIZE.value,
    )
    for path, answer, error in found:
        if error:
            yield answers.Row(path, error=error)
        else:
            probabilities = answers.ranked(layout.class_names, answer["probabilities"])
            yield answers.Row(path, probabilities, {name: answer[name] for name in layout.further})


if __name__ == "__main__":
    cli.run(main)
