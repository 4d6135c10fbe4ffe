"""Runs the recipes, one process each, and records their results.

`python -m benchmarks.reproduce --scale=quick --cat_dog=cat_dog/ --data_dir=DIR --squeezenet=FILE.h5`

The results go to recipes/measured.json; RESULTS.md, the comment in each recipe and the README's table are made from it.
A failing recipe doesn't stop the others, and a second call continues where the first was stopped: finished runs are
kept, and an interrupted one is resumed from its checkpoint. Rows of recipes that aren't run stay.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

from absl import flags

import cli
import errors
from benchmarks import recipe_table
from benchmarks.recipe_table import Measured, Outcome

_RECIPES = pathlib.Path(__file__).resolve().parents[1] / "recipes"
_TRAIN = _RECIPES.parent / "train.py"

flags.DEFINE_enum("scale", "quick", ["quick", "full"], "quick: for two CPU cores; full: the recipes unchanged.")
flags.DEFINE_string("cat_dog", "cat_dog", "Folder with the sub-folders cat and dog.")
flags.DEFINE_string("data_dir", None, "Folder where TensorFlow Datasets keeps mnist.")
flags.DEFINE_string("squeezenet", None, "SqueezeNet's published weights, without top. Default: skip its recipes.")
flags.DEFINE_boolean("imagenet", False, "Run the recipes that download ImageNet weights too.")
flags.DEFINE_string("runs", "runs/reproduce", "Folder for the runs.")
flags.DEFINE_string("into", str(_RECIPES.parent), "Folder whose RESULTS.md, README.md and recipes/ are updated.")
flags.DEFINE_string("hardware", None, "Hardware of the runs, for the table. Default: this machine's processor.")
flags.DEFINE_list("only", [], "Names of recipes; default: all.")


@dataclass(frozen=True)
class Plan:
    """How a recipe is run at `quick` scale: with fewer epochs, or fewer or smaller images, and how many seeds."""

    seeds: int = 1
    flags: tuple[str, ...] = ()


# What two CPU cores can do in minutes. Other recipes run unchanged, with one seed.
_QUICK: dict[str, Plan] = {
    "catdog_squeezenet_freeze": Plan(seeds=5),
    "catdog_squeezenet_freeze_10percent": Plan(seeds=5),
    "catdog_squeezenet_scratch": Plan(seeds=1),
    "catdog_squeezenet_scratch_10percent": Plan(seeds=1),
    "mnist_plain_mlp": Plan(seeds=3),
    "mnist_bn_mlp": Plan(seeds=3),
    "mnist_lenet5": Plan(seeds=3),
    "mnist_alexnet": Plan(flags=("--image_size=99", "--train_fraction=0.02", "--val_fraction=0.005", "--epochs=2")),
    "catdog_deep_mlp": Plan(flags=("--epochs=6",)),
    "catdog_multitask": Plan(flags=("--epochs=6",)),
    "catdog_alexnet_scratch": Plan(flags=("--train_fraction=0.25", "--epochs=4")),
    "catdog_alexnet_augment": Plan(flags=("--train_fraction=0.25", "--epochs=4")),
    "catdog_vgg16_scratch": Plan(flags=("--image_size=64", "--train_fraction=0.1", "--epochs=3")),
    "catdog_resnet18_scratch": Plan(flags=("--image_size=112", "--train_fraction=0.1", "--epochs=4")),
    "catdog_resnet50_scratch": Plan(flags=("--image_size=112", "--train_fraction=0.1", "--epochs=2")),
    "catdog_squeezenet_fine_tune": Plan(flags=("--epochs=3", "--fine_tune_epochs=2")),
}


def main(argv: list[str]) -> None:
    """Runs the recipes that aren't finished, and records each result."""
    names = flags.FLAGS.only or sorted(path.stem for path in _RECIPES.glob("*.flags"))
    unknown = [name for name in names if not (_RECIPES / f"{name}.flags").is_file()]
    if unknown:
        raise errors.UserError(f"--only must name recipes in {_RECIPES}. Received: {', '.join(unknown)}.")
    into = pathlib.Path(flags.FLAGS.into)
    measured = Measured(into / "recipes" / "measured.json")
    _name_all(measured)
    for number, name in enumerate(names):
        print(f"[{number + 1}/{len(names)}] {name}", flush=True)
        measured.add(_run_recipe(name), flags.FLAGS.scale, flags.FLAGS.hardware)
        _write(into, measured)
    print(f"Written: {into / 'RESULTS.md'}")


