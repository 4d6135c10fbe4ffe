"""What the recipes and RESULTS.md say is what was measured, and was written by `benchmarks.reproduce` alone."""

from __future__ import annotations

import pathlib
import re

import pytest

from benchmarks import recipe_table, reproduce
from benchmarks.recipe_table import Measured

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.flags"))


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(ROOT / "recipes" / "measured.json")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_does_what_the_course_says_and_what_was_measured(recipe, measured):
    comments = [line for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    flags = recipe.read_text(encoding="utf-8").splitlines()[len(comments) :]

    assert re.fullmatch(r"# [A-Z].*\.", comments[0])
    assert not re.search(r"\d %", comments[0]), "a figure without a measurement"
    assert all(re.fullmatch(r"# The course: .*\.", line) for line in comments[1:-1])
    assert comments[-1] == reproduce.figure_of(recipe.stem, measured)
    assert flags[0].startswith("--model=")
    assert all(line.startswith("--") for line in flags)


def test_the_three_networks_on_mnist_are_trained_alike():
    flags = [
        (ROOT / "recipes" / f"mnist_{name}.flags").read_text().partition("--data")[2]
        for name in ("plain_mlp", "bn_mlp", "lenet5")
    ]

    assert len(set(flags)) == 1


def test_every_recipe_has_a_row(measured):
    assert set(measured.rows("quick")) == {path.stem for path in RECIPES}


@pytest.mark.parametrize("scale", recipe_table.SCALES)
def test_no_row_was_edited_by_hand_and_its_command_is_what_the_benchmark_runs(scale, measured):
    for recipe, row in measured.rows(scale).items():
        assert recipe_table.is_unchanged(row), recipe
        assert row["command"] == reproduce.command_of(recipe, scale)


def test_the_table_is_made_from_the_rows(measured):
    assert (ROOT / "RESULTS.md").read_text(encoding="utf-8") == measured.markdown()


def test_every_figure_carries_the_commit_of_its_run(measured):
    for scale in recipe_table.SCALES:
        for recipe, row in measured.rows(scale).items():
            for seed in row.get("seeds", []):
                assert re.fullmatch(r"[0-9a-f]{40}", seed["commit"]), f"{recipe}: not a clean checkout"


def test_the_readmes_table_is_made_from_the_rows(measured):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert "<!-- measured -->" in readme

    assert recipe_table.with_highlights(readme, measured) == readme
