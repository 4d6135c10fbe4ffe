from __future__ import annotations

import csv
import io
import json

from serving import table

ROWS = [
    {
        "picture": "a.jpg",
        "label": "cat",
        "score": 0.98765,
        "probability": {"cat": 0.98765, "dog": 0.01235},
        "error": "",
    },
    {
        "picture": "long name.jpg",
        "label": "",
        "score": 0.0,
        "probability": {"cat": 0.0, "dog": 0.0},
        "error": "damaged",
    },
]


def test_a_table_is_aligned_with_four_decimals() -> None:
    assert table.render(ROWS, "table").splitlines() == [
        "picture        label   score  error",
        "a.jpg          cat    0.9877",
        "long name.jpg         0.0000  damaged",
    ]


def test_an_empty_column_is_left_out_of_the_table_only() -> None:
    assert "error" not in table.render(ROWS[:1], "table")
    assert "error" in table.render(ROWS[:1], "csv").splitlines()[0]


def test_csv_has_a_column_a_class_and_full_precision() -> None:
    rows = list(csv.DictReader(io.StringIO(table.render(ROWS, "csv"))))
    assert list(rows[0]) == ["picture", "label", "score", "probability_cat", "probability_dog", "error"]
    assert rows[0]["probability_dog"] == "0.01235"


def test_json_keeps_everything() -> None:
    assert json.loads(table.render(ROWS, "json")) == ROWS


def test_odd_file_names_do_not_move_the_cursor_or_stop_the_program() -> None:
    row = {"picture": "a\x1b[2J\n\udcff.jpg"}
    assert table.render([row], "table").splitlines()[1] == r"a\x1b[2J\n\xff.jpg"
    assert list(csv.reader(io.StringIO(table.render([row], "csv"))))[1] == [r"a\x1b[2J\n\xff.jpg"]
    assert json.loads(table.render([row], "json")) == [row]