def _name_all(measured: Measured) -> None:
    """Gives every recipe a row, so that the table omits none."""
    scale = flags.FLAGS.scale
    for name in sorted(path.stem for path in _RECIPES.glob("*.flags")):
        if name not in measured.rows(scale):
            measured.add(Outcome(name, command_of(name, scale), reason="not run yet"), scale, None)


def command_of(name: str, scale: str) -> str:
    """The command line of a recipe at one scale."""
    return " ".join(["python train.py", f"--flagfile=recipes/{name}.flags", *_plan(name, scale).flags])


def figure_of(name: str, measured: Measured) -> str:
    """The recipe's comment line with its result, from the full run if there is one."""
    rows = [measured.rows(scale).get(name) for scale in ("full", "quick")]
    with_figures = [row for row in rows if row and "seeds" in row]
    return recipe_table.figure((with_figures or [row for row in rows if row])[0])


def _write(into: pathlib.Path, measured: Measured) -> None:
    """Updates all texts that hold results, if they are in `into`."""
    (into / "RESULTS.md").write_text(measured.markdown(), encoding="utf-8")
    readme = into / "README.md"
    if readme.is_file():
        text = recipe_table.with_highlights(readme.read_text(encoding="utf-8"), measured)
        readme.write_text(text, encoding="utf-8")
    for recipe in (into / "recipes").glob("*.flags"):
        if any(recipe.stem in measured.rows(scale) for scale in recipe_table.SCALES):
            lines = recipe.read_text(encoding="utf-8").splitlines()
            lines = [figure_of(recipe.stem, measured) if line.startswith("# Measured: ") else line for line in lines]
            recipe.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _plan(name: str, scale: str) -> Plan:
    plan = _QUICK.get(name, Plan())
    return plan if scale == "quick" else Plan(seeds=plan.seeds)


def _run_recipe(name: str) -> Outcome:
    recipe = (_RECIPES / f"{name}.flags").read_text(encoding="utf-8")
    plan, command = _plan(name, flags.FLAGS.scale), command_of(name, flags.FLAGS.scale)
    reason = _missing(recipe)
    if reason:
        return Outcome(name, command, reason=reason)
    runs = [_run(name, seed, [*plan.flags, *_places(recipe)]) for seed in range(plan.seeds)]
    finished = [run for run in runs if run]
    return Outcome(name, command, finished, "" if finished else "failed: see its log in --runs")


def _missing(recipe: str) -> str:
    """Why a recipe can't be run here, or an empty text."""
    if "--weights=imagenet" in recipe and not flags.FLAGS.imagenet:
        return "not run: needs the published ImageNet weights (--imagenet downloads them)"
    if "--weights=squeezenet" in recipe and not flags.FLAGS.squeezenet:
        return "not run: needs SqueezeNet's published weights (--squeezenet=FILE)"
    if "--data=cat_dog" in recipe and not os.path.isdir(flags.FLAGS.cat_dog):
        return f"not run: there is no folder {flags.FLAGS.cat_dog} (--cat_dog=FOLDER)"
    return ""


def _places(recipe: str) -> list[str]:
    """Flags with this machine's paths for what the recipe names; later flags win."""
    places = []
    if "--data=cat_dog" in recipe:
        places.append(f"--data={flags.FLAGS.cat_dog}")
    if "--data=mnist" in recipe and flags.FLAGS.data_dir:
        places.append(f"--data_dir={flags.FLAGS.data_dir}")
    if "--weights=squeezenet" in recipe:
        places.append(f"--weights={flags.FLAGS.squeezenet}")
    return places


def _run(name: str, seed: int, extra: list[str]) -> pathlib.Path | None:
    """Trains with one seed, unless that run has finished; returns its folder, or None if it fails."""
    run_dir = pathlib.Path(flags.FLAGS.runs) / f"{name}-seed{seed}"
    if (run_dir / "test.json").is_file():
        return run_dir
    resumes = (run_dir / "checkpoint").is_dir()
    if not resumes:
        shutil.rmtree(run_dir, ignore_errors=True)
    arguments = [f"--flagfile={_RECIPES / name}.flags", *extra, f"--seed={seed}"]
    command = [sys.executable, str(_TRAIN), *([] if resumes else arguments), f"--run_dir={run_dir}"]
    log = pathlib.Path(flags.FLAGS.runs) / f"{name}-seed{seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        start = time.monotonic()
        result = subprocess.run([*command, *(["--resume"] if resumes else [])], stdout=file, stderr=file)
    words = "done" if result.returncode == 0 else f"failed with exit code {result.returncode}, see {log}"
    print(f"  seed {seed}: {words}, {time.monotonic() - start:.0f} s", flush=True)
    return run_dir if result.returncode == 0 else None


if __name__ == "__main__":
    cli.run(main)
