"""A page of HTML that needs nothing beside itself: its pictures are inside it, and it may load nothing else.

What is said on it is data, never markup: every function but those of whole elements takes plain text.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Literal

from PIL import Image

from sdegen.runs import files

LARGEST = 2**26
"""Bytes of a picture."""
TYPES = {".png": "image/png", ".gif": "image/gif"}


def document(title: str, body: str) -> str:
    """The page around its elements."""
    return PAGE.format(title=escape(title), style=STYLE, script=SCRIPT, body=body)


def section(anchor: str, heading: str, parts: Iterable[str]) -> str:
    """A part of the page that others can point to."""
    return f"<section id='{escape(anchor, quote=True)}'><h2>{escape(heading)}</h2>{''.join(parts)}</section>"


def contents(links: Sequence[Link]) -> str:
    """A list of what is on the page."""
    return f"<nav><ul>{''.join(f'<li>{cell(link)}</li>' for link in links)}</ul></nav>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def items(texts: Sequence[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def folded(
    summary: str, note: str, parts: Iterable[str], *, anchor: str = "", opened: bool = False, printed: bool = True
) -> str:
    """What is shown when it is asked for, and on paper where it is ``printed``: a summary, and a note beside it."""
    own = (f" id='{escape(anchor, quote=True)}'" if anchor else "") + ("" if printed else " class='screen'")
    head = f"{escape(summary)} <small>{escape(note)}</small>"
    return f"<details{own}{' open' if opened else ''}><summary>{head}</summary>{''.join(parts)}</details>"


def table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], *, kind: Literal["numbers", "sorts", "text"] = "numbers"
) -> str:
    """A table whose first column names the rows.

    Args:
        heads: of the columns; all empty for none.
        rows: of cells: a number, which is written with four digits, a text, a :class:`Link`, or None.
        kind: numbers, numbers that are sorted by a click on a head, or text that is broken into lines.
    """
    titles = (f"<button type='button'>{escape(head)}</button>" if kind == "sorts" else escape(head) for head in heads)
    top = "".join(f"<th scope='col'>{title}</th>" for title in titles)
    body = ""
    for first, *rest in rows:
        cells = "".join(f"<td>{cell(value)}</td>" for value in rest)
        body += f"<tr><th scope='row'>{cell(first)}</th>{cells}</tr>"
    head = f"<thead><tr>{top}</tr></thead>" if any(heads) else ""
    return f"<div class='wide'><table class='{kind}'>{head}<tbody>{body}</tbody></table></div>"


class Link(str):
    """Text that leads to an element of the page.

    Args:
        text: what is read.
        anchor: of the element.
    """

    anchor: str

    def __new__(cls, text: str, anchor: str) -> Link:
        link = super().__new__(cls, text)
        link.anchor = anchor
        return link


def cell(value: object) -> str:
    """What stands in a cell of a table."""
    if value is None:
        return ""
    if isinstance(value, Link):
        return f"<a href='#{escape(value.anchor, quote=True)}'>{escape(value)}</a>"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def is_picture(path: Path) -> bool:
    """Whether a file is a whole picture that a page can hold."""
    if not files.is_plain(path, LARGEST):
        return False
    try:
        with Image.open(path, formats=["PNG", "GIF"]) as opened:
            opened.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return path.suffix in TYPES


def picture(content: bytes | Path, text: str, *, caption: str = "") -> str:
    """A picture in PNG or GIF, or the file of one, with words for who cannot see it, and a caption.

    Args:
        content: the picture, PNG where it is no file.
        text: what there is to see.
        caption: an element, not plain text: see :func:`caption`.
    """
    kind = TYPES[content.suffix] if isinstance(content, Path) else TYPES[".png"]
    data = content.read_bytes() if isinstance(content, Path) else content
    with Image.open(io.BytesIO(data)) as opened:
        # As wide as it was drawn, where it says how many dots it has to the inch; a browser has 96.
        dpi = opened.info.get("dpi", (96,))[0]
        wide = 96 * opened.width / dpi if dpi > 0 else opened.width
    size = f" width='{wide:.0f}'"
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    image = f"<img alt='{escape(text, quote=True)}'{size} src='{source}'>"
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>" if caption else image


def caption(label: str, quoted: str, language: str, text: str) -> str:
    """A label, the words of a source in its language, and ours; the first two may be empty."""
    named = f"<b>{escape(label)}</b> " if label else ""
    said = f"<q lang='{language}'>{escape(quoted)}</q> " if quoted else ""
    return f"{named}{said}{escape(text)}"


STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1, h2, h3, li { overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.25rem; margin-top: 3rem; } h3 { font-size: 1.05rem; margin-top: 2rem; }
nav ul { columns: 14rem; padding-left: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; }
th[scope=row] { font-weight: normal; }
tbody tr + tr { border-top: 1px solid color-mix(in srgb, currentcolor 15%, transparent); }
.text td, .text th { text-align: left; white-space: normal; min-width: 3rem; }
thead { border-bottom: 1px solid; }
th button { font: inherit; font-weight: bold; border: 0; padding: 0; background: none; color: inherit; }
th button { cursor: pointer; }
th[aria-sort=ascending] button::after { content: " ↑"; } th[aria-sort=descending] button::after { content: " ↓"; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; max-width: 44rem; } q { font-style: italic; }
img { max-width: 100%; height: auto; display: block; margin: .5rem 0; background: white; }
details { margin: .5rem 0; } summary { cursor: pointer; } section > details > summary { font-weight: bold; }
small { font-weight: normal; } code { overflow-wrap: anywhere; } pre { white-space: pre-wrap; margin: .5rem 0; }
@media print {
  body { max-width: none; font-size: 11px; padding: 0; } nav, .screen { display: none; }
  table, figcaption { font-size: 10px; } .wide { overflow: visible; }
  h2, h3 { break-after: avoid; } figure, img, tr { break-inside: avoid; } a { color: inherit; text-decoration: none; }
}
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.querySelectorAll("thead th")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[column].textContent;
    const order = (a, b) => {
      const [x, y] = [Number(key(a) || NaN), Number(key(b) || NaN)];
      return isNaN(x) || isNaN(y) ? isNaN(x) - isNaN(y) || key(a).localeCompare(key(b)) : x - y;
    };
    const rows = [...table.tBodies[0].rows].sort((a, b) => down ? order(b, a) : order(a, b));
    table.tBodies[0].append(...rows);
  }));
}
const open = () => document.querySelectorAll("details:not(.screen)").forEach(part => { part.open = true; });
addEventListener("beforeprint", open);
const show = () => {
  const part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (part && part.tagName === "DETAILS") part.open = true;
};
addEventListener("hashchange", show);
show();
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
<script>{script}</script>
</body>
</html>
"""
