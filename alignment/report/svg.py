"""A matplotlib SVG made fit for a page: no styles, no links, ids of its own, colours that follow the page's scheme."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from alignment.report.canvas import BASE, GREY, INK, PALETTE, PAPER
from alignment.report.display import visible

# The page's stylesheet gives these a value for the light and the dark scheme.
VARIABLES = {INK: "var(--ink)", GREY: "var(--grey)", PAPER: "var(--paper)", BASE: "var(--series-0)"} | {
    colour: f"var(--series-{index})" for index, colour in enumerate(PALETTE, 1)
}
_FONT = re.compile(r"(?:(?P<weight>bold|\d{3}) )?(?P<size>[\d.]+)px ")


def inline_svg(text: str, name: str, alt: str) -> str:
    """`text` (an SVG file as matplotlib writes it) as an element to put into HTML.

    Inline styles become attributes, so the page's content policy can refuse every inline style; ids get `name`
    in front, so two figures on a page never share one.
    """
    root = ElementTree.fromstring(text)
    for parent in root.iter():
        for child in [c for c in parent if _local(c.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        attributes |= _style(attributes.pop("style", ""))
        element.attrib.clear()
        element.attrib.update({key: _value(key, value, name) for key, value in attributes.items()})
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": visible(alt)}
    return ElementTree.tostring(root, encoding="unicode")


def _local(tag: str) -> str:
    """The name without its namespace: HTML knows SVG by itself."""
    return tag.rpartition("}")[2]


def _style(style: str) -> dict[str, str]:
    """`fill: none; stroke: #1a1a1a` -> attributes; the font shorthand is split, its family left to the page."""
    attributes: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in style.split(";"))):
        key, _, value = part.partition(":")
        if key == "font":
            font = _FONT.match(value.strip())
            attributes |= {f"font-{k}": v for k, v in font.groupdict().items() if v} if font else {}
        else:
            attributes[key.strip()] = value.strip()
    return attributes


def _value(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if value.startswith("url(#"):
        return value.replace("url(#", f"url(#{name}-", 1)
    return VARIABLES.get(value.lower(), value)
