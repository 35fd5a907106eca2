"""Agreement, recall and distance of guided digits against the guidance scale, and the cost of the guidance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sdegen.config.compose import composed as every
from sdegen.core.errors import UserError
from sdegen.runs import results, session
from sdegen.runs.run import Run, load
from suites.base import Row, composed, row

LABELS = {
    "agreement": "agreement with the class",
    "class_recall": "recall within the class",
    "evaluations": "network evaluations",
    "frechet": "Fréchet distance",
    "spread": "spread within the class",
}
METRICS = ("agreement", "class_recall", "spread", "frechet")


def measure(
    folder: str,
    trained: Mapping[str, Sequence[str]],
    options: Sequence[str],
    curves: Mapping[str, Mapping[str, Any]],
    scales: Sequence[float],
    count: int,
    steps: int,
    seeds: int,
) -> list[Row]:
    """Returns the rows of a panel for each metric, with a line for each curve and one for the floor.

    The values are those of ``seeds`` seeds, each with networks of its own.
    """
    found: dict[tuple[str, str, float], list[float]] = {}
    for seed in range(seeds):
        runs = Path(folder) / f"seed-{seed}"
        for name, own in trained.items():
            if not (runs / name / "metrics.json").exists():
                session.train(composed(*own, *options, f"seed={seed}"), runs / name)
        for curve, one in curves.items():
            if one["run"] not in trained:
                raise UserError(f"curves: {curve} samples run={one['run']}: choose from {', '.join(trained)}")
            run = load(runs / one["run"]).using("stochastic_adams", steps=steps)
            for scale in scales:
                node = guidance([*one["options"], f"guidance.scale={scale}"], runs)
                for line, metric, value in sampled(run, count, seed, node):
                    found.setdefault((metric, line or curve, scale), []).append(value)
    rows = [row(f"{metric} against guidance scale", line, at, all_, "") for (metric, line, at), all_ in found.items()]
    return sorted(rows, key=lambda each: each.panel)


def sampled(run: Run, count: int, seed: int, node: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yields the line, empty for that of the curve, the name and the value of each quantity of guided samples."""
    written = results.write(run, count, seed=seed, guidance=node, label="all", figures=False)
    for metric in METRICS:
        yield "", metric, written.metrics[metric]["value"]
        yield "floor", metric, written.metrics[metric]["floor"]
    with np.load(written.folder / "samples.npz") as samples:
        yield "", "evaluations", float(samples["nfe"])


def draw(rows: Sequence[Row]) -> Figure:
    """Draws each quantity against the scale in its own panel, with one legend for all panels.

    Bars are the quartiles over the seeds. The dashed line is the floor.
    """
    from sdegen import figures

    panels = list(dict.fromkeys(each.panel for each in rows))
    lines = sorted(dict.fromkeys(each.line for each in rows), key=lambda line: line == "floor")
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(2.4 * len(panels), 2.8), layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for colour, line in zip(figures.COLOURS, lines, strict=False):
                own = [each for each in rows if (each.panel, each.line) == (panel, line)]
                at, middle = [float(each.at) for each in own], [each.median for each in own]
                label = line.replace("_", " ").replace("classifier free", "classifier-free")
                if line == "floor":
                    axes.plot(at, middle, label=label, color="0.5", linewidth=1, linestyle="--")
                    continue
                bars = np.array([(each.median - each.low, each.high - each.median) for each in own]).T
                style = {"color": colour, "marker": "o", "markersize": 3, "linewidth": 1}
                axes.errorbar(at, middle, bars.reshape(2, -1), label=label, elinewidth=0.7, **style)
            axes.set(xlabel="guidance scale", ylabel=LABELS[panel.partition(" ")[0]])
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(lines), fontsize=7
        )
    return figure


def guidance(options: Sequence[str], runs: Path) -> dict[str, Any]:
    """Returns the node of a guidance; a classifier is the run of this name."""
    if "guidance=classifier" in options:
        options = [*options, f"guidance.run={runs / 'classifier'}"]
    return every("train", [f"+{options[0]}", *options[1:]])["guidance"]
