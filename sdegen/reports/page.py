"""HTML pages from the templates of this package, and the content of a run for a page.

A page needs no other file: its pictures are embedded, and its content security policy forbids loading other files. All
content is escaped, since the names and settings of runs may be any text.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from sdegen.core.errors import UserError
from sdegen.core.meanings import described
from sdegen.reports import seeds
from sdegen.reports.collection import TRIALS, FinishedRun, metrics_of, title, titles, written
from sdegen.reports.formulas import formulas
from sdegen.runs import files

LARGEST = 2**26
"""Size limit for an embedded picture, in bytes."""
SHOWN = ("samples", "classes", "accuracy", "posterior", "trajectories", "generation")
"""Figures of a run that the page shows. More figures are in the folder of the run."""
COLUMNS = {
    "value": "the measure of the samples",
    "floor": "the value that a perfect model would have: that of as many exact or unseen points",
    "training set": "the value of the training points in the place of the samples",
    "value / floor": "1 is as good as exact samples; 2 is twice the floor",
    "steps": "number of steps of the training",
    "seconds": "duration of the training, in seconds",
    "MiB": "peak memory of the process, in mebibytes",
}
"""Meanings of columns of the tables."""


class Link(NamedTuple):
    """Text with a link to the element of the page that has the id ``anchor``."""

    text: str
    anchor: str


class Table(NamedTuple):
    """A table whose first column names the rows.

    Attributes:
        heads: titles of the columns; empty for a table without titles.
        rows: rows of cells. A cell is a number (a float is shown with four digits), text, a :class:`Link`, an
            :class:`~sdegen.reports.seeds.Estimate`, or None.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]


class Picture(NamedTuple):
    """An embedded picture: its ``data:`` address, its width in CSS pixels, and a description in English."""

    source: str
    width: int
    shows: str


def render(template: str, **content: object) -> str:
    """Returns the page that a template makes from ``content``."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sdegen.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"formulas": formulas, "described": meaning, "plain": plain}
    environment.tests["measure"] = lambda name: bool(described(name))
    return environment


def plain(name: str) -> str:
    """Returns the name of a measure without what follows in brackets or parentheses, such as the name of a column."""
    return re.split(r"[ \[(]", name)[0]


def meaning(name: str) -> str:
    """Returns what a measure or a column of a table is, in words; an empty text if it needs no words."""
    return described(name) or COLUMNS.get(name, "")


def picture(content: bytes | Path, shows: str) -> Picture:
    """Embeds a picture, given as bytes or as a file."""
    data = content.read_bytes() if isinstance(content, Path) else content
    with Image.open(io.BytesIO(data)) as opened:
        kind = Image.MIME[str(opened.format)]
        # Browsers use 96 pixels per inch. A picture that states its resolution is shown at the size that was drawn.
        dpi = opened.info.get("dpi", (96,))[0]
        width = 96 * opened.width / dpi if dpi > 0 else opened.width
    return Picture(f"data:{kind};base64,{base64.b64encode(data).decode()}", round(width), shows)


def run_content(run: FinishedRun, keys: Sequence[str]) -> dict[str, Any]:
    """Returns the content of a run; ``keys`` are the options in which the runs of the folder differ."""
    available = pictures(run)
    chosen = {stem: available[stem] for stem in SHOWN if stem in available}
    for path in sorted((run.folder / "evaluations").glob("*/figures/*.png")):
        # The folders are numbered, so that the newest evaluation of each kind is left.
        if _is_picture(path):
            chosen[path.stem] = path
    frontiers = filter(_is_picture, (run.folder / "frontiers").glob("*/frontier.png"))
    if newest := max(frontiers, default=None):
        chosen["quality against evaluations and seconds"] = newest
    return {
        "anchor": anchor("run", run.folder),
        "name": title(run.folder),
        "differs": ", ".join(written((key, run.options[key]) for key in keys if key in run.options)),
        "commands": "\n".join(run.commands),
        "data": data(run),
        "cost": cost(run),
        "metrics": metrics([run]),
        "pictures": [picture(path, f"{run.name}: {stem}") for stem, path in chosen.items()],
        "settings": Table([], list(run.options.items())),
    }


def data(run: FinishedRun) -> str:
    """Returns the lines and warnings about the data of the training; empty if the run has no such file."""
    try:
        found = json.loads(files.text(run.folder / files.DATA))
        lines = [*found["text"], *(f"warning   {concern}" for concern in found["concerns"])]
        return "\n".join(line for line in lines if isinstance(line, str))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        # The file may come from anyone and may contain anything.
        return ""


def pictures(run: FinishedRun) -> dict[str, Path]:
    """Returns the figures of a run by their names, with the newest guided samples of all classes as ``classes``."""
    found = {path.stem: path for path in sorted((run.folder / "figures").glob("*.png"))}
    found |= {f"{path.stem}_gif": path for path in (run.folder / "figures").glob("*.gif")}
    if guided := guided_samples(run):
        found["classes"] = guided.folder / "figures" / "classes.png"
    return {name: path for name, path in found.items() if _is_picture(path)}


def guided_samples(run: FinishedRun) -> FinishedRun | None:
    """Returns the newest samples that were guided to each class, as a run with the samples' folder and metrics."""
    for path in sorted((run.folder / "samples").glob("*/figures/classes.png"), reverse=True):
        folder = path.parents[1]
        with contextlib.suppress(UserError):
            return run._replace(folder=folder, metrics=metrics_of(folder))
    return None


