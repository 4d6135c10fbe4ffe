"""Writes answers to standard output, the same for `predict.py` and the client: a table, CSV or JSON."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from absl import flags

import tables
from data.names import printable
from errors import UserError

# So that one long path doesn't push all answers out of sight.
_LONGEST_PATH = 100


@dataclass(frozen=True)
class Row:
    """The answer to one image.

    Attributes:
        image: its path, as it was given or found.
        probabilities: in 0-1 by class name, the most probable first; empty with an error.
        further: the values of the model's other heads, by name; empty with an error.
        error: why there is no answer; empty when there is one.
    """

    image: str
    probabilities: Mapping[str, float] = field(default_factory=dict)
    further: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Layout:
    """What must be known before the first row is written.

    Attributes:
        images: the paths of all images, in the order of their rows.
        class_names: of the model, in index order.
        further: names of the model's other heads, each a column.
    """

    images: Sequence[str]
    class_names: Sequence[str]
    further: Sequence[str] = ()


def ranked(class_names: Sequence[str], probabilities: Sequence[float]) -> dict[str, float]:
    """Probabilities by class name, the highest first; equal ones in the order of the classes."""
    pairs = zip(class_names, map(float, probabilities), strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def define_flags() -> None:
    """Defines the flags that say how to write answers."""
    flags.DEFINE_enum(
        "format",
        "table",
        ["table", "csv", "json"],
        "table: for people; csv: a header, and a column for each class; json: a list with an object for each image.",
    )
    flags.DEFINE_integer(
        "top_k",
        None,
        "Most probable classes to name for each image in the table; csv and json hold all of them. "
        "Default: 1 for up to 5 classes, else 3.",
        lower_bound=1,
    )


def check_flags(values: flags.FlagValues) -> None:
    """Raises `UserError` for flags that contradict each other."""
    if values.top_k is not None and values.format != "table":
        raise UserError(
            f"--top_k belongs to --format=table; csv and json always hold every class. "
            f"Received: --format={values.format} --top_k={values.top_k}. Leave --top_k out."
        )


def write(rows: Iterable[Row], layout: Layout, values: flags.FlagValues) -> int:
    """Writes each row as soon as it is known, as the flags say.

    Returns:
        The exit code: 0 when every image was answered, 1 when some or all were not.
    """
    # Names of classes and files can be in any script.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    failed = 0

    def counted() -> Iterator[Row]:
        nonlocal failed
        for row in rows:
            failed += bool(row.error)
            yield row

    if values.format == "table":
        _write_table(counted(), layout, _top_k(values.top_k, len(layout.class_names)))
    else:
        {"csv": _write_csv, "json": _write_json}[values.format](counted(), layout)
    sys.stdout.flush()
    if failed:
        print(f"{failed:,} of {len(layout.images):,} images were not answered; see the column error.", file=sys.stderr)
    return 1 if failed else 0


def _top_k(wanted: int | None, classes: int) -> int:
    return min(wanted or (1 if classes <= 5 else 3), classes)


def _record(row: Row, layout: Layout) -> dict[str, Any]:
    """A row as an object of the JSON, or, with the probabilities flattened, as a line of the CSV."""
    label, score = next(iter(row.probabilities.items()), (None, None))
    further = {name: row.further.get(name) for name in layout.further}
    answer = {"label": label, "score": score, "probabilities": dict(row.probabilities)}
    return {"image": row.image, **answer, **further, "error": row.error or None}


def _write_json(rows: Iterable[Row], layout: Layout) -> None:
    """One object per line inside the list; a failure in the middle leaves a valid list of the answers so far."""
    opening = "[\n"
    try:
        for row in rows:
            # Escaping everything but ASCII keeps file names that aren't UTF-8, and suits any terminal or pipe.
            sys.stdout.write(opening + json.dumps(_record(row, layout)))
            opening = ",\n"
    finally:
        if opening == ",\n":
            print("\n]")


def _write_csv(rows: Iterable[Row], layout: Layout) -> None:
    columns = {name: f"probability_{name}" for name in layout.class_names}
    header = ["image", "label", "score", *columns.values(), *layout.further, "error"]
    writer = csv.DictWriter(sys.stdout, header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        record = _record(row, layout)
        probabilities = {columns[name]: value for name, value in record.pop("probabilities").items()}
        writer.writerow({key: _harmless(value) for key, value in {**record, **probabilities}.items()})


def _write_table(rows: Iterable[Row], layout: Layout, top_k: int) -> None:
    numbers = ["", *(f"_{k}" for k in range(2, top_k + 1))]
    header = ["image", *(name + k for k in numbers for name in ("label", "score")), *layout.further, "error"]
    longest = max((tables.width(_harmless(path)) for path in layout.images), default=0)
    label_width = max(5, *(tables.width(_harmless(name)) for name in layout.class_names))
    further_widths = [max(len(name), len("-100.000")) for name in layout.further]
    widths = [min(longest, _LONGEST_PATH), *[label_width, len("score_2")] * top_k, *further_widths, 0]
    left = [False] * len(widths)
    print(tables.line(header, widths, left))
    for row in rows:
        best = list(row.probabilities.items())[:top_k]
        answers = [cell for label, score in best for cell in (_harmless(label), f"{score:6.1%}")]
        blanks = [""] * (2 * top_k - len(answers))
        further = [_cell(row.further.get(name)) for name in layout.further]
        print(tables.line([_harmless(row.image), *answers, *blanks, *further, row.error], widths, left))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else _harmless(str(value))


def _harmless(value: Any) -> Any:
    """Text with escapes for what isn't UTF-8 and for what would move the cursor; other values unchanged."""
    if not isinstance(value, str):
        return value
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in printable(value))
