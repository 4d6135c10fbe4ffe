"""Parts of a page: filled templates, figures that follow the reader's theme, and images as data URLs."""

from __future__ import annotations

import base64
import io
import warnings
from functools import cache
from typing import Any
from xml.etree import ElementTree

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

import tables
from training import curves

THUMBNAIL_PX = 176

_FORMATS = {
    "count": tables.count,
    "decimal": tables.decimal,
    "p": tables.p_value,
    "percent": tables.percent,
    "tenth": tables.tenth,
}
_THEME = {
    curves.INK: "var(--ink)",
    curves.FAINT: "var(--faint)",
    curves.PAPER: "var(--paper)",
    curves.BLUE: "var(--blue)",
    curves.ORANGE: "var(--orange)",
    curves.GREEN: "var(--green)",
    curves.PINK: "var(--pink)",
}
_SVG = "http://www.w3.org/2000/svg"
# Text stays text: small, searchable, in the reader's font; a $ in a class name doesn't start a formula.
_AS_TEXT: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
# Class names may hold characters that XML forbids, and Matplotlib writes them unchanged.
_NOT_XML = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 0xFFFE, 0xFFFF], "\N{REPLACEMENT CHARACTER}")

ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def render(template: str, numbers: dict[str, Any], **context: Any) -> str:
    """Fills `template`, a file in the folder `templates`.

    Each number names its place in the JSON file beside the page, so that both can be compared.

    Args:
        template: the file's name.
        numbers: the content of the JSON file that belongs to the page; `num("/a/0/b", kind)` shows a number of it.
        **context: the other variables of the template.
    """
    page = _environment().get_template(template)

    def num(pointer: str, kind: str = "percent") -> Markup:
        text = _FORMATS[kind](_at(numbers, pointer))
        return Markup('<span class="num" data-metric="{}" data-kind="{}">{}</span>').format(pointer, kind, text)

    return page.render(numbers=numbers, num=num, **context)


def _at(numbers: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901, without escapes, which our names don't need); None below a null."""
    for step in pointer.strip("/").split("/"):
        if numbers is None:
            return None
        numbers = numbers[int(step)] if isinstance(numbers, list) else numbers[step]
    return numbers


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evaluation"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FORMATS)
    return environment


def svg(figure: Figure, label: str) -> Markup:
    """The figure as an inline SVG in the style sheet's colors; screen readers read `label`."""
    target = io.StringIO()
    with mpl.rc_context({**_AS_TEXT, "svg.hashsalt": label}), warnings.catch_warnings():
        # Matplotlib's font lacks many scripts; the browser, which draws the letters, doesn't.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure.savefig(target, format="svg", facecolor="none", metadata=_NO_METADATA)
    root = ElementTree.fromstring(target.getvalue().translate(_NOT_XML))
    # Its size comes from the page.
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    for group in root.iter(f"{{{_SVG}}}g"):
        # The ids are the same in every figure, and nothing refers to them.
        group.attrib.pop("id", None)
    drawing = ElementTree.tostring(root, encoding="unicode")
    for color, variable in _THEME.items():
        drawing = drawing.replace(color, variable)
    return Markup(drawing)


def thumbnail(encoded: bytes, longest_px: int = THUMBNAIL_PX) -> str:
    """A small copy of an encoded image as a data URL, in its aspect ratio; "" when it can't be read."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            # A large JPEG is decoded at a fraction of its size.
            image.draft("RGB", (2 * longest_px, 2 * longest_px))
            small = image.convert("RGB")
    # Pillow raises its parsers' own errors on damaged files; the report shows a blank in place of the image.
    except Exception:
        return ""
    small.thumbnail((longest_px, longest_px))
    return _data_url(small)


def from_pixels(pixels: np.ndarray, side_px: int = THUMBNAIL_PX) -> str:
    """uint8 pixels (height, width, 1 or 3) as the data URL of a square of `side_px`; enlarging doesn't smooth."""
    if pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    image = Image.fromarray(pixels)
    enlarged = max(image.size) < side_px
    how = Image.Resampling.NEAREST if enlarged else Image.Resampling.BILINEAR
    return _data_url(image.resize((side_px, side_px), how))


def _data_url(image: Image.Image) -> str:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(target.getvalue()).decode()
