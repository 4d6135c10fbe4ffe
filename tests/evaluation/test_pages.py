from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from evaluation import pages, plots
from tests.conftest import encode
from tests.evaluation.pages_read import sizes
from training import curves
from training.heads import BrightnessHead

NAMES = ("cat $x_1$ \x1b", "dog 犬 & <b>")


def all_figures() -> dict[str, plots.Figure]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 60)
    scores = np.clip(0.5 + (labels - 0.5) * generator.uniform(-0.3, 1, 60), 0, 1)
    both = np.stack([1 - scores, scores], axis=1)
    counts = {"training": np.array([8, 5]), "test": np.array([2, 1])}
    return {
        "confusion": plots.confusion_matrix(np.array([[5, 1], [0, 4]]), NAMES),
        "roc": plots.roc(labels, scores, NAMES),
        "precision": plots.precision_recall(labels, scores, NAMES),
        "calibration": plots.calibration(labels, both, both**2),
        "brightness": BrightnessHead().figure(scores[:, np.newaxis], {"brightness": scores**2}),
        "counts": plots.class_counts(counts, NAMES),
        "many": plots.class_counts({"training": np.arange(100)}, tuple(map(str, range(100)))),
        "sizes": plots.sizes(np.array([10, 900]), np.array([300, 20]), 224),
        "accuracies": plots.accuracies(["a", "b"], [0.5, 0.9], [0.4, 0.8], [0.6, 0.95]),
        "curves": curves.draw_curves([{"epoch": "1", "phase": "head", "loss": "0.5"}]),
    }


def test_figures_use_only_the_colors_of_the_style_sheet() -> None:
    for name, figure in all_figures().items():
        drawing = str(pages.svg(figure, name))
        assert set(re.findall(r"#[0-9a-fA-F]{6}\b", drawing)) <= {"#000000"}, name
        assert "var(--" in drawing, name


def test_figures_stretch_with_the_page_and_say_what_they_are() -> None:
    drawing = str(pages.svg(all_figures()["roc"], 'ROC "curve" & more'))
    opening = ElementTree.fromstring(drawing).attrib
    assert (opening["role"], opening["aria-label"]) == ("img", 'ROC "curve" & more')
    assert re.fullmatch(r"[\d. ]+", opening["viewBox"]) and not {"width", "height"} & set(opening)
    assert drawing.startswith("<svg") and "metadata" not in drawing


def test_every_figure_has_a_title_and_named_axes() -> None:
    for name, figure in all_figures().items():
        for axes in figure.axes:
            assert axes.get_ylabel() or name == "accuracies", name
        assert figure.axes[-1].get_xlabel(), name
        assert figure.axes[0].get_title(loc="left"), name


def test_letters_stay_letters_in_any_script() -> None:
    drawing = str(pages.svg(all_figures()["confusion"], "x"))
    assert "cat $x_1$" in drawing and "dog 犬 &amp; &lt;b&gt;" in drawing


def test_no_two_figures_share_an_id() -> None:
    ids = [re.findall(r' id="([^"]+)"', str(pages.svg(figure, name))) for name, figure in all_figures().items()]
    flat = [name for found in ids for name in found]
    assert len(flat) == len(set(flat))


def test_the_shared_style_of_matplotlib_is_left_alone() -> None:
    before = dict(mpl.rcParams)
    all_figures()
    changed = {name for name, value in mpl.rcParams.items() if value != before[name]}
    # Chosen by the first figure of the process, whoever draws it.
    assert changed <= {"backend"}


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    tall = encode(np.zeros((800, 200, 3), np.uint8))
    gray = encode(np.zeros((30, 60), np.uint8), "PNG")
    assert sizes([pages.thumbnail(tall), pages.thumbnail(gray)]) == [(44, 176), (60, 30)]
    assert pages.thumbnail(b"no image") == ""


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_enlarged_to_be_seen(channels: int) -> None:
    assert sizes([pages.from_pixels(np.zeros((8, 8, channels), np.uint8))]) == [(176, 176)]
