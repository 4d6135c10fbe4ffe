"""Answers as table, CSV and JSON, in the one shape that `predict.py` and the client share."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from errors import UserError
from serving import answers

LAYOUT = answers.Layout(["a.jpg", "long name.jpg"], ("cat", "dog"))
ROWS = [
    answers.Row("a.jpg", {"dog": 0.98765, "cat": 0.01235}),
    answers.Row("long name.jpg", error="damaged or cut off"),
]


def written(capsys: pytest.CaptureFixture, rows, layout=LAYOUT, form: str = "table", top_k: int | None = None):
    code = answers.write(rows, layout, SimpleNamespace(format=form, top_k=top_k))
    return code, capsys.readouterr()


@pytest.fixture(autouse=True)
def reconfigurable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """pytest's own standard output has no `reconfigure`."""
    monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)


def test_a_table_is_aligned_and_in_percent(capsys: pytest.CaptureFixture) -> None:
    code, printed = written(capsys, ROWS)
    assert printed.out.splitlines() == [
        "image          label  score    error",
        "a.jpg          dog     98.8%",
        "long name.jpg                  damaged or cut off",
    ]
    assert code == 1
    assert printed.err == "1 of 2 images were not answered; see the column error.\n"


def test_a_table_names_as_many_classes_as_wanted(capsys: pytest.CaptureFixture) -> None:
    _, printed = written(capsys, ROWS, top_k=7)
    assert printed.out.splitlines()[0].split() == ["image", "label", "score", "label_2", "score_2", "error"]
    assert printed.out.splitlines()[1].split() == ["a.jpg", "dog", "98.8%", "cat", "1.2%"]
    many = answers.Layout(["a.jpg"], tuple("abcdefg"), further=("brightness",))
    row = answers.Row(
        "a.jpg", dict(zip("gfedcba", (0.4, 0.2, 0.1, 0.1, 0.1, 0.06, 0.04), strict=True)), {"brightness": 0.25}
    )
    code, printed = written(capsys, [row], many)
    assert printed.out.splitlines()[1].split() == ["a.jpg", "g", "40.0%", "f", "20.0%", "e", "10.0%", "0.250"]
    assert (code, printed.err) == (0, "")


def test_csv_has_a_column_for_each_class_in_their_order_and_full_precision(capsys: pytest.CaptureFixture) -> None:
    _, printed = written(capsys, ROWS, form="csv")
    first, second = csv.DictReader(io.StringIO(printed.out))
    assert list(first) == ["image", "label", "score", "probability_cat", "probability_dog", "error"]
    assert list(first.values()) == ["a.jpg", "dog", "0.98765", "0.01235", "0.98765", ""]
    assert list(second.values()) == ["long name.jpg", "", "", "", "", "damaged or cut off"]


def test_json_is_a_list_of_objects_of_one_shape(capsys: pytest.CaptureFixture) -> None:
    _, printed = written(capsys, ROWS, form="json")
    good, bad = json.loads(printed.out)
    assert good == {
        "image": "a.jpg",
        "label": "dog",
        "score": 0.98765,
        "probabilities": {"dog": 0.98765, "cat": 0.01235},
        "error": None,
    }
    assert bad == {
        "image": "long name.jpg",
        "label": None,
        "score": None,
        "probabilities": {},
        "error": "damaged or cut off",
    }
    assert list(good) == list(bad)
    two_heads = answers.Layout(["a.jpg"], ("cat", "dog"), further=("brightness",))
    _, printed = written(
        capsys, [answers.Row("a.jpg", {"cat": 1.0, "dog": 0.0}, {"brightness": 0.5})], two_heads, "json"
    )
    assert json.loads(printed.out)[0]["brightness"] == 0.5


def test_a_failure_in_the_middle_leaves_the_answers_so_far(capsys: pytest.CaptureFixture) -> None:
    def rows() -> Iterator[answers.Row]:
        yield ROWS[0]
        raise UserError("the server is gone")

    with pytest.raises(UserError):
        written(capsys, rows(), form="json")
    assert [row["image"] for row in json.loads(capsys.readouterr().out)] == ["a.jpg"]


def test_odd_file_names_do_not_move_the_cursor_or_stop_the_program(capsys: pytest.CaptureFixture) -> None:
    name = "a\x1b[2J\n\udcff.jpg"
    layout = answers.Layout([name], ("cat", "dog"))
    rows = [answers.Row(name, {"cat": 1.0, "dog": 0.0})]
    assert written(capsys, rows, layout)[1].out.splitlines()[1].split()[0] == r"a\x1b[2J\n\xff.jpg"
    as_csv = written(capsys, rows, layout, "csv")[1].out
    assert next(csv.DictReader(io.StringIO(as_csv)))["image"] == r"a\x1b[2J\n\xff.jpg"
    assert json.loads(written(capsys, rows, layout, "json")[1].out)[0]["image"] == name
