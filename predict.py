"""Says what pictures show: `python predict.py --run=runs/NAME photo.jpg photos/`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from absl import flags

import errors
import models
import startup

if TYPE_CHECKING:
    from evaluation.prediction_rows import Row
    from training.run import Run

_RUN = flags.DEFINE_string("run", None, "Folder of the run that train.py has written, such as runs/NAME.")
_FORMAT = flags.DEFINE_enum(
    "format", "table", ["table", "csv", "json"], "table: for people; csv: with a header; json: a list of objects."
)
_TOP_K = flags.DEFINE_integer(
    "top_k",
    None,
    "Most probable classes to name for each picture. Default: 1 for up to 5 classes, else 3.",
    lower_bound=1,
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Pictures a step, 1 or more.", lower_bound=1)
flags.mark_flag_as_required("run")

# A single long path should not push all answers out of sight.
_LONGEST_PATH = 100


def main(argv: list[str]) -> int:
    """Reads the flags and writes a row for each picture to stdout; exit code 1 when none of them could be read."""
    if not argv[1:]:
        raise errors.UserError("predict.py needs pictures or folders of them. Example: predict.py --run=RUN photos/.")
    # TensorFlow takes seconds to import, which --help and a wrong flag shouldn't.
    startup.load_tensorflow()
    from evaluation import prediction_rows
    from training.run import Run

    run = Run.open(_RUN.value or "")
    paths = prediction_rows.find(argv[1:])
    if not paths:
        raise errors.UserError(f"There must be a picture at least. Received no file in: {', '.join(argv[1:])}.")
    broken = _write(_predict(run, paths), paths, run)
    if broken:
        print(f"{broken:,} of {len(paths):,} files could not be read.", file=sys.stderr)
    return 1 if broken == len(paths) else 0


def _predict(run: Run, paths: list[str]) -> Iterator[Row]:
    from data.progress import progress
    from evaluation import prediction_rows, predictions

    answer = predictions.answering(run.load_model())
    channels = models.find(run.config.model).channels
    reader = prediction_rows.Reader(run.config.image_size or 0, channels, run.class_names, _top_k(run))
    rows = reader.rows(paths, answer, _BATCH_SIZE.value)
    # On a terminal the rows themselves show the progress, and a second line would tear them.
    return rows if sys.stdout.isatty() else progress(rows, len(paths), "predicting")


def _top_k(run: Run) -> int:
    classes = len(run.class_names)
    return min(_TOP_K.value or (1 if classes <= 5 else 3), classes)


def _write(rows: Iterable[Row], paths: list[str], run: Run) -> int:
    """Writes each row as soon as it is known and gives the number of broken files."""
    # Names of classes and files can be in any script, wherever the output goes.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    writers: dict[str, Callable] = {"table": _write_table, "csv": _write_csv, "json": _write_json}
    broken = 0

    def counted() -> Iterator[Row]:
        nonlocal broken
        for row in rows:
            broken += bool(row.error)
            yield row

    writers[_FORMAT.value](counted(), paths, run)
    sys.stdout.flush()
    return broken


def _write_table(rows: Iterable[Row], paths: list[str], run: Run) -> None:
    widths = [min(max(map(len, paths)), _LONGEST_PATH), *[max(11, *map(len, run.class_names)), 11] * _top_k(run)]
    widths += [10] if _has_brightness(run) else []
    print(_line(_header(run), widths))
    for row in rows:
        print(_line(_cells(row, run, "{:6.1%}"), widths))


def _write_csv(rows: Iterable[Row], paths: list[str], run: Run) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_header(run))
    writer.writerows(_cells(row, run, "{:.6f}") for row in rows)


def _write_json(rows: Iterable[Row], paths: list[str], run: Run) -> None:
    """One object a line inside the list, so that nothing is held back."""
    for number, row in enumerate(rows):
        answers = [{"label": label, "probability": probability} for label, probability in row.answers]
        brightness = {"brightness": row.brightness} if _has_brightness(run) else {}
        item = {"picture": row.path, "answers": answers, **brightness, "error": row.error or None}
        sys.stdout.write("[\n" if number == 0 else ",\n")
        sys.stdout.write(json.dumps(item, ensure_ascii=False))
    print("\n]")


def _header(run: Run) -> list[str]:
    numbers = ["", *(f"_{k}" for k in range(2, _top_k(run) + 1))]
    answers = [f"{name}{number}" for number in numbers for name in ("label", "probability")]
    return ["picture", *answers, *(["brightness"] if _has_brightness(run) else []), "error"]


def _cells(row: Row, run: Run, form: str) -> list[str]:
    answers = [cell for label, probability in row.answers for cell in (label, form.format(probability))]
    blanks = [""] * (2 * _top_k(run) - len(answers))
    brightness = "" if row.brightness is None else f"{row.brightness:.3f}"
    return [row.path, *answers, *blanks, *([brightness] if _has_brightness(run) else []), row.error]


def _line(cells: list[str], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join([*padded, cells[-1]]).rstrip()


def _has_brightness(run: Run) -> bool:
    return "brightness" in models.find(run.config.model).heads


if __name__ == "__main__":
    errors.run(main)
