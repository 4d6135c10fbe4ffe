from __future__ import annotations

import tables


def test_numbers_are_aligned_to_the_right_and_names_to_the_left() -> None:
    rows = [["class", "images"], ["cat", "1,200"], ["a longer name", "7"]]
    assert tables.aligned(rows).splitlines() == [
        "class          images",
        "cat             1,200",
        "a longer name       7",
    ]
    assert tables.aligned([["1", "a"], ["10", "b"]], [True, False]).splitlines() == [" 1  a", "10  b"]


def test_east_asian_letters_take_two_columns() -> None:
    lines = tables.aligned([["猫", "1"], ["dogs", "10"]]).splitlines()
    assert lines == ["猫     1", "dogs  10"]
    assert [tables.width(line) for line in lines] == [8, 8]


def test_a_cell_that_is_too_long_moves_the_others() -> None:
    assert tables.line(["abcdef", "x"], [3, 4], [False, True]) == "abcdef     x"


def test_numbers_and_their_absence() -> None:
    assert (tables.percent(0.9667), tables.decimal(0.5), tables.tenth(1234.56)) == ("96.7 %", "0.500", "1,234.6")
    assert (tables.count(1234), tables.p_value(0.0004), tables.p_value(0.0416)) == ("1,234", "< 0.001", "0.042")
    assert {tables.percent(None), tables.decimal(None), tables.tenth(None), tables.count(None)} == {tables.UNKNOWN}
