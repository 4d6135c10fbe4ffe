"""The driver of the recipes, with a training that takes no time."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from benchmarks import recipe_table
from benchmarks.recipe_table import Measured

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
(run / "config.json").write_text(json.dumps({"flags": {"seed": int(run.name[-1])}, "git_commit": "c" * 40}))
(run / "history.csv").write_text("epoch,seconds\\n1,9.0\\n2,2.0\\n3,3.0\\n")
(run / "splits.csv").write_text("address,label,split,sha256\\na,x,train,0\\n" + "b,x,test,0\\n" * 40)
"""
DRIVER = """
import pathlib, sys
import benchmarks.reproduce as driver, cli
driver._TRAIN = pathlib.Path(sys.argv.pop(1))
cli.run(driver.main)
"""


def _reproduce(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "train.py").write_text(TRAINING)
    (folder / "images").mkdir(exist_ok=True)
    places = [f"--runs={folder}/runs", f"--into={folder}", f"--cat_dog={folder}/images"]
    command = [sys.executable, "-c", DRIVER, str(folder / "train.py"), *places, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)


def _calls(folder: pathlib.Path) -> list[list[str]]:
    return [line.split() for line in (folder / "runs" / "calls.txt").read_text().splitlines()]


def test_a_failing_recipe_stops_nothing_and_a_second_call_resumes(tmp_path):
    first = _reproduce(tmp_path, "--only=catdog_deep_mlp,catdog_resnet50_freeze,digits_lenet5,mnist_lenet5")

    rows = Measured(tmp_path / "recipes" / "measured.json").rows("quick")
    assert rows["catdog_deep_mlp"]["reason"].startswith("failed")
    assert rows["catdog_resnet50_freeze"]["reason"].startswith("not run: needs the published ImageNet weights")
    assert rows["digits_lenet5"]["seeds"] == [{"seed": 0, "commit": "c" * 40, "accuracy": 0.75}]
    assert rows["digits_lenet5"]["seconds_per_epoch"] == 2.5
    assert [seed["seed"] for seed in rows["mnist_lenet5"]["seeds"]] == [1, 2]
    assert "failed with exit code 137" in first.stdout
    written = (tmp_path / "RESULTS.md").read_text()
    assert "| 1 | 75.00% | 59.8% to 85.8% | 2.5 | " in written
    assert "| 2 | 75.00% (75.00% to 75.00%) | " in written
    assert str(tmp_path) not in written

    before = len(_calls(tmp_path))
    _reproduce(tmp_path, "--only=digits_lenet5,mnist_lenet5")

    assert _calls(tmp_path)[before:] == [["mnist_lenet5-seed0", "True", "None"]]
    after = Measured(tmp_path / "recipes" / "measured.json").rows("quick")
    assert len(after.pop("mnist_lenet5")["seeds"]) == 3
    rows.pop("mnist_lenet5")
    assert after == rows, "the rows of other recipes stay"


def test_the_figure_in_a_recipe_is_written_by_the_command(tmp_path):
    recipe = tmp_path / "recipes" / "digits_lenet5.flags"
    recipe.parent.mkdir()
    recipe.write_text("# What it is.\n# Measured: something else.\n--model=lenet5\n")

    _reproduce(tmp_path, "--only=digits_lenet5")

    figure = "# Measured: 75.0 % (1 seed, 95 % interval 59.8 to 85.8 %)."
    assert recipe.read_text() == f"# What it is.\n{figure}\n--model=lenet5\n"


def _two_heads(folder: pathlib.Path) -> recipe_table.Outcome:
    run = folder / "run"
    run.mkdir()
    (run / "test.json").write_text('{"class_accuracy": 0.5, "brightness_mae": 0.0125}')
    (run / "config.json").write_text('{"flags": {"seed": 3}, "git_commit": "abcdef012345-dirty"}')
    (run / "history.csv").write_text("epoch,seconds\n1,4.0\n")
    (run / "splits.csv").write_text("address,label,part\na,x,test\n")
    return recipe_table.Outcome("two_heads", "python train.py --flagfile=two.flags --epochs=6", runs=[run])


def test_figures_are_not_lost_to_a_call_that_can_not_run_the_recipe(tmp_path):
    outcome = _two_heads(tmp_path)
    measured = Measured(tmp_path / "measured.json")
    measured.add(outcome, "quick", "a machine")
    measured.add(recipe_table.Outcome("two_heads", outcome.command, reason="not run: why"), "quick", None)

    row = Measured(tmp_path / "measured.json").rows("quick")["two_heads"]
    start = f"| two_heads | `{outcome.command}` | 1 | 50.00%, MAE 0.013 | 5.5% to 94.5% | 4.0 | a machine | "
    line = measured.markdown().splitlines()[-1]
    assert line.startswith(start)
    assert line.endswith(" | abcdef0123-dirty |")
    assert recipe_table.figure(row) == (
        "# Measured: 50.0 % (1 seed, 95 % interval 5.5 to 94.5 %) with epochs=6; brightness MAE 0.013."
    )


def test_an_edit_of_a_row_is_noticed(tmp_path):
    measured = Measured(tmp_path / "measured.json")
    measured.add(_two_heads(tmp_path), "quick", "a machine")
    row = measured.rows("quick")["two_heads"]

    assert recipe_table.is_unchanged(row)
    row["seeds"][0]["accuracy"] = 0.97
    assert not recipe_table.is_unchanged(row)


def test_quick_and_full_rows_stand_side_by_side(tmp_path):
    measured = Measured(tmp_path / "measured.json")
    measured.add(recipe_table.Outcome("one", "python train.py", reason="not run: why"), "quick", None)
    measured.add(recipe_table.Outcome("two", "python train.py", reason="not run: why"), "full", None)

    assert set(measured.rows("quick")) == {"one"} and set(measured.rows("full")) == {"two"}
    assert measured.markdown().index("## Quick") < measured.markdown().index("| one |")
    assert measured.markdown().index("## Full") < measured.markdown().index("| two |")
