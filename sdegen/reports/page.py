"""Pages of HTML from the templates of this room.

A page needs no other file: its pictures are embedded, and its policy forbids it to load anything. All content is
escaped, since names and settings of runs may be anybody's text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from sdegen.runs import files

LARGEST = 2**26
"""Largest picture that is embedded, in bytes."""
TYPES = {".png": "image/png", ".gif": "image/gif"}


class Link(NamedTuple):
    """Text that leads to the element of the page with an anchor."""

    text: str
    anchor: str


class Table(NamedTuple):
    """A table whose first column names the rows.

    Attributes:
        heads: titles of the columns; empty for a table without them.
        rows: cells: numbers (floats are written with four digits), text, a :class:`Link`, or None for an empty cell.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


class Picture(NamedTuple):
    """An embedded picture.

    Attributes:
        source: the picture as a ``data:`` address.
        width: pixels of the browser.
        shows: what is to be seen, in English.
        label: number of the figure in a source; may be empty.
        quoted: the source's own caption; may be empty.
    """

    source: str
    width: int
    shows: str
    label: str = ""
    quoted: str = ""


def render(template: str, **content: object) -> str:
    """Returns the page that a template makes of its content."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sdegen.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def is_picture(path: Path) -> bool:
    """Returns True for a complete PNG or GIF of at most :data:`LARGEST` bytes."""
    if path.suffix not in TYPES or not files.is_plain(path, LARGEST):
        return False
    try:
        with Image.open(path, formats=["PNG", "GIF"]) as opened:
            opened.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def picture(content: bytes | Path, shows: str, label: str = "", quoted: str = "") -> Picture:
    """Embeds a picture, given as the bytes of a PNG or as a file, with the fields of :class:`Picture`."""
    kind = TYPES[content.suffix] if isinstance(content, Path) else TYPES[".png"]
    data = content.read_bytes() if isinstance(content, Path) else content
    with Image.open(io.BytesIO(data)) as opened:
        # Shown as wide as it was drawn if it has a resolution: a browser has 96 dots per inch.
        dpi = opened.info.get("dpi", (96,))[0]
        width = 96 * opened.width / dpi if dpi > 0 else opened.width
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(source, round(width), shows, label, quoted)
