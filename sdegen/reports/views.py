"""The parts of a run that the page shows: measures, figures, settings, and the cost of its training."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sdegen.core.errors import UserError
from sdegen.reports import page
from sdegen.reports.collection import FinishedRun, metrics_of
from sdegen.reports.page import Link, Table

SHOWN = ("samples", "classes", "accuracy")
"""The figures of a run that stand on the page; the others are in the run's folder."""


def run_content(run: FinishedRun, keys: Sequence[str]) -> dict[str, Any]:
    """Returns one run of a folder, with the options in which the folder's runs differ and the figures in SHOWN."""
    available = pictures(run)
    chosen = {stem: available[stem] for stem in SHOWN if stem in available}
    frontiers = filter(page.is_picture, (run.folder / "frontiers").glob("*/frontier.png"))
    if newest := max(frontiers, default=None):
        chosen["quality against evaluations and seconds"] = newest
    return {
        "anchor": anchor("run", run.folder),
        "name": run.folder.name,
        "differs": ", ".join(f"{key}={run.options[key]}" for key in keys if key in run.options),
        "command": str(run.provenance.get("command", "")),
        "cost": cost(run),
        "measures": measures([run]),
        "pictures": [page.picture(path, f"{run.name}: {stem}") for stem, path in chosen.items()],
        "settings": settings(run),
    }


def table(runs: Sequence[FinishedRun], keys: Sequence[str]) -> Table:
    """Returns a row for each run: the options in which the runs differ, the measures, and the cost."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    rows = []
    for run in runs:
        values = [run.metrics.get(name, {}).get("value") for name in names]
        costs = [run.cost.get(key) for key in ("steps", "seconds", "peak_memory_mib")]
        link = Link(run.folder.name, anchor("run", run.folder))
        rows.append([link, *(run.options.get(key, "–") for key in keys), *values, *costs])
    return Table(["run", *keys, *names, "steps", "seconds", "MiB"], rows)


def measures(seeds: Sequence[FinishedRun]) -> Table | None:
    """Returns all measures as medians over the seeds, with the least and the most if there are several seeds."""
    rows = []
    for metric, found in seeds[0].metrics.items():
        values = [run.metrics[metric]["value"] for run in seeds if metric in run.metrics]
        extremes = [min(values), max(values)] if len(seeds) > 1 else []
        middle, floor = median(values), found.get("floor")
        rows.append([metric, middle, *extremes, floor, found.get("train"), ratio(middle, floor)])
    heads = ["", f"median of {len(seeds)} seeds", "least", "most"] if len(seeds) > 1 else ["", "value"]
    return Table([*heads, "floor", "training set", "value / floor"], rows) if rows else None


def pictures(run: FinishedRun) -> dict[str, Path]:
    """Returns the figures of a run by their names, with the newest guided samples of all classes as ``classes``."""
    found = {path.stem: path for path in sorted((run.folder / "figures").glob("*.png"))}
    found |= {f"{path.stem}_gif": path for path in (run.folder / "figures").glob("*.gif")}
    if guided := guided_samples(run):
        found["classes"] = guided.folder / "figures" / "classes.png"
    return {name: path for name, path in found.items() if page.is_picture(path)}


def guided_samples(run: FinishedRun) -> FinishedRun | None:
    """Returns the newest samples that were guided to each class, as a run with their folder and measures."""
    for picture in sorted((run.folder / "samples").glob("*/figures/classes.png"), reverse=True):
        folder = picture.parents[1]
        with contextlib.suppress(UserError):
            return run._replace(folder=folder, metrics=metrics_of(folder))
    return None


def settings(run: FinishedRun) -> Table:
    """Returns all options of a run."""
    return Table([], list(run.options.items()))


def cost(run: FinishedRun) -> str:
    """Returns steps, time and memory of the training in words; empty if they were not recorded."""
    steps, seconds, memory = (run.cost.get(key) for key in ("steps", "seconds", "peak_memory_mib"))
    parts = [f"{steps} steps", f"trained in {duration(seconds)}"] if steps else []
    return ", ".join([*parts, f"{whole(memory)} MiB"] if memory else parts)


def ratio(value: object, floor: object) -> float | None:
    """Returns a value over its floor, or None where there is no positive floor."""
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
    """Returns an address on the page that no other folder has."""
    return f"{kind}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"
