"""What all suites share: their rows, interleaved timing, processes of their own, the table and the figure."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Row(NamedTuple):
    """A number of a suite.

    Attributes:
        panel: what is measured.
        line: of whom.
        at: where; a number where the panel has an axis of numbers.
        median: of all rounds.
        low: the lower quartile.
        high: the upper quartile.
        unit: of the three.
    """

    panel: str
    line: str
    at: str | float
    median: float
    low: float
    high: float
    unit: str


def row(panel: str, line: str, at: str | float, values: Sequence[float], unit: str) -> Row:
    """The median of some rounds, and their quartiles."""
    ordered = sorted(values)
    quartiles = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return Row(panel, line, at, statistics.median(ordered), *quartiles, unit)


def interleaved(
    works: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each work, all of them in turn in each round, after a round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            taken[name].append(clock() - start)
    return {name: seconds[1:] for name, seconds in taken.items()}


def over(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, list[float]]:
    """The seconds of all others over those of ``base`` in the same round."""
    return {
        name: [own / bare for own, bare in zip(values, seconds[base], strict=True)]
        for name, values in seconds.items()
        if name != base
    }


def process(call: str, threads: int = 1) -> Any:  # noqa: ANN401 - what JSON holds
    """What a call of a suite's function gives, such as ``memory.peak()``, in a process and threads of its own."""
    module = call.partition(".")[0]
    code = f"import json; from suites import {module}; print(json.dumps({call}))"
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": f"{ROOT / 'scripts'}{os.pathsep}{ROOT}"}
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(output.stdout.splitlines()[-1])


def composed(*overrides: str) -> dict[str, Any]:
    """The configuration of train.yaml with overrides, plain."""
    from sdegen import command

    return command.composed("train", overrides)


def table(rows: Sequence[Row]) -> str:
    """The rows as lines of text, panel by panel."""
    lines, panel = [], ""
    for each in rows:
        if each.panel != panel:
            panel = each.panel
            lines.append(f"{panel}, {each.unit}" if each.unit else panel)
        at = f"{each.at:g}" if isinstance(each.at, int | float) else each.at
        lines.append(f"  {each.line:<24}{at:<26}{each.median:>10.4g}   ({each.low:.4g} to {each.high:.4g})")
    return "\n".join(lines)


def draw(rows: Sequence[Row]) -> Any:  # noqa: ANN401 - matplotlib is imported late
    """A panel for each measure: lines over an axis of numbers, or a dot with its quartiles for each name."""
    import matplotlib
    from matplotlib.figure import Figure

    from sdegen import figures
    from sdegen.frontier import COLOURS

    panels = list(dict.fromkeys(each.panel for each in rows))
    numbers = {p: all(isinstance(each.at, int | float) for each in rows if each.panel == p) for p in panels}
    tall = max(
        2.6,
        max(0.22 * sum(each.panel == p for each in rows) + 1 for p in panels if not numbers[p])
        if not all(numbers.values())
        else 0,
    )
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(3.4 * across, tall * down), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).flatten()
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes, panel in zip(grid, panels, strict=False):
            own = [each for each in rows if each.panel == panel]
            lines = list(dict.fromkeys(each.line for each in own))
            for colour, line in zip(COLOURS, lines, strict=False):
                part = [each for each in own if each.line == line]
                middle = [each.median for each in part]
                spread = [
                    [m - each.low for m, each in zip(middle, part, strict=True)],
                    [each.high - m for m, each in zip(middle, part, strict=True)],
                ]
                if numbers[panel]:
                    axes.errorbar(
                        [each.at for each in part],
                        middle,
                        spread,
                        color=colour,
                        marker="o",
                        markersize=3,
                        linewidth=1.2,
                        label=line,
                    )
                else:
                    axes.errorbar(
                        middle,
                        [f"{each.at}" for each in part],
                        xerr=spread,
                        color=colour,
                        marker="o",
                        markersize=4,
                        linestyle="",
                        label=line,
                    )
            title, _, along = panel.partition(" by ")
            if numbers[panel]:
                axes.set(
                    xscale="log",
                    yscale="log",
                    xlabel=along,
                    ylabel=f"{title} ({own[0].unit})" if own[0].unit else title,
                )
                figures.log_ticks(axes.xaxis)
                figures.log_ticks(axes.yaxis)
            else:
                axes.invert_yaxis()
                axes.set(xlabel=f"{title} ({own[0].unit})" if own[0].unit else title, xlim=(0, None))
            if len(lines) > 1:
                axes.legend(fontsize=7)
    return figure
