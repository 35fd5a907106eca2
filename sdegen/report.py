"""One page on which a folder of runs is read: figures, measures with floors, what the runs differ in, and their cost.

The page needs nothing beside itself: pictures are inside it, and its policy lets a browser load nothing else. Text from
the runs is data, never markup.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from sdegen import figures, files, ledger
from sdegen.assembly import choice
from sdegen.errors import UserError
from sdegen.frontier import METRICS, flat

NAME = "report.html"
OWN = ("trust", "resume", "forecast")
"""Options that say how a run was asked for, not what it is."""


class Entry(NamedTuple):
    """A finished run.

    Attributes:
        folder: where it lies.
        name: of the run.
        options: all of its configuration, by their paths; a group's stands for its class.
        metrics: as in ``metrics.json``.
        provenance: as in ``provenance.json``.
    """

    folder: Path
    name: str
    options: dict[str, str]
    metrics: dict[str, dict[str, Any]]
    provenance: dict[str, Any]


def write(root: Path) -> tuple[Path, list[Entry], list[tuple[Path, str]]]:
    """Write ``report.html`` into a folder with runs in it, at any depth.

    Returns:
        The page, the runs on it, and what was left out, with why.

    Raises:
        UserError: there is no such folder, or no finished run in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give one with runs in it, such as outputs")
    entries, left_out = collect(root)
    if not entries:
        why = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise UserError(f"{root}: holds no finished run{why}")
    text = page(root, entries, left_out)
    temporary = root / f".{NAME}"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, root / NAME)
    return root / NAME, entries, left_out


def collect(root: Path) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """The finished runs below a folder, in the order of their names, and what was left out, with why."""
    entries, left_out = [], []
    failed: dict[Path, str] = {}
    for folder, inner, names in os.walk(root):
        # A link to a folder, as latest is, is not walked into.
        inner.sort(key=_natural)
        here = Path(folder)
        failed |= {here / job: record.error for job, record in ledger.read(here).items() if record.state == "failed"}
        if "config.yaml" in names and ("checkpoints" in inner or "provenance.json" in names):
            inner.clear()
            try:
                entries.append(read(here))
            except UserError as error:
                left_out.append((here, str(error)))
        # Hydra leaves a note of a sweep over samplers.
        elif not inner and here != root and names != ["multirun.yaml"]:
            left_out.append((here, "holds no run"))
    return entries, [(folder, f"failed: {failed[folder]}" if folder in failed else why) for folder, why in left_out]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """10-smile after 9-smile."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def read(folder: Path) -> Entry:
    """The run in a folder; UserError says why it is none, or not finished."""
    from omegaconf import OmegaConf

    def loaded(name: str) -> dict[str, Any]:
        try:
            found = json.loads((folder / name).read_text())
        except FileNotFoundError:
            raise UserError(f"is not finished: it has no {name}") from None
        except ValueError:
            raise UserError(f"{name} is damaged") from None
        if not isinstance(found, dict):
            raise UserError(f"{name} is not a run's")
        return found

    provenance, metrics = loaded("provenance.json"), loaded("metrics.json")
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        options = {key: str(value) for key, value in _options(config) if key not in OWN}
    except Exception:  # A file of anybody's, which may hold anything.
        raise UserError("config.yaml is damaged, or not a run's") from None
    if not all(isinstance(entry, dict) and "value" in entry for entry in metrics.values()):
        raise UserError("metrics.json is not a run's")
    return Entry(folder, str(config.get("name", folder.name)), options, metrics, provenance)


def _options(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and "_target_" in value:
            pairs.append((key, choice(value)))
            pairs += [(f"{key}.{k}", v) for k, v in flat(value) if not k.endswith("_target_")]
        else:
            pairs.append((key, value))
    return pairs


def varied(entries: Sequence[Entry]) -> list[str]:
    """The options that are not the same in all runs, those of a group after the group's own."""
    keys = dict.fromkeys(key for entry in entries for key in entry.options)
    differing = [key for key in keys if len({entry.options.get(key) for entry in entries}) > 1]
    # Where the classes differ, so do the options that only one of them has: the class says it.
    lacking = {key for key in differing if any(key not in entry.options for entry in entries)}
    return [key for key in differing if key not in lacking or key.rpartition(".")[0] not in differing]


