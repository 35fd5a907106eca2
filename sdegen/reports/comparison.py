"""Runs side by side: the options in which they differ, and the figure that answers what a sweep asks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sdegen import figures
from sdegen.reports.collection import Entry
from sdegen.reports.frontier import COLOURS, MARKERS, METRICS

ASKED = 4
"""Options in which runs differ that a figure has room to name."""
COST = {"seconds": "training, seconds", "peak_memory_mib": "peak memory, MiB"}
"""What the training cost, by its name in ``provenance.json``."""


def varied(entries: Sequence[Entry]) -> list[str]:
    """The options that are not the same in all runs, those of a group after the group's own."""
    keys = dict.fromkeys(key for entry in entries for key in entry.options)
    differing = [key for key in keys if len({entry.options.get(key) for entry in entries}) > 1]
    # Where the classes differ, so do the options that only one of them has: the class says it.
    lacking = {key for key in differing if any(key not in entry.options for entry in entries)}
    said = {key for key in lacking if key.rpartition(".")[0] in differing} | _seeded(entries, differing)
    return [key for key in differing if key not in said]


def _seeded(entries: Sequence[Entry], keys: Sequence[str]) -> set[str]:
    """The options that follow from the seed, as what is measured on the data does, where runs share their seeds."""
    by_seed: dict[str | None, list[Entry]] = {}
    for entry in entries:
        by_seed.setdefault(entry.options.get("seed"), []).append(entry)
    if any(len(own) == 1 for own in by_seed.values()):
        return set()
    same = {key for key in keys if all(len({e.options.get(key) for e in own}) == 1 for own in by_seed.values())}
    return same - {"seed"}


def swept(entries: Sequence[Entry]) -> list[str]:
    """The options in which runs of one name differ; where none do, those in which the names do.

    What follows from the name alone, as an experiment's own settings do, is said by it.
    """
    names = dict.fromkeys(entry.name for entry in entries)
    within = {key for name in names for key in varied([entry for entry in entries if entry.name == name])}
    return [key for key in varied(entries) if key != "name" and (key in within or not within)]


def headline(entries: Sequence[Entry]) -> str | None:
    """The first measure of quality that all of some runs have."""
    return next((name for name in METRICS if all(name in entry.metrics for entry in entries)), None)


