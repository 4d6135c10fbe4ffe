"""Opens the pages in a real browser: headless Chromium, where there is one."""

from __future__ import annotations

import html
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

from evaluation import compare, report
from evaluation.assessment import Assessment
from tests.evaluation.pages_read import differing

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
_QUIET += ("--disable-background-networking", "--disable-component-update", "--hide-scrollbars")
_QUIET += ("--enable-logging=stderr",)

# Added to a copy of the page: what only a browser knows, written where --dump-dom shows it.
_PROBE = """<script>
const failures = [];
addEventListener("error", event => failures.push(String(event.message || event.target.src)), true);
addEventListener("securitypolicyviolation", event => failures.push(event.violatedDirective + event.blockedURI));
addEventListener("load", () => {
  const images = [...document.images];
  const page = document.documentElement;
  const found = {
    failures,
    numbers: [...document.querySelectorAll("[data-metric]")].map(e => [e.dataset.metric, e.dataset.kind, e.innerText]),
    images: images.map(image => image.complete && image.naturalWidth),
    plots: [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width),
    invisible: [...document.querySelectorAll("figure svg text")].filter(t => t.getBBox().width == 0).length,
    overflow: page.scrollWidth - page.clientWidth,
    background: getComputedStyle(document.body).backgroundColor,
    letters: getComputedStyle(document.querySelector("figure svg text")).fill,
    loaded: performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
  };
  const pre = document.createElement("pre");
  pre.id = "probe";
  pre.textContent = JSON.stringify(found);
  document.body.append(pre);
});
</script>"""


def look(page: pathlib.Path, tmp_path: pathlib.Path, *flags: str) -> dict[str, Any]:
    """What the browser says of a copy of `page`."""
    if _CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    copy = tmp_path / "probed.html"
    copy.write_text(page.read_text().replace("<head>", "<head>" + _PROBE, 1))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [_CHROMIUM, *_QUIET, profile, *flags, "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    probe = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.S)
    assert probe, done.stderr
    return json.loads(html.unescape(probe[1]))


@pytest.fixture(scope="module")
def page(assessment: Assessment, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("report")
    return pathlib.Path(report.write(assessment, assessment.subject.run.load_model(), str(folder)))


def check(found: dict[str, Any], numbers: pathlib.Path) -> None:
    assert found["failures"] == [] and found["loaded"] == []
    assert all(width > 0 for width in found["images"])
    assert found["plots"] and all(width > 150 for width in found["plots"])
    assert found["invisible"] == 0
    assert found["overflow"] == 0
    assert differing([tuple(number) for number in found["numbers"]], numbers) == []


def test_the_report_in_a_wide_light_window(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = look(page, tmp_path, "--window-size=1400,1000")
    check(found, page.with_name("metrics.json"))
    assert len(found["numbers"]) > 40 and len(found["images"]) > 20
    assert found["letters"] == "rgb(31, 41, 51)" and found["background"] == "rgb(244, 246, 248)"


def test_the_report_in_a_narrow_dark_window(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    dark = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
    found = look(page, tmp_path, "--window-size=500,900", *dark)
    check(found, page.with_name("metrics.json"))
    assert found["letters"] == "rgb(230, 234, 239)" and found["background"] == "rgb(15, 19, 23)"


def test_the_comparison(tmp_path: pathlib.Path) -> None:
    shares = {"accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "balanced_accuracy": 0.9, "ece": 0.1}
    costs = {"parameters": 1234567, "training_seconds": 12.34, "latency_ms": 1.26}
    row = {"model": "lenet5", **shares, **costs, "f1": 0.9, "log_loss": 0.3, "brier": 0.1}
    pair = {"first": "a", "second": "b", "only_first": 9, "only_second": 1, "p_value": 0.0004}
    comparison = {"images": 100, "runs": [{"name": name, **row} for name in "ab"], "pairs": [pair]}
    page = pathlib.Path(compare.write(comparison, str(tmp_path / "report")))
    check(look(page, tmp_path, "--window-size=1200,900"), page.with_name("comparison.json"))
    assert "a is better" in page.read_text()