def question(entries: Sequence[Entry]) -> Figure | None:
    """The first measure that all runs of a name have, for each choice of what they differ in, a point for each seed.

    The large point is the median of the seeds; the dashed line is the floor. None where no runs of a name differ.
    """
    panels = []
    for name in dict.fromkeys(entry.name for entry in entries):
        own = [entry for entry in entries if entry.name == name]
        metric = next((m for m in METRICS if all(m in entry.metrics for entry in own)), None)
        keys = [key for key in varied(own) if key not in ("seed", "name")]
        if metric and keys:
            found: dict[str, list[Entry]] = {}
            for entry in own:
                found.setdefault("\n".join(f"{key}={entry.options.get(key, '–')}" for key in keys), []).append(entry)
            panels.append((name, metric, found))
    if not panels:
        return None
    with matplotlib.rc_context(figures.STYLE):
        height = 1.0 + 0.34 * sum(label.count("\n") + 1 for label in max((p[2] for p in panels), key=len))
        figure = Figure(figsize=(3.6 * len(panels), height), layout="constrained")
        for axes, (name, metric, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for row, own in enumerate(found.values()):
                values = [entry.metrics[metric]["value"] for entry in own]
                axes.plot(values, [row] * len(values), "o", color=figures.DATA, markersize=3, alpha=0.5)
                axes.plot(median(values), row, "o", color=figures.DATA, markersize=6)
            floors = [entry.metrics[metric].get("floor") for own in found.values() for entry in own]
            known = [floor for floor in floors if floor]
            if known:
                axes.axvline(median(known), color="0.4", linestyle="--", linewidth=1, label="floor")
                axes.legend(loc="best")
            axes.set_xscale("log")
            axes.set_yticks(range(len(found)), found)
            axes.set_ylim(len(found) - 0.5, -0.5)
            axes.set(title=name, xlabel=metric.replace("_", " "))
    return figure


def page(root: Path, entries: Sequence[Entry], left_out: Sequence[tuple[Path, str]]) -> str:
    """The whole page."""
    parents = list(dict.fromkeys(entry.folder.parent for entry in entries))
    parts = [section(root, [entry for entry in entries if entry.folder.parent == parent]) for parent in parents]
    if left_out:
        rows = "".join(f"<li><code>{_below(root, folder)}</code>: {escape(why)}</li>" for folder, why in left_out)
        parts.append(f"<section><h2>Left out</h2><ul>{rows}</ul></section>")
    title = escape(f"Runs in {root}")
    return PAGE.format(title=title, style=STYLE, script=SCRIPT, body="\n".join(parts))


def section(root: Path, entries: Sequence[Entry]) -> str:
    """The runs of one folder: a table that sorts, the plot of what they differ in, and each run."""
    parts = [f"<h2>{_below(root, entries[0].folder.parent)}</h2>"]
    if len(entries) > 1:
        parts.append(_table(root, entries))
    figure = question(entries)
    if figure is not None:
        buffer = io.BytesIO()
        with matplotlib.rc_context(figures.STYLE):
            figure.savefig(buffer, format="png")
        parts.append(_picture(buffer.getvalue(), "the measure of every run, by what the runs differ in"))
    opened = " open" if len(entries) <= 6 else ""
    parts += [f"<details{opened} id='{_anchor(root, entry)}'>{_run(entry)}</details>" for entry in entries]
    return f"<section>{''.join(parts)}</section>"


def _table(root: Path, entries: Sequence[Entry]) -> str:
    keys = [key for key in varied(entries) if key != "name"]
    names = list(dict.fromkeys(name for entry in entries for name in entry.metrics))
    heads = ["run", *keys, *names, "steps", "seconds", "MiB"]
    rows = []
    for entry in entries:
        training = entry.provenance.get("training", {})
        cells: list[object] = [
            *(entry.options.get(key, "–") for key in keys),
            *(entry.metrics.get(name, {}).get("value") for name in names),
            *(training.get(key) for key in ("steps", "seconds", "peak_memory_mib")),
        ]
        link = f"<td><a href='#{_anchor(root, entry)}'>{escape(entry.folder.name)}</a></td>"
        rows.append(f"<tr>{link}{''.join(f'<td>{_cell(value)}</td>' for value in cells)}</tr>")
    head = "".join(f"<th scope='col'><button type='button'>{escape(text)}</button></th>" for text in heads)
    return _wide(f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>", "sorts")


def _run(entry: Entry) -> str:
    training, rows = entry.provenance.get("training", {}), []
    for name, found in entry.metrics.items():
        value, floor = found["value"], found.get("floor")
        ratio = value / floor if isinstance(value, float) and isinstance(floor, float) and floor > 0 else None
        cells = "".join(f"<td>{_cell(number)}</td>" for number in (value, floor, found.get("train"), ratio))
        rows.append(f"<tr><th scope='row'>{escape(name)}</th>{cells}</tr>")
    heads = "".join(
        f"<th scope='col'>{text}</th>" for text in ("", "samples", "floor", "training set", "over the floor")
    )
    pictures = [
        _picture(path.read_bytes(), f"{entry.name}: {path.stem}")
        for path in sorted(
            (entry.folder / "figures").glob("*.png"), key=lambda path: (path.stem != "samples", path.stem)
        )
    ]
    cost = [str(timedelta(seconds=round(training["seconds"])))] if isinstance(training.get("seconds"), float) else []
    cost += [f"{training['steps']} steps"] if "steps" in training else []
    cost += [f"{training['peak_memory_mib']:.0f} MiB"] if isinstance(training.get("peak_memory_mib"), float) else []
    settings = "".join(
        f"<tr><th scope='row'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in entry.options.items()
    )
    return f"""<summary>{escape(entry.name)} <small>{escape(entry.folder.name)}</small></summary>
<p><code>{escape(str(entry.provenance.get("command", "")))}</code><br>{escape(", ".join(cost))}</p>
{_wide(f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody>")}
{"".join(pictures)}
<details class='settings'><summary>settings</summary>{_wide(f"<tbody>{settings}</tbody>")}</details>"""


def _wide(rows: str, kind: str = "") -> str:
    return f"<div class='wide'><table class='{kind}'>{rows}</table></div>"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _picture(png: bytes, text: str) -> str:
    return f"<img alt='{escape(text, quote=True)}' src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _below(root: Path, folder: Path) -> str:
    return escape(str(folder if folder == root else folder.relative_to(root)))


def _anchor(root: Path, entry: Entry) -> str:
    return escape("run-" + files.snake_case(str(entry.folder.relative_to(root))).replace("/", "-"), quote=True)


STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; }
th[scope=row], th:first-child, td:first-child { text-align: left; }
th[scope=row] { font-weight: normal; }
thead { border-bottom: 1px solid; }
th button { font: inherit; font-weight: bold; border: 0; padding: 0; background: none; color: inherit; }
th[aria-sort=ascending] button::after { content: " ↑"; } th[aria-sort=descending] button::after { content: " ↓"; }
img { max-width: min(100%, 44rem); height: auto; display: block; margin: .5rem 0; background: white; }
details { margin: .5rem 0; } summary { cursor: pointer; font-weight: bold; } small { font-weight: normal; }
.settings summary { font-weight: normal; } code { overflow-wrap: anywhere; }
@media print { body { max-width: none; font-size: 11px; } section { break-before: page; } img { break-inside: avoid; } }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.querySelectorAll("th")];
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
const open = () => document.querySelectorAll("section > details").forEach(part => { part.open = true; });
addEventListener("beforeprint", open);
const show = () => { const part = document.getElementById(location.hash.slice(1)); if (part) part.open = true; };
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
