from __future__ import annotations

import os
import pathlib

from models import saved_models


def test_the_newest_version_is_the_largest_number(tmp_path: pathlib.Path) -> None:
    for name in ("2", "10", "9", "11.part", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file is no version")
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    assert saved_models.versions(str(tmp_path)) == [2, 9, 10]
    assert saved_models.newest(str(tmp_path)) == str(tmp_path / "10")
    assert saved_models.newest(str(tmp_path / "10")) == str(tmp_path / "10")


def test_where_nothing_is_there_are_no_versions(tmp_path: pathlib.Path) -> None:
    assert saved_models.versions(str(tmp_path / "none")) == []
    assert saved_models.newest(str(tmp_path / "none")) == str(tmp_path / "none")