def figure(entries: Sequence[Entry]) -> Figure | None:
    """The quality of runs over what they differ in, a panel for each name, a small point for each seed.

    Over a number that was swept there is a line through the medians of the seeds; else each choice has a row, and a
    large point for the median. The dashed line is the floor. Where the times of training were swept, panels beside
    it show what it cost. None where no runs of a name differ, or in so much that no one thing was asked.
    """
    asked: list[tuple[str, list[Entry], list[str], str, str]] = []
    for name in dict.fromkeys(entry.name for entry in entries):
        own = [entry for entry in entries if entry.name == name]
        keys = [key for key in varied(own) if key not in ("seed", "name")]
        metric = headline(own)
        if metric and 0 < len(keys) <= ASKED:
            asked.append((_plain(name), own, keys, metric, metric.replace("_", " ")))
            if "times" in keys:
                asked += [("", own, keys, quantity, label) for quantity, label in COST.items()]
    if not asked:
        return None
    columns = min(3, len(asked))
    rows = -(-len(asked) // columns)
    with matplotlib.rc_context(figures.STYLE):
        named = [0.2 * _lines(own, keys) for _, own, keys, *_ in asked if _number(own, keys) is None]
        height = max(2.6, 0.6 + max(named, default=0.0))
        drawn = Figure(figsize=(max(4.2, 3.4 * columns), height * rows), layout="constrained")
        for i, (title, own, keys, quantity, label) in enumerate(asked):
            axes = drawn.add_subplot(rows, columns, i + 1, title=title)
            _panel(axes, own, keys, quantity, label)
    return drawn


def _lines(entries: Sequence[Entry], keys: Sequence[str]) -> int:
    """Lines of text that name the choices."""
    return len({_values(entry, keys) for entry in entries}) * (len(keys) + 1)


def _panel(axes: Axes, entries: Sequence[Entry], keys: Sequence[str], quantity: str, label: str) -> None:
    number = _number(entries, keys)
    if number is None:
        _by_choice(axes, entries, keys, quantity, label)
    else:
        _by_number(axes, entries, number, [key for key in keys if not _same(entries, key, number)], quantity, label)
    floors = [floor for entry in entries if (floor := entry.metrics.get(quantity, {}).get("floor"))]
    if floors:
        line: Callable[..., Any] = axes.axvline if number is None else axes.axhline
        line(median(floors), color="0.4", linestyle="--", linewidth=1, label="floor")
    scale, axis = (axes.set_xscale, axes.xaxis) if number is None else (axes.set_yscale, axes.yaxis)
    scale("log")
    figures.log_ticks(axis)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best")


def _by_choice(axes: Axes, entries: Sequence[Entry], keys: Sequence[str], quantity: str, label: str) -> None:
    found: dict[str, list[float]] = {}
    for entry in entries:
        name = "\n".join(f"{key}={value}" for key, value in zip(keys, _values(entry, keys), strict=True))
        found.setdefault(name, []).append(_measured(entry, quantity))
    for row, values in enumerate(found.values()):
        axes.plot(values, [row] * len(values), "o", color=figures.DATA, markersize=3, alpha=0.5)
        axes.plot(median(values), row, "o", color=figures.DATA, markersize=6)
    axes.set_yticks(range(len(found)), list(found))
    # What a choice costs stands beside its quality, where its name is.
    axes.tick_params(labelleft=quantity not in COST)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(label)


def _by_number(
    axes: Axes, entries: Sequence[Entry], number: str, keys: Sequence[str], quantity: str, label: str
) -> None:
    choices = list(dict.fromkeys(_values(entry, keys) for entry in entries))
    for k, choice in enumerate(choices):
        own = [entry for entry in entries if _values(entry, keys) == choice]
        found = {
            x: [_measured(e, quantity) for e in own if float(e.options[number]) == x] for x in _numbers(own, number)
        }
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        for x, values in found.items():
            axes.plot([x] * len(values), values, marker, color=colour, markersize=3, alpha=0.5)
        name = ", ".join(f"{key}={value}" for key, value in zip(keys, choice, strict=True))
        middle = [median(values) for values in found.values()]
        axes.plot(list(found), middle, color=colour, marker=marker, markersize=6, linewidth=1, label=name or None)
    ticks = _numbers(entries, number)
    axes.set(xlabel=number, ylabel=label)
    if min(ticks) > 0:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _measured(entry: Entry, quantity: str) -> float:
    found = entry.cost.get(quantity) if quantity in COST else entry.metrics[quantity]["value"]
    return float("nan") if found is None else float(found)


def _number(entries: Sequence[Entry], keys: Sequence[str]) -> str | None:
    """The first option that is a number and has more than two values, over which quality is drawn."""
    return next((key for key in keys if len(_numbers(entries, key)) > 2), None)


def _values(entry: Entry, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(_plain(entry.options.get(key, "–")) for key in keys)


def _plain(text: str) -> str:
    """Text of a file as text of a figure, where a dollar would begin a formula."""
    return text.replace("$", r"\$")


def _numbers(entries: Sequence[Entry], key: str) -> list[float]:
    """The values of an option, ascending; none where some are no numbers."""
    try:
        found = sorted({float(entry.options[key]) for entry in entries})
    except (KeyError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []


def _same(entries: Sequence[Entry], key: str, other: str) -> bool:
    """Whether two options change together, as one that is made from the other does."""
    pairs = {(entry.options.get(key), entry.options.get(other)) for entry in entries}
    return all(a[0] != b[0] and a[1] != b[1] for a, b in itertools.combinations(pairs, 2))
