from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from serving.export import export_run
from tests.conftest import has_imported
from tests.evaluation.conftest import run, write_images
from training.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[1]
__all__ = ["run"]


def evaluate(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess:
    command = [sys.executable, "evaluate.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def copy(run: Run, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the shared run to write into."""
    return pathlib.Path(shutil.copytree(run.path, tmp_path / "copy"))


def test_the_numbers_are_printed_and_the_report_and_the_card_written(copy: pathlib.Path) -> None:
    done = evaluate(f"--run={copy}", "--batch_size=10")
    assert done.returncode == 0, done.stderr
    numbers = json.loads((copy / "report" / "metrics.json").read_text())
    assert f"{100 * numbers['accuracy']:.1f} % (95 % interval: " in done.stdout
    assert 'Baseline, always "lying": 50.0 %.' in done.stdout
    (rows,) = [part for part in done.stdout.split("\n\n") if part.startswith("class ")]
    assert [line.split()[0] for line in rows.splitlines()] == ["class", "lying", "upright", "mean"]
    (matrix,) = [part for part in done.stdout.split("\n\n") if part.startswith("label \\ predicted")]
    assert [list(map(int, line.split()[1:])) for line in matrix.splitlines()[1:]] == numbers["confusion"]
    assert (copy / "report" / "index.html").stat().st_size > 100_000
    assert (copy / "report" / "errors.csv").read_text().startswith("address,label,prediction,confidence,cause\n")
    assert (copy / "README.md").read_text().startswith("# lenet5, trained on photos\n")


def test_other_images_are_predicted_by_the_saved_model_without_touching_the_runs_own_report(
    copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_images(tmp_path / "new", 4, first=700)
    (tmp_path / "new" / "neither").mkdir()
    shutil.copy(tmp_path / "new" / "lying" / "700.png", tmp_path / "new" / "neither")
    export_run(Run.open(str(copy)), base=None, version=None, keep_versions=0)
    done = evaluate(f"--run={copy}", f"--data={tmp_path / 'new'}", f"--export={copy / 'export'}")
    assert done.returncode == 0, done.stderr
    numbers = json.loads((copy / "report" / "data-new-export-1" / "metrics.json").read_text())
    assert (numbers["images"], numbers["network"]) == (8, str(copy / "export" / "1"))
    assert "Warning: Left out 1 of 9 images: the run doesn't know their classes, neither." in done.stdout
    assert not (copy / "report" / "index.html").exists() and not (copy / "README.md").exists()


@pytest.fixture
def bereft(copy: pathlib.Path) -> pathlib.Path:
    """The run after the images that its record names have gone from there."""
    record = json.loads((copy / "config.json").read_text())
    record["flags"]["data"] = str(copy.parent / "nowhere" / "photos")
    (copy / "config.json").write_text(json.dumps(record))
    return copy


def test_images_that_have_moved_give_the_runs_own_report_and_card(
    bereft: pathlib.Path, run: Run, tmp_path: pathlib.Path
) -> None:
    moved = shutil.copytree(run.config.data, tmp_path / "moved")
    done = evaluate(f"--run={bereft}", f"--data={moved}")
    assert done.returncode == 0, done.stderr
    assert f"on 24 images of the run's own test split, found in {moved}: " in done.stdout
    assert (bereft / "report" / "index.html").exists() and (bereft / "README.md").exists()
    assert "left out" not in done.stdout


def test_other_images_are_evaluated_where_the_training_images_are_gone(
    bereft: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    write_images(tmp_path / "new", 4, first=700)
    done = evaluate(f"--run={bereft}", f"--data={tmp_path / 'new'}")
    assert done.returncode == 0, done.stderr
    assert f"on 8 other images of {tmp_path / 'new'}: " in done.stdout
    assert "Warning: Calibration was left out: the run's 16 validation images can't be found." in done.stdout
    assert "Warning: The search for copies was left out: the run's 40 training images can't be found." in done.stdout
    assert not (bereft / "report" / "index.html").exists() and not (bereft / "README.md").exists()


def test_an_evaluation_that_must_fail_predicts_nothing(bereft: pathlib.Path, run: Run, tmp_path: pathlib.Path) -> None:
    moved = pathlib.Path(shutil.copytree(run.config.data, tmp_path / "moved"))
    gone = next(row.address for row in run.splits() if row.split == "test")
    (moved / gone).unlink()
    done = evaluate(f"--run={bereft}", f"--data={moved}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Received: 23 of its images, unchanged, but not the others" in done.stderr
    assert "predicting" not in done.stderr and "Traceback" not in done.stderr


def test_a_run_is_not_better_than_itself(run: Run, copy: pathlib.Path) -> None:
    done = evaluate("--compare", str(copy), run.path)
    assert done.returncode == 0, done.stderr
    assert "copy / bars" in done.stdout
    (pair,) = json.loads((copy / "report" / "comparison.json").read_text())["pairs"]
    assert (pair["only_first"], pair["only_second"], pair["p_value"]) == (0, 0, 1.0)


def test_wrong_flags_are_answered_at_once_and_in_words(tmp_path: pathlib.Path, imports_told: None) -> None:
    for arguments, message in (
        ((), "needs --run=FOLDER, or --compare"),
        (("runs/a",), "Runs must be given by --run=FOLDER"),
        (("--compare", "runs/a"), "two or more run folders"),
        (("--compare", "--run=a", "b", "c"), "none of --run, --data and --export"),
        (("--batch_size=0", "--run=a"), "batch_size"),
        (("--rum=a",), "Unknown command line flag 'rum'"),
    ):
        done = evaluate(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert message in done.stderr and "Traceback" not in done.stderr
        assert not has_imported("tensorflow", done.stderr)


def test_a_folder_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
    done = evaluate(f"--run={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Received: {tmp_path}, which has no config.json" in done.stderr and "Traceback" not in done.stderr


def test_help_needs_no_tensorflow() -> None:
    script = "import sys, evaluate; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "--[no]compare" in evaluate("--help").stdout
