"""Runs side by side on the same test images: metrics, costs, and McNemar's test of each pair."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import replace
from typing import Any

import keras
import numpy as np

import errors
import tables
from data.files import make_folder, write_text
from data.names import printable
from errors import UserError
from evaluation import metrics, pages, plots
from evaluation.predictions import Predictions, answering, from_model
from training.run import Run, Split
from training.run_files import write_json

_WARM_UP_CALLS = 3
_TIMED_CALLS = 20
# The p-value below which a difference is called significant.
SIGNIFICANT = 0.05


def compare(runs: list[Run], batch_size: int) -> dict[str, Any]:
    """Predicts the shared test split with each run's model and measures each run and each pair of them.

    Raises:
        UserError: fewer than two runs, or their test splits differ.
    """
    if len(runs) < 2:
        raise UserError(f"`runs` must be two or more, as in evaluate.py --compare RUN RUN. Received: {len(runs)}.")
    shared = shared_images(runs)
    names = _names(runs)
    rows, correct = [], []
    for name, run, split in zip(names, runs, shared, strict=True):
        model = run.load_model()
        predictions = from_model(model, run.heads)(split, batch_size, f"predicting with {name}")
        rows.append(_row(name, run, model, predictions, split))
        correct.append(predictions.correct)
        # The next model needs the memory of this one.
        keras.backend.clear_session()
    pairs = [
        {"first": names[i], "second": names[j], **metrics.mcnemar(correct[i], correct[j])}
        for i, j in itertools.combinations(range(len(runs)), 2)
    ]
    return {"images": len(shared[0]), "runs": rows, "pairs": pairs}


def write(comparison: dict[str, Any], folder: str) -> str:
    """Writes comparison.html and comparison.json into `folder`; returns the page's path."""
    make_folder(folder)
    write_json(os.path.join(folder, "comparison.json"), comparison)
    path = os.path.join(folder, "comparison.html")
    shown = ("name", "accuracy", "accuracy_low", "accuracy_high")
    figure = plots.accuracies(*([row[key] for row in comparison["runs"]] for key in shown))
    drawing = pages.svg(figure, "Accuracy of the runs")
    write_text(path, pages.render("comparison.html.j2", comparison, figure=drawing, significant=SIGNIFICANT))
    return path


def text(comparison: dict[str, Any]) -> str:
    """The comparison as two aligned tables."""
    rows = [["run", "accuracy", "95 % interval", "log loss", "parameters", "training (s)", "latency (ms)"]]
    for row in comparison["runs"]:
        interval = f"{tables.percent(row['accuracy_low'])} to {tables.percent(row['accuracy_high'])}"
        seconds, latency = tables.tenth(row["training_seconds"]), tables.tenth(row["latency_ms"])
        accuracy, loss = tables.percent(row["accuracy"]), tables.decimal(row["log_loss"])
        rows.append([row["name"], accuracy, interval, loss, tables.count(row["parameters"]), seconds, latency])
    pairs = [["pair", "only first correct", "only second correct", "p (McNemar)"]]
    for pair in comparison["pairs"]:
        counts = (tables.count(pair["only_first"]), tables.count(pair["only_second"]))
        pairs.append([f"{pair['first']} / {pair['second']}", *counts, tables.p_value(pair["p_value"])])
    return f"{tables.aligned(rows)}\n\n{tables.aligned(pairs)}"


def shared_images(runs: list[Run]) -> list[Split]:
    """Each run's test split in the order of the first one's, with the first one's class indices.

    Raises:
        UserError: the test splits differ in their images or classes.
    """
    splits = [run.split("test") for run in runs]
    first = _label_of_each(splits[0])
    ordered: list[Split] = []
    for run, split in zip(runs, splits, strict=True):
        differing = _label_of_each(split).items() ^ first.items()
        if differing or run.class_names != runs[0].class_names:
            raise UserError(
                "`runs` must have the same test images and classes. "
                f"Received: {runs[0].path} with {len(splits[0])} and {run.path} with "
                f"{errors.counted(len(split), 'test image')}, "
                f"{len({address for address, _ in differing})} of them not shared. "
                "Train them on the same `data` with the same `val_fraction` and `test_fraction`."
            )
        places = {address: i for i, address in enumerate(split.addresses)}
        order = np.asarray([places[address] for address in splits[0].addresses], np.int64)
        ordered.append(replace(split, dataset=split.dataset.take(order)))
        _check_same_content(runs[0], run, ordered[0], ordered[-1])
    return ordered


def _label_of_each(split: Split) -> dict[str, str]:
    return {address: split.dataset.class_names[i] for address, i in zip(split.addresses, split.labels, strict=True)}


def _check_same_content(first: Run, run: Run, split: Split, other: Split) -> None:
    """Two data sets can use the same names for different images; nothing is read if both runs have the same one."""
    if (first.config.data, first.config.data_dir) == (run.config.data, run.config.data_dir):
        return
    differing = [a for i, a in enumerate(split.addresses) if split.encoded(i) != other.encoded(i)]
    if differing:
        raise UserError(
            f"`runs` must have the same test images. Not the same in {first.config.data} and "
            f"{run.config.data}: {errors.counted(len(differing), 'image')}, such as {printable(differing[0])}."
        )


def _names(runs: list[Run]) -> list[str]:
    """The folders' names, or the whole paths if two names are equal."""
    names = [os.path.basename(run.path.rstrip("/")) for run in runs]
    return [printable(name) for name in (names if len(set(names)) == len(names) else [run.path for run in runs])]


def _row(name: str, run: Run, model: keras.Model, predictions: Predictions, split: Split) -> dict[str, Any]:
    class_names = tuple(printable(name) for name in run.class_names)
    numbers = metrics.classification(predictions.labels, predictions.probabilities, class_names)
    kept = ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "log_loss", "brier", "ece")
    return {
        "name": name,
        "model": run.config.model,
        **{key: numbers[key] for key in kept},
        "f1": numbers["macro"]["f1"],
        "parameters": model.count_params(),
        "training_seconds": run.details().get("training_seconds", 0.0),
        "latency_ms": _latency_ms(run, model, split),
    }


def _latency_ms(run: Run, model: keras.Model, split: Split) -> float:
    """Median time of one decoded image through the network, on this machine."""
    answer = answering(model, run.heads)
    pixels = next(iter(split.pixels(1))).numpy()
    times = []
    for _ in range(_WARM_UP_CALLS + _TIMED_CALLS):
        start = time.perf_counter()
        answer(pixels)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times[_WARM_UP_CALLS:]))
