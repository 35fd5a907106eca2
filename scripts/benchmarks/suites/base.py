"""Functions that all suites use: rows, interleaved timing, processes, the table and the figure."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[3]

LONG = 40
"""Number of rows up to which a table shows a whole panel. Of a longer panel, it has only the last row of each line."""


class Row(NamedTuple):
    """One measured value of a suite.

    Attributes:
        panel: name of the quantity.
        line: contestant.
        at: position on the axis, a number or a name.
        median: median of all rounds.
        low: lower quartile.
        high: upper quartile.
        unit: unit of median and quartiles.
    """

    panel: str
    line: str
    at: str | float
    median: float
    low: float
    high: float
    unit: str


def row(panel: str, line: str, at: str | float, values: Sequence[float], unit: str) -> Row:
    """Returns the row with the median and the quartiles of the ``values`` of several rounds."""
    ordered = sorted(values)
    quartiles = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return Row(panel, line, at, statistics.median(ordered), *quartiles, unit)


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Returns the seconds of each function in each round. The first round is discarded."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            taken[name].append(clock() - start)
    return {name: seconds[1:] for name, seconds in taken.items()}


def over(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, list[float]]:
    """Returns the seconds of each function except ``base``, divided by the seconds of ``base`` in the same round."""
    return {
        name: [own / bare for own, bare in zip(values, seconds[base], strict=True)]
        for name, values in seconds.items()
        if name != base
    }


def command(*arguments: str, folder: Path = ROOT, threads: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs Python with ``arguments`` in ``folder`` and waits for the end. A failure raises no error."""
    search = os.pathsep.join(map(str, (ROOT / "scripts" / "benchmarks", ROOT)))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": search}
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def printed(code: str, about: str, folder: Path = ROOT, threads: int = 1) -> Any:  # noqa: ANN401 - any JSON
    """Returns the JSON in the last line that a program prints in a process of its own.

    Raises:
        UserError: the program failed; the message has ``about`` and the last line of the error.
    """
    done = command("-c", code, folder=folder, threads=threads)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [
            "the process ended without a message; it may have run out of memory: use smaller sizes"
        ]
        raise UserError(f"{about}: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def process(call: str, threads: int = 1) -> Any:  # noqa: ANN401 - any JSON
    """Returns the result of a call such as ``memory.peak()`` in a new process with ``threads`` threads."""
    module = call.partition(".")[0]
    return printed(f"import json; from suites import {module}; print(json.dumps({call}))", call, threads=threads)


def composed(*overrides: str) -> dict[str, Any]:
    """Returns the configuration train.yaml with overrides, as plain data."""
    from sdegen.cli.arguments import read
    from sdegen.cli.composition import Composition

    ((_, config),) = Composition("train", read(overrides)).plan().jobs
    return config


def table(rows: Sequence[Row]) -> str:
    """Returns the rows as lines of text, panel by panel; of a long panel, only the last row of each line."""
    lines, panel = [], ""
    for each, after in zip(rows, [*rows[1:], None], strict=True):
        if each.panel != panel:
            panel, length = each.panel, sum(other.panel == each.panel for other in rows)
            lines.append(_with_unit(panel, rows=[each]))
        if length > LONG and after is not None and (after.panel, after.line) == (each.panel, each.line):
            continue
        at = f"{each.at:g}" if isinstance(each.at, int | float) else each.at
        lines.append(f"  {each.line:<24}{at:<26}{each.median:>10.4g}   ({each.low:.4g} to {each.high:.4g})")
    return "\n".join(lines)


def draw(rows: Sequence[Row]) -> Figure:
    """Draws a panel for each quantity: lines if positions are numbers, dots with quartiles if they are names."""
    import matplotlib
    from matplotlib.figure import Figure

    from sdegen import figures

    panels: dict[str, list[Row]] = {}
    for each in rows:
        panels.setdefault(each.panel, []).append(each)
    # Heights of the panels with names: a line for each name, and a smaller one for each dot.
    named = [
        0.9 + max(0.3 * len({each.at for each in own}), 0.2 * len(own))
        for own in panels.values()
        if isinstance(own[0].at, str)
    ]
    across = 2 if len(panels) == 4 else min(3, len(panels))
    down = -(-len(panels) // across)
    height = max(1.8 if len(named) == len(panels) else 2.6, *named)
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(3.8 * across, down * height), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).flatten()
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, (panel, own) in zip(grid, panels.items(), strict=False):
            (_lines if isinstance(own[0].at, int | float) else _dots)(axes, panel, own)
    return figure


def _lines(axes: Axes, panel: str, rows: Sequence[Row]) -> None:
    from sdegen import figures

    for colour, (line, part) in _by_line(rows):
        x, y = [float(each.at) for each in part], [each.median for each in part]
        axes.errorbar(x, y, _spread(part), color=colour, marker="o", markersize=3, linewidth=1.2, label=line)
    title, _, along = panel.partition(" against ")
    axes.set(xscale="log", xlabel=along, ylabel=_with_unit(title, rows))
    figures.log_ticks(axes.xaxis)
    values = [each.median for each in rows]
    # On a logarithmic axis that spans a few per cent, noise would look like a trend.
    if max(values) > 3 * min(values):
        axes.set_yscale("log")
        figures.log_ticks(axes.yaxis)
    else:
        axes.set_ylim(0, 1.3 * max(values))
    _legend(axes, rows)


def _dots(axes: Axes, panel: str, rows: Sequence[Row]) -> None:
    from sdegen import figures

    names, lines = list(dict.fromkeys(str(each.at) for each in rows)), {each.line for each in rows}
    # Draw the dots of different lines below each other, so that no dot hides another dot.
    apart = min(0.2, 0.7 / len(lines)) if _has_names(rows) else 0.0
    for i, (colour, (line, part)) in enumerate(_by_line(rows)):
        x = [each.median for each in part]
        y = [names.index(str(each.at)) + apart * (i - (len(lines) - 1) / 2) for each in part]
        axes.errorbar(x, y, xerr=_spread(part), color=colour, marker="o", markersize=4, linestyle="", label=line)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(y=0.1)
    axes.set_xlabel(_with_unit(panel, rows))
    values = [each.median for each in rows]
    if min(values) > 0 and max(values) > 20 * min(values):
        axes.set_xscale("log")
        figures.log_ticks(axes.xaxis)
    else:
        axes.set_xlim(0, 1.1 * max(each.high for each in rows) or 1)
    _legend(axes, rows)


def _by_line(rows: Sequence[Row]) -> Iterator[tuple[str, tuple[str, list[Row]]]]:
    """Yields a colour, a name and the rows for each line."""
    from sdegen.figures import COLOURS

    lines: dict[str, list[Row]] = {}
    for each in rows:
        lines.setdefault(each.line, []).append(each)
    return zip(COLOURS, lines.items(), strict=False)


def _spread(rows: Sequence[Row]) -> list[list[float]]:
    """Returns the distances of the lower and the upper quartiles from the medians."""
    return [[each.median - each.low for each in rows], [each.high - each.median for each in rows]]


def _with_unit(title: str, rows: Sequence[Row]) -> str:
    return f"{title} ({rows[0].unit})" if rows[0].unit else title


def _legend(axes: Axes, rows: Sequence[Row]) -> None:
    if _has_names(rows):
        axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)


def _has_names(rows: Sequence[Row]) -> bool:
    """Returns True if there are several lines whose names are not the names on the axis."""
    return len({each.line for each in rows}) > 1 and any(each.line != each.at for each in rows)
