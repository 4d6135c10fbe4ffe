from __future__ import annotations

import pytest

from data.names import counted


@pytest.mark.parametrize(
    ("number", "noun", "words"),
    [(0, "image", "0 images"), (1, "image", "1 image"), (1200, "image", "1,200 images"), (2, "class", "2 classes")],
)
def test_a_count_has_its_noun(number: int, noun: str, words: str) -> None:
    assert counted(number, noun) == words
