"""Evaluates a trained run and writes its report: `python evaluate.py --run=runs/NAME`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from absl import flags

import cli
import errors
import startup

if TYPE_CHECKING:
    from evaluation.subject import Subject
    from training.run import Run

_RUN = flags.DEFINE_string("run", None, "Run folder that train.py wrote, such as runs/NAME.")
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Where the images are: a folder with one sub-folder per class, a .csv of path,label, a TensorFlow Datasets name, "
    "or digits. Evaluates the run's own test split if its images have moved there unchanged, else all images there, "
    "with classes matched by name. Default: the run's test split, where it was.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "With --data=NAME: folder of prepared TensorFlow Datasets.")
_EXPORT = flags.DEFINE_string(
    "export", None, "SavedModel to evaluate instead of the run's model: a version's folder, or the folder of versions."
)
_COMPARE = flags.DEFINE_boolean("compare", False, "Compare the runs that follow: evaluate.py --compare RUN RUN ...")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images per step, 1 or more.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Reads the flags, evaluates, prints the numbers and the path of the report."""
    _check(argv[1:])
    # TensorFlow takes seconds to import; --help and a wrong flag shouldn't wait.
    startup.load_tensorflow()
    from training.run import Run

    if _COMPARE.value:
        _compare([Run.open(path) for path in argv[1:]])
    else:
        _evaluate(Run.open(_RUN.value or ""))


def _check(positional: list[str]) -> None:
    if not _COMPARE.value and positional:
        raise errors.UserError(
            f"Runs must be given by --run=FOLDER, or after --compare. Received: {' '.join(positional)}."
        )
    if _COMPARE.value and (_RUN.value or _DATA.value or _EXPORT.value or len(positional) < 2):
        raise errors.UserError(
            "--compare takes two or more run folders, and none of --run, --data and --export. "
            f"Received {errors.counted(len(positional), 'folder')}. Example: evaluate.py --compare runs/A runs/B."
        )
    if not _COMPARE.value and not _RUN.value:
        raise errors.UserError("evaluate.py needs --run=FOLDER, or --compare RUN RUN ... Received neither.")


def _evaluate(run: Run) -> None:
    from evaluation import assessment, predictions, report, subject
    from models import saved_models

    model = run.load_model()
    if _EXPORT.value:
        network = saved_models.newest(_EXPORT.value)
        predictor = predictions.from_saved_model(network, run.heads)
    else:
        network, predictor = "model.keras", predictions.from_model(model, run.heads)

    if _DATA.value:
        images = subject.subject_in(run, _DATA.value, _DATA_DIR.value, network)
    else:
        images = subject.own_test_split(run, network)

    assessed = assessment.assess(images, predictor, _BATCH_SIZE.value)
    print(report.summary(assessed))
    print(f"\nReport: {report.write(assessed, model, _folder(images))}")
    if images.is_own and not _EXPORT.value:
        print(f"Model card: {report.write_card(assessed)}")


def _folder(subject: Subject) -> str:
    """The report's folder: RUN/report, or one below it for other images or a SavedModel."""
    others = [] if subject.is_own else [("data", _DATA.value or "")]
    others += [("export", subject.network)] if _EXPORT.value else []
    names = [f"{kind}-{os.path.basename(os.path.abspath(path))}" for kind, path in others]
    return os.path.join(subject.run.file("report"), *([re.sub(r"[^\w-]+", "-", "-".join(names))] if names else []))


def _compare(runs: list[Run]) -> None:
    from evaluation import compare

    comparison = compare.compare(runs, _BATCH_SIZE.value)
    print(compare.text(comparison))
    print(f"\nReport: {compare.write(comparison, runs[0].file('report'))}")


if __name__ == "__main__":
    cli.run(main)