def _is_picture(path: Path) -> bool:
    """Returns True for a complete PNG or GIF of at most :data:`LARGEST` bytes."""
    if not files.is_plain(path, LARGEST):
        return False
    try:
        with Image.open(path, formats=["PNG", "GIF"]) as opened:
            opened.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def runs_table(runs: Sequence[FinishedRun], keys: Sequence[str]) -> Table:
    """Returns a table with a row for each run: the options in which the runs differ, the metrics, and the cost."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    rows = []
    for run in runs:
        values = [run.metrics.get(name, {}).get("value") for name in names]
        costs = [run.cost.get(key) for key in ("steps", "seconds", "peak_memory_mib")]
        link = Link(title(run.folder), anchor("run", run.folder))
        rows.append([link, *(run.options.get(key, "–") for key in keys), *values, *costs])
    return Table(["run", *keys, *names, "steps", "seconds", "MiB"], rows)


def groups_table(runs: Sequence[FinishedRun], keys: Sequence[str]) -> Table | None:
    """Returns a table with a row for the runs that differ in the seed alone, or None if there are no such runs."""
    found, compared = seeds.groups(runs, keys), [key for key in keys if key != "seed"]
    if all(len(group.runs) == 1 for group in found):
        return None
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    columns, names_of = [seeds.estimates(found, name) for name in names], titles(runs)
    rows = []
    for i, group in enumerate(found):
        seconds = [run.cost["seconds"] for run in group.runs if "seconds" in run.cost]
        cells = [len(group.runs), *(column[i] for column in columns), fmean(seconds) if seconds else None]
        rows.append([names_of[group.kind], *group.choice, *cells])
    return Table(["name", *compared, "seeds", *names, "seconds"], rows)


def trials_table(folder: Path) -> tuple[Table, str] | None:
    """Returns the trials of the search over options in a folder, and the importances of the options as text.

    The result is None if there was no search, or if its file is damaged.
    """
    try:
        found = json.loads(files.text(folder / TRIALS))
        rows, shares = found["trials"], found["importances"]
        heads = list(dict.fromkeys(str(key) for row in rows for key in row))
        cells = [
            [value if files.is_number(value) else str(value or "") for value in map(row.get, heads)] for row in rows
        ]
        important = ", ".join(f"{key} {float(share):.0%}" for key, share in shares.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return (Table(heads, cells), important) if rows else None


def metrics(seeds: Sequence[FinishedRun]) -> Table | None:
    """Returns all metrics as medians over the seeds, with the minimum and maximum if there are several seeds."""
    rows = []
    for name, found in seeds[0].metrics.items():
        values = [run.metrics[name]["value"] for run in seeds if name in run.metrics]
        extremes = [min(values), max(values)] if len(seeds) > 1 else []
        middle, floor = median(values), found.get("floor")
        rows.append([name, middle, *extremes, floor, found.get("train"), ratio(middle, floor)])
    heads = ["", f"median of {len(seeds)} seeds", "least", "most"] if len(seeds) > 1 else ["", "value"]
    return Table([*heads, "floor", "training set", "value / floor"], rows) if rows else None


def cost(run: FinishedRun) -> str:
    """Returns steps, time and memory of the training and what it learned as text, as far as they were recorded."""
    steps, seconds, memory = (run.cost.get(key) for key in ("steps", "seconds", "peak_memory_mib"))
    parts = [f"{steps} steps", f"trained in {duration(seconds)}"] if steps else []
    text = ", ".join([*parts, f"{whole(memory)} MiB"] if memory else parts)
    learning = run.provenance.get("learning")
    sentence = learning.get("sentence") if isinstance(learning, Mapping) else None
    return f"{text}; {sentence[:300]}" if isinstance(sentence, str) else text


def ratio(value: object, floor: object) -> float | None:
    """Returns a value divided by its floor, or None if there is no positive floor."""
    return value / floor if isinstance(value, float) and isinstance(floor, float) and floor > 0 else None


def duration(seconds: object) -> str:
    """Returns a duration in its two largest units: ``3 h 1 min``, ``1 min 52 s``, ``7 s``."""
    if not isinstance(seconds, (int, float)):
        return ""
    total = round(seconds)
    parts = [(total // 3600, "h"), (total // 60 % 60, "min"), (total % 60, "s")]
    first = next((i for i, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first : first + 2])


def whole(number: object) -> str:
    """Returns a number without decimals, or an empty text for None."""
    return f"{number:.0f}" if isinstance(number, (int, float)) else ""


def anchor(kind: str, folder: Path) -> str:
    """Returns an anchor of the page that is different for each folder."""
    return f"{kind}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
