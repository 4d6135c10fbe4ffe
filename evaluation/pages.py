"""Fills the templates. A number on a page names its place in the JSON file beside it, so that both can be compared."""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from evaluation import tables

_FORMATS = {
    "count": tables.count,
    "decimal": tables.decimal,
    "p": tables.p_value,
    "percent": tables.percent,
    "tenth": tables.tenth,
}


def render(template: str, numbers: dict[str, Any], **context: Any) -> str:
    """Fills `template`, a file of the folder `templates`.

    Args:
        template: the file's name.
        numbers: the content of the JSON file that belongs to the page; `num("/a/0/b", kind)` shows a number of it.
        context: whatever else the template names.
    """
    page = _environment().get_template(template)

    def num(pointer: str, kind: str = "percent") -> Markup:
        text = _FORMATS[kind](_at(numbers, pointer))
        return Markup('<span class="num" data-metric="{}" data-kind="{}">{}</span>').format(pointer, kind, text)

    return page.render(numbers=numbers, num=num, **context)


def _at(numbers: Any, pointer: str) -> Any:
    """The value at a JSON pointer (RFC 6901, without its escapes: our names need none); None below a null."""
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
