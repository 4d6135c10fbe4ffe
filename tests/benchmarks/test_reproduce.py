"""The driver of the recipes, with a training that takes no time."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from benchmarks import recipe_table

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Fails for one recipe; for another it is "killed" at first and then asked to resume.
TRAINING = """
import json, pathlib, sys
flags = dict(item[2:].split("=", 1) for item in sys.argv[1:] if "=" in item)
run = pathlib.Path(flags["run_dir"])
run.mkdir(parents=True, exist_ok=True)
with (run.parent / "calls.txt").open("a") as file:
    print(run.name, "--resume" in sys.argv, flags.get("data"), file=file)
if "catdog_deep_mlp" in run.name:
    sys.exit("no luck")
if "mnist_lenet5-seed0" in run.name and "--resume" not in sys.argv:
    (run / "checkpoint").mkdir()
    sys.exit(137)
(run / "test.json").write_text(json.dumps({"accuracy": 0.75, "loss": 1.0}))
(run / "history.csv").write_text("epoch,seconds\\n1,9.0\\n2,2.0\\n3,3.0\\n")
(run / "splits.csv").write_text("address,label,part,sha256\\na,x,train,0\\n" + "b,x,test,0\\n" * 40)
"""
DRIVER = """
import pathlib, sys
import benchmarks.reproduce as driver, errors
driver._TRAIN = pathlib.Path(sys.argv.pop(1))
errors.run(driver.main)
"""


def _reproduce(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "train.py").write_text(TRAINING)
    (folder / "pictures").mkdir(exist_ok=True)
    places = [f"--runs={folder}/runs", f"--results={folder}/RESULTS.md", f"--cat_dog={folder}/pictures"]
    command = [sys.executable, "-c", DRIVER, str(folder / "train.py"), *places, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)


def _calls(folder: pathlib.Path) -> list[list[str]]:
    return [line.split() for line in (folder / "runs" / "calls.txt").read_text().splitlines()]


def test_a_failing_recipe_stops_nothing_and_a_second_call_resumes(tmp_path):
    first = _reproduce(tmp_path, "--only=catdog_deep_mlp,catdog_resnet50_freeze,digits_lenet5,mnist_lenet5")

    rows = recipe_table.read(tmp_path / "RESULTS.md", "quick")
    assert "| failed" in rows["catdog_deep_mlp"]
    assert "| not run: needs the published ImageNet weights" in rows["catdog_resnet50_freeze"]
    assert "| 1 | 75.00% | 59.8% to 85.8% | 2.5 | " in rows["digits_lenet5"]
    assert "| 2 | 75.00% (75.00% to 75.00%) | " in rows["mnist_lenet5"]
    assert "failed with exit code 137" in first.stdout
    assert str(tmp_path) not in (tmp_path / "RESULTS.md").read_text()

    before = len(_calls(tmp_path))
    _reproduce(tmp_path, "--only=digits_lenet5,mnist_lenet5")

    assert _calls(tmp_path)[before:] == [["mnist_lenet5-seed0", "True", "None"]]
    after = recipe_table.read(tmp_path / "RESULTS.md", "quick")
    assert "| 3 | 75.00%" in after.pop("mnist_lenet5")
    rows.pop("mnist_lenet5")
    assert after == rows, "the rows of other recipes stay"


def test_figures_are_not_lost_to_a_call_that_can_not_run_the_recipe(tmp_path):
    table = tmp_path / "RESULTS.md"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "test.json").write_text('{"class_accuracy": 0.5, "brightness_mae": 0.0125}')
    (tmp_path / "run" / "history.csv").write_text("epoch,seconds\n1,4.0\n")
    (tmp_path / "run" / "splits.csv").write_text("address,label,part\na,x,test\n")
    ran = recipe_table.Outcome("two_heads", "python train.py", runs=[tmp_path / "run"])

    recipe_table.add(table, ran, "quick", "a machine")
    recipe_table.add(table, recipe_table.Outcome("two_heads", "python train.py", reason="not run: why"), "quick", None)

    row = recipe_table.read(table, "quick")["two_heads"]
    assert row == "| two_heads | `python train.py` | 1 | 50.00%, MAE 0.013 | 5.5% to 94.5% | 4.0 | a machine |"


@pytest.mark.parametrize("scale", ["quick", "full"])
def test_tables_of_different_scales_are_not_mixed(tmp_path, scale):
    table = tmp_path / "RESULTS.md"
    recipe_table.add(table, recipe_table.Outcome("one", "python train.py", reason="not run: why"), "quick", None)
    recipe_table.add(table, recipe_table.Outcome("two", "python train.py", reason="not run: why"), scale, None)

    assert set(recipe_table.read(table, scale)) == ({"one", "two"} if scale == "quick" else {"two"})
