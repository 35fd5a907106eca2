"""Comparison of runs: the options in which they differ, and a figure of the quality against these options."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sdegen import figures
from sdegen.reports.collection import FinishedRun, changes, titles, written
from sdegen.reports.frontier import METRICS

MOST_VARIED = 4
"""Largest number of varied options for which a figure has room."""
MOST_TICKS = 8
"""Largest number of values of an option that are all named on an axis."""
EXECUTION = {"figures", "trust", "resume", "forecast", "dataset.path", "trainer.device", "trainer.threads"}
EXECUTION |= {"devices", "network.recompute"}
EXECUTION |= {f"trainer.{key}" for key in ("checkpoint_every", "keep", "preview_every", "log_every")}
"""Options that do not change what is learned. Different data are compared by their values and not by their path."""
COST = {"seconds": "training, seconds", "peak_memory_mib": "peak memory, MiB"}
"""Axis labels of the costs in ``provenance.json``."""


def varied(runs: Sequence[FinishedRun]) -> list[str]:
    """Returns the options in which runs differ; a group comes before the options of the group."""
    keys = list(dict.fromkeys(key for run in runs for key in run.options))
    keys = [key for key in keys if key not in EXECUTION and not key.startswith("logger")]
    differing = [key for key in keys if len({run.options.get(key) for run in runs}) > 1]
    # If only one of two classes has an option, leave the option out: the class already names the difference.
    lacking = {key for key in differing if any(key not in run.options for run in runs)}
    implied = {key for key in lacking if key.rpartition(".")[0] in differing} | _seeded(runs, differing)
    implied |= _measured_on_data(runs, differing) | _default_of_choice(runs, differing)
    if {"objective.run", "objective.checkpoint"} & {*differing}:
        # The digest of a teacher's weights says no more than its name.
        implied.add("objective.digest")
    # A person chose what was changed when a run was resumed.
    implied -= {key for run in runs for key in changes(run.provenance)}
    return [key for key in differing if key not in implied]


def _seeded(runs: Sequence[FinishedRun], keys: Sequence[str]) -> set[str]:
    """Returns the options that the seed fixes, such as options computed from the data, if runs share seeds."""
    seeds = Counter(run.options.get("seed") for run in runs)
    if 1 in seeds.values():
        return set()
    pairs = {key: {(run.options.get("seed"), run.options.get(key)) for run in runs} for key in keys if key != "seed"}
    return {key for key, found in pairs.items() if len(found) == len(seeds)}


def _measured_on_data(runs: Sequence[FinishedRun], keys: Sequence[str]) -> set[str]:
    """Returns the options that differ although the commands of the runs differ in the seed alone.

    These options are computed from the data of each seed, and no command gives them.
    """
    commands: dict[str, list[FinishedRun]] = {}
    for run in runs:
        words = str(run.provenance.get("command", "")).split()
        commands.setdefault(" ".join(word for word in words if not word.startswith("seed=")), []).append(run)
    same = [own for command, own in commands.items() if command]
    # Equal commands with equal seeds ran with different versions of the package.
    same = [own for own in same if len({run.options.get("seed") for run in own}) == len(own)]
    found = {key for own in same for key in keys if len({run.options.get(key) for run in own}) > 1}
    return {key for key in found if key != "seed" and not any(f" {key}=" in command for command in commands)}


def _default_of_choice(runs: Sequence[FinishedRun], keys: Sequence[str]) -> set[str]:
    """Returns the options that follow from the choice of their group, and that no command gives."""
    commands = [command for run in runs for command in run.commands]
    if not all(run.commands for run in runs):
        return set()
    found = set()
    for key in keys:
        group = key.rpartition(".")[0]
        pairs = {(run.options.get(group), run.options.get(key)) for run in runs}
        if group in keys and len(pairs) == len({choice for choice, _ in pairs}):
            found.add(key)
    return {key for key in found if not any(f" {key}=" in command for command in commands)}


def swept(runs: Sequence[FinishedRun]) -> list[str]:
    """Returns the options in which runs of one kind differ, or else the options in which any runs differ.

    This leaves out options that follow from the name, such as the settings of an experiment.
    """
    kinds = dict.fromkeys(run.kind for run in runs)
    within = {key for kind in kinds for key in varied([run for run in runs if run.kind == kind])}
    return [key for key in varied(runs) if key != "name" and (key in within or not within)]


def headline(runs: Sequence[FinishedRun]) -> str | None:
    """Returns the first metric of :data:`METRICS` that all runs have, or None."""
    return next((name for name in METRICS if all(name in run.metrics for run in runs)), None)


@figures.styled
def figure(runs: Sequence[FinishedRun]) -> Figure | None:
    """Draws the quality of runs against the options in which the runs differ, with one panel for each run name.

    A small point is the run of one seed, and a large point is the median over seeds. If a numeric option has more than
    two values, a line joins the medians; otherwise each choice has a row. The dashed line is the floor. If the option
    ``times`` was swept, two more panels show the cost. Returns None if no runs of one name differ, or if the runs of
    each name differ in more than :data:`MOST_VARIED` options.
    """
    panels: list[tuple[str, list[FinishedRun], list[str], str, str]] = []
    called = titles(runs)
    for kind in dict.fromkeys(run.kind for run in runs):
        own = [run for run in runs if run.kind == kind]
        keys = [key for key in varied(own) if key not in ("seed", "name")]
        metric = headline(own)
        if metric and 0 < len(keys) <= MOST_VARIED:
            panels.append((_plain(called[kind]), own, keys, metric, metric.replace("_", " ")))
            if "times" in keys:
                panels += [("", own, keys, quantity, label) for quantity, label in COST.items()]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    named = [0.2 * _lines(own, keys) for _, own, keys, *_ in panels if _number(own, keys) is None]
    height = max(2.6, 0.6 + max(named, default=0.0))
    drawn = Figure(figsize=(max(4.2, 3.4 * columns), height * rows))
    for i, (title, own, keys, quantity, label) in enumerate(panels):
        axes = drawn.add_subplot(rows, columns, i + 1, title=title)
        _panel(axes, own, keys, quantity, label)
    return drawn


def _lines(runs: Sequence[FinishedRun], keys: Sequence[str]) -> int:
    """Returns the number of lines of text that name the choices."""
    return len({_values(run, keys) for run in runs}) * (len(keys) + 1)


def _panel(axes: Axes, runs: Sequence[FinishedRun], keys: Sequence[str], quantity: str, label: str) -> None:
    number = _number(runs, keys)
    if number is None:
        _by_choice(axes, runs, keys, quantity, label)
    else:
        _by_number(axes, runs, number, [key for key in keys if not _same(runs, key, number)], quantity, label)
    floors = [floor for run in runs if (floor := run.metrics.get(quantity, {}).get("floor"))]
    if floors:
        line: Callable[..., Any] = axes.axvline if number is None else axes.axhline
        line(median(floors), color="0.4", linestyle="--", linewidth=1, label="floor")
    scale, axis = (axes.set_xscale, axes.xaxis) if number is None else (axes.set_yscale, axes.yaxis)
    scale("log")
    figures.log_ticks(axis)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best")


def _by_choice(axes: Axes, runs: Sequence[FinishedRun], keys: Sequence[str], quantity: str, label: str) -> None:
    found: dict[str, list[float]] = {}
    for run in runs:
        name = "\n".join(written(zip(keys, _values(run, keys), strict=True)))
        found.setdefault(name, []).append(_quantity(run, quantity))
    for row, values in enumerate(found.values()):
        axes.plot(values, [row] * len(values), "o", color=figures.DATA, markersize=3, alpha=0.5)
        axes.plot(median(values), row, "o", color=figures.DATA, markersize=6)
    axes.set_yticks(range(len(found)), list(found))
    # Only the panel of the quality, at the left, names the choices.
    axes.tick_params(labelleft=quantity not in COST)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel(label)


def _by_number(
    axes: Axes, runs: Sequence[FinishedRun], number: str, keys: Sequence[str], quantity: str, label: str
) -> None:
    choices = list(dict.fromkeys(_values(run, keys) for run in runs))
    for k, choice in enumerate(choices):
        own = [run for run in runs if _values(run, keys) == choice]
        points = [(float(run.options[number]), _quantity(run, quantity)) for run in own]
        found = {x: [value for other, value in points if other == x] for x in _numbers(own, number)}
        style = figures.marked(k)
        for x, values in found.items():
            axes.plot([x] * len(values), values, linestyle="", markersize=3, alpha=0.5, **style)
        name = ", ".join(written(zip(keys, choice, strict=True)))
        middle = [median(values) for values in found.values()]
        axes.plot(list(found), middle, markersize=6, linewidth=1, label=name or None, **style)
    ticks = _numbers(runs, number)
    axes.set(xlabel=number, ylabel=label)
    if min(ticks) > 0:
        axes.set_xscale("log")
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())


def _quantity(run: FinishedRun, quantity: str) -> float:
    found = run.cost.get(quantity) if quantity in COST else run.metrics[quantity]["value"]
    return float("nan") if found is None else float(found)


def _number(runs: Sequence[FinishedRun], keys: Sequence[str]) -> str | None:
    """Returns the option for the horizontal axis: the first numeric option with more than two values, or None."""
    return next((key for key in keys if len(_numbers(runs, key)) > 2), None)


def _values(run: FinishedRun, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(_plain(run.options.get(key, "–")) for key in keys)


def _plain(text: str) -> str:
    """Returns text with its dollar signs escaped: matplotlib would read a formula between two of them."""
    return text.replace("$", r"\$")


def _numbers(runs: Sequence[FinishedRun], key: str) -> list[float]:
    """Returns the values of an option in ascending order; an empty list if one of them is not a number."""
    try:
        found = sorted({float(run.options[key]) for run in runs})
    except (KeyError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []


def _same(runs: Sequence[FinishedRun], key: str, other: str) -> bool:
    """Returns True if two options always change together, for example if one is computed from the other."""
    pairs = {(run.options.get(key), run.options.get(other)) for run in runs}
    return len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})
