"""Reads a page of ours as a browser would: numbers with their places, images, and what it would fetch."""

from __future__ import annotations

import base64
import io
import json
import pathlib
from html.parser import HTMLParser
from typing import Any

from PIL import Image

_UNITS = {"percent": 0.01, "decimal": 1, "count": 1, "tenth": 1, "p": 1}
# Half of the last digit that each kind shows.
_ROUNDING = {"percent": 0.0005, "decimal": 0.0005, "count": 0, "tenth": 0.05, "p": 0.0005}


class Page(HTMLParser):
    """What a page holds.

    Attributes:
        numbers: (place in the JSON file, kind, text) of every number.
        images: addresses of all images.
        fetched: addresses that a browser would load from elsewhere.
        text: all text.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []
        self.images: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self._place: tuple[str, str] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if "data-metric" in named:
            self._place = (named["data-metric"], named["data-kind"])
        if tag == "img":
            self.images.append(named["src"])
        loads = [named.get("src", ""), named.get("xlink:href", ""), named.get("href", "") if tag == "link" else ""]
        self.fetched += [address for address in loads if address and not address.startswith(("data:", "#"))]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._place:
            self.numbers.append((*self._place, data))
            self._place = None


def differing(numbers: list[tuple[str, str, str]], path: pathlib.Path) -> list[str]:
    """The numbers that are not those of the JSON file at `path`, rounded as shown."""
    truth = json.loads(path.read_text())
    return [f"{place}: {text}" for place, kind, text in numbers if not _agrees(_at(truth, place), kind, text)]


def sizes(images: list[str]) -> list[tuple[int, int]]:
    """Width and height of images in `data:` addresses, decoded fully."""
    found = []
    for address in images:
        with Image.open(io.BytesIO(base64.b64decode(address.split(",", 1)[1]))) as image:
            image.load()
            found.append(image.size)
    return found


def _at(value: Any, place: str) -> Any:
    for step in place.strip("/").split("/"):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def _agrees(value: float | None, kind: str, text: str) -> bool:
    if value is None or text == "\N{EN DASH}":
        return value is None and text == "\N{EN DASH}"
    if text.startswith("<"):
        return value < 0.001
    shown = float(text.removesuffix(" %").replace(",", "")) * _UNITS[kind]
    return abs(shown - value) <= _ROUNDING[kind] + 1e-9
