from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from tests.reliability.fingerprint_compare import compare


def stored(path: pathlib.Path, arrays: dict[str, np.ndarray], items: dict) -> pathlib.Path:
    np.savez(path.with_suffix(".npz"), **{f"csv/{name}": values for name, values in arrays.items()})
    path.write_text(json.dumps({"csv": items}))
    return path


@pytest.fixture
def old(tmp_path: pathlib.Path) -> pathlib.Path:
    arrays = {"layers/dense/vars/0": np.ones((2, 3), np.float32), "layers/dense/vars/1": np.zeros(3, np.float32)}
    items = {
        "report": {"images": 4, "accuracy": 0.5, "classes": [{"name": "cat"}]},
        "predictions": [{"image": "a"}],
    }
    return stored(tmp_path / "old.json", arrays, items)


def renamed(**changes: object) -> dict:
    report = {"images": 4, "accuracy": 0.5, "classes": [{"name": "cat"}], **changes}
    return {"report": report, "predictions": [{"image": "a"}]}


def test_other_words_are_equal(tmp_path: pathlib.Path, old: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    arrays = {"layers/dense/vars/0": np.ones((2, 3), np.float32), "layers/dense/vars/1": np.zeros(3, np.float32)}
    assert compare(old, stored(tmp_path / "new.json", arrays, renamed())) == 0
    assert capsys.readouterr().out == "csv: equal\n"


def test_differences_are_told_with_their_size(
    tmp_path: pathlib.Path, old: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    arrays = {"dense/vars/0": np.ones((2, 3), np.float32), "dense/vars/1": np.full(3, 0.25, np.float32)}
    assert compare(old, stored(tmp_path / "new.json", arrays, renamed(accuracy=0.75, warnings=["few"]))) == 1
    told = capsys.readouterr().out
    assert "csv: differs" in told
    assert "2 of 2 arrays named anew: layers/dense/vars/0 is dense/vars/0" in told
    assert "1 of 2 arrays differ, by 0.25 at most, in layers/dense/vars/1" in told
    assert "report: 1 of 3 numbers differ, by 0.25 at most, in /accuracy" in told
    assert "report: 1 of 3 values only in the new: /warnings/0" in told
