"""Figures and images inside the page: SVG that follows the reader's theme, and thumbnails as `data:` addresses."""

from __future__ import annotations

import base64
import io
import re
import warnings
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from PIL import Image

from training import curves

THUMBNAIL_PX = 176

_VARIABLES = {
    curves.INK: "var(--ink)",
    curves.FAINT: "var(--faint)",
    curves.PAPER: "var(--paper)",
    curves.BLUE: "var(--blue)",
    curves.ORANGE: "var(--orange)",
    curves.GREEN: "var(--green)",
    curves.PINK: "var(--pink)",
}
_THEMED = re.compile("|".join(_VARIABLES))

# Letters stay letters: small, searchable, in the reader's font; class names may hold a $, which is no formula.
_AS_TEXT: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False}


def from_figure(figure: Figure, label: str) -> Markup:
    """The figure as an inline SVG whose colors are the style sheet's; `label` is what a screen reader says."""
    target = io.StringIO()
    with mpl.rc_context({**_AS_TEXT, "svg.hashsalt": label}), warnings.catch_warnings():
        # Matplotlib's font lacks many scripts; the browser, which draws the letters, doesn't.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure.savefig(target, format="svg", facecolor="none", metadata={"Date": None})
    svg = target.getvalue()
    body = svg[svg.index("<svg") :]
    # Sizes come from the page, and the same group names in every figure would be double ids.
    body = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', _opening(label), body, count=1)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r' id="[A-Za-z]+[A-Za-z0-9.]*_\d+"', "", body)
    return Markup(_THEMED.sub(lambda found: _VARIABLES[found.group()], body))


def thumbnail(encoded: bytes, longest_px: int = THUMBNAIL_PX) -> str:
    """A small copy of an encoded image as a `data:` address, in its own aspect ratio; "" when it can't be read."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            # A large JPEG is decoded at a fraction of its size.
            image.draft("RGB", (2 * longest_px, 2 * longest_px))
            small = image.convert("RGB")
    # Pillow raises its parsers' own errors on damaged files; the report shows a blank in place of the image.
    except Exception:
        return ""
    small.thumbnail((longest_px, longest_px))
    return _data_address(small)


def from_pixels(pixels: np.ndarray, side_px: int = THUMBNAIL_PX) -> str:
    """uint8 pixels (height, width, 1 or 3) as a `data:` address, enlarged without smoothing where they are smaller."""
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    image = Image.fromarray(pixels)
    enlarged = max(image.size) < side_px
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.BILINEAR
    return _data_address(image.resize((side_px, side_px), how))


def _opening(label: str) -> str:
    name = escape(label).replace("\\", r"\\")
    return rf'<svg role="img" aria-label="{name}" \1>'


def _data_address(image: Image.Image) -> str:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()
