from __future__ import annotations

import pathlib
import re

import pytest

from benchmarks import recipe_table

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.flags"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_shows_and_what_was_measured(recipe):
    first, second, third = recipe.read_text(encoding="utf-8").splitlines()[:3]

    assert re.match(r"# [A-Z].*\.$", first)
    assert third.startswith("--model=")
    row = recipe_table.read(ROOT / "RESULTS.md", "quick")[recipe.stem]
    if "not run" in row:
        assert second.startswith("# Measured: not run here")
    else:
        figure = re.search(r"\| (\d+\.\d+)%", row)[1]
        assert second.startswith(f"# Measured: {float(figure):.1f} % ("), row


def test_the_table_has_a_row_for_each_recipe():
    assert set(recipe_table.read(ROOT / "RESULTS.md", "quick")) == {path.stem for path in RECIPES}
