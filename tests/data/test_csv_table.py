from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest

from data import csv_table, load, validation
from errors import UserError


def table(tmp_path: pathlib.Path, content: str | bytes) -> str:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_what_spreadsheets_write(tmp_path: pathlib.Path) -> None:
    """A byte order mark, CRLF, quotes, spaces, empty lines."""
    dataset = csv_table.load(
        table(tmp_path, '\ufeffpath,label\r\n"a, b.jpg",cat\r\n\r\n c.jpg , "dog"\r\nd.jpg,cat\r\n')
    )
    assert dataset.addresses == ("a, b.jpg", "c.jpg", "d.jpg")
    assert dataset.labels.tolist() == [1, 0, 1], '" dog"" keeps its quotes, which a space has made part of the label'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"first line of .* must be `path,label`. Received ''"),
        ("a.jpg,cat\n", r"first line of .* Received 'a.jpg,cat'"),
        ("path;label\na.jpg;cat\n", r"Received 'path;label'"),
        ("path,label\n", r"at least two different labels. Received: no rows"),
        ("path,label\na.jpg,cat\nb.jpg,cat\n", r"at least two different labels. Received: cat"),
        ("path,label\na.jpg,cat\nb.jpg\n", r"Line 3 of .* must be `path,label`. Received 'b.jpg'"),
        ("path,label\na.jpg,cat,1\n", r"Line 2 of"),
        ("path,label\na.jpg,\n", r"Line 2 of"),
        ("path,label\n,cat\n", r"Line 2 of"),
        ("path,label\na.jpg,cat\n./a.jpg,dog\n", r"name each image once. Received more than once: a.jpg"),
        ('path,label\na.jpg,"cat\ndog"\nb.jpg,bird\n', r"must be one line"),
        ("path,label\n" + "x" * 200_000 + ",cat\n", r"must be CSV text. Received: field larger"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50, r"must be"),
        ("path,label\r\ra.jpg,cat\r", r"must be"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: pathlib.Path, content: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        csv_table.load(table(tmp_path, content))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", "..", "a/b/../../..", "//etc/passwd", "a\0.jpg"]
)
def test_a_table_cannot_reach_outside_its_folder(tmp_path: pathlib.Path, path: str) -> None:
    with pytest.raises(UserError, match=r"Line 3 of .* must name an image below the table's folder"):
        csv_table.load(table(tmp_path, f"path,label\na.jpg,cat\n{path},dog\n"))


def test_other_schemes_stay_below_the_folder(tmp_path: pathlib.Path) -> None:
    dataset = csv_table.load(table(tmp_path, "path,label\nfile:///etc/passwd,cat\ngs://bucket/a.jpg,dog\n"))
    assert all(record.startswith(os.fsencode(tmp_path) + b"/") for record in dataset.records)


def test_missing_images_are_reported_by_the_scan(image_folder: pathlib.Path) -> None:
    rows = "path,label\nlying/00.jpg,a\nlying/nowhere.jpg,b\nupright,b\nupright/00.jpg,b\n"
    dataset = load(table(image_folder, rows))
    problems = [inspection.problem for inspection in validation.scan(dataset)]
    assert [bool(problem) for problem in problems] == [False, True, True, False]
    assert problems[1].startswith("can't be read") and problems[2].startswith("not a file")


def test_names_that_are_not_utf8(image_folder: pathlib.Path) -> None:
    os.rename(image_folder / "lying" / "00.jpg", os.fsencode(image_folder) + b"/lying/\xe9.jpg")
    place = image_folder / os.fsdecode(b"t\xe9.csv")
    place.write_bytes(b"path,label\nlying/\xe9.jpg,l\xe9\nupright/00.jpg,up\n")
    dataset = load(str(place))
    assert [inspection.problem for inspection in validation.scan(dataset)] == ["", ""]
    assert os.fsencode(dataset.class_names[0]) == b"l\xe9"


def test_further_columns_are_numbers_or_text(tmp_path: pathlib.Path) -> None:
    rows = "path,label,age, town ,mixed\na.jpg,cat, 3.5,Bern,1\nb.jpg,dog,-2e3,Zürich,x\nc.jpg,dog,7,Chur,2\n"
    dataset = csv_table.load(table(tmp_path, rows))
    assert dataset.columns["age"].tolist() == [3.5, -2000.0, 7.0] and dataset.columns["age"].dtype == np.float64
    assert dataset.columns["town"].tolist() == ["Bern", "Zürich", "Chur"]
    assert dataset.columns["mixed"].tolist() == ["1", "x", "2"]
    taken = dataset.take(np.array([2, 0]))
    assert taken.columns["age"].tolist() == [7.0, 3.5] and taken.columns["town"].tolist() == ["Chur", "Bern"]
    assert csv_table.load(table(tmp_path, "path,label\na.jpg,cat\nb.jpg,dog\n")).columns == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label,age\na.jpg,cat,1\nb.jpg,dog\n", r"Line 3 of .* must be `path,label,age`. Received 'b.jpg,dog'"),
        ("path,label,age\na.jpg,cat,1\nb.jpg,dog,\n", r"Line 3 of .* must be `path,label,age`. Received 'b.jpg,dog,'"),
        ("path,label,age,age\na.jpg,cat,1,2\n", r"first line of .* must be `path,label`.* each with a different name"),
        ("path,label,\na.jpg,cat,1\n", r"first line of .* must be `path,label`"),
        ("path,age,label\na.jpg,1,cat\n", r"first line of .* must be `path,label`"),
    ],
)
def test_further_columns_must_be_whole_and_named(tmp_path: pathlib.Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        csv_table.load(table(tmp_path, content))
