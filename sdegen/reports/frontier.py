"""The frontier of samplers: what each reaches with how many evaluations, and in what time, on one score."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sdegen import figures
from sdegen.config.options import flat
from sdegen.config.remedies import choice
from sdegen.runs import files

METRICS = ("w1", "sliced_w1", "energy", "frechet")
"""What quality is drawn as: the first of them that was measured."""
STEERED = ("agreement", "class_recall", "spread")
"""What a stronger guidance buys, and what it costs."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito's palette; markers tell apart what colours alone cannot."""
MARKERS = "os^DvPX"


class Entry(NamedTuple):
    """One job of a sweep.

    Attributes:
        options: of its sampler by their paths, the number of steps left out, and which weights, step, seed and count.
        name: of its sampler.
        steps: None where the sampler chooses them.
        nfe: counted evaluations for a sample.
        seconds: for all samples.
        metrics: as in ``metrics.json``.
    """

    options: dict[str, Any]
    name: str
    steps: int | None
    nfe: float
    seconds: float
    metrics: dict[str, dict[str, Any]]


def write(folders: Sequence[Path]) -> list[Path]:
    """A table and a figure for the sample folders of a sweep, into ``<run>/frontiers/<number>-samplers/``."""
    written = []
    for run in dict.fromkeys(folder.parents[1] for folder in folders):
        entries = [read(folder) for folder in folders if folder.parents[1] == run]
        entries = [entry for entry in entries if entry.metrics]
        if len(entries) < 2:
            continue
        labels = label(entries)
        with files.new_folder(run / "frontiers", "samplers") as (folder, final):
            table(entries, labels, folder / "frontier.csv")
            figures.save(draw(entries, labels), folder / "frontier.png")
            by_scale = {entry.options.get("guidance.scale"): entry.metrics for entry in entries}
            if len(by_scale) == len(entries) and all(set(STEERED) <= set(found) for found in by_scale.values()):
                figures.save(steering(by_scale), folder / "steering.png")
        written.append(final)
    return written


def read(folder: Path) -> Entry:
    """The entry that a folder of samples holds."""
    from omegaconf import OmegaConf

    node: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    with np.load(folder / "samples.npz") as samples:
        nfe, seconds, count = float(samples["nfe"]), float(samples["seconds"]), len(samples["x"])
    metrics = folder / "metrics.json"
    own = {
        "network": choice(node["network"]),
        "count": count,
        **{key: node[key] for key in ("weights", "step", "seed")},
    }
    options = {key: value for key, value in flat(node["sampler"]) if not key.endswith("_target_")} | own
    guidance = [(f"guidance.{key}", value) for key, value in flat(node.get("guidance") or {}) if key != "_target_"]
    options |= dict(guidance, label=node.get("label"))
    steps = options.pop("steps", None)
    found = json.loads(metrics.read_text()) if metrics.exists() else {}
    return Entry(options, choice(node["sampler"]), steps, nfe, seconds, found)


def steering(by_scale: Mapping[Any, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Agreement with the class that was asked for against the scale of the guidance, beside what it costs."""
    scales = sorted(by_scale)
    curves = {name: [by_scale[scale][name]["value"] for scale in scales] for name in STEERED}
    return figures.steering(scales, curves, {name: by_scale[scales[0]][name]["floor"] for name in STEERED})


def label(entries: Sequence[Entry]) -> list[str]:
    """A name for each entry's sampler, with those of its options in which entries of one name differ."""
    labels = []
    for entry in entries:
        same = [other for other in entries if other.name == entry.name]
        varied = [key for key in entry.options if differ(same, key)]
        varied += [
            key for key in ("weights", "step", "seed", "count", "label") if key not in varied and differ(entries, key)
        ]
        # Tolerances are to an adaptive sampler what the number of steps is to the others, and are tightened together.
        varied = [key for key in varied if key not in ("rtol", "atol")]
        labels.append(" ".join([entry.name, *(f"{key}={entry.options.get(key)}" for key in varied)]))
    return labels


def differ(entries: Sequence[Entry], key: str) -> bool:
    """Whether an option is not the same for all."""
    return len({str(entry.options.get(key)) for entry in entries}) > 1


def table(entries: Sequence[Entry], labels: Sequence[str], path: Path) -> None:
    """Every metric of every entry, with its floor, as CSV."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.metrics))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "steps", "nfe", "seconds", *(f for name in names for f in (name, f"{name}_floor"))])
        for entry, text in zip(entries, labels, strict=True):
            cells = [entry.metrics.get(name, {}).get(field) for name in names for field in ("value", "floor")]
            writer.writerow([text, entry.steps, f"{entry.nfe:g}", f"{entry.seconds:.4g}", *map(cell, cells)])


def cell(value: float | None) -> str:
    """A number of a table; nothing where there is none."""
    return "" if value is None else f"{value:.5g}"


def draw(entries: Sequence[Entry], labels: Sequence[str]) -> Figure:
    """Quality against counted evaluations and against seconds, a line for each sampler, the floor drawn in."""
    metric = next((name for name in METRICS if name in entries[0].metrics), next(iter(entries[0].metrics)))
    with matplotlib.rc_context(figures.STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for k, text in enumerate(dict.fromkeys(labels)):
            own = sorted((e for e, name in zip(entries, labels, strict=True) if name == text), key=lambda e: e.nfe)
            quality = [entry.metrics[metric]["value"] for entry in own]
            style: dict[str, Any] = {
                "color": COLOURS[k % len(COLOURS)],
                "marker": MARKERS[(k + k // len(COLOURS)) % len(MARKERS)],
                "markersize": 4,
                "linewidth": 1,
            }
            panels[0].plot([entry.nfe for entry in own], quality, label=text, **style)
            panels[1].plot([entry.seconds for entry in own], quality, **style)
        floors = sorted({entry.metrics[metric]["floor"] for entry in entries})
        for axes, name in zip(
            panels, ("evaluations of the score for a sample", "seconds for all samples"), strict=True
        ):
            for floor in floors:
                shown = "floor" if axes is panels[0] and floor == floors[0] else None
                axes.axhline(floor, color="0.5", linestyle="--", linewidth=1, label=shown)
            axes.set(xscale="log", yscale="log", xlabel=name)
        panels[0].set_ylabel(f"{metric.replace('_', ' ').replace('w1', '$W_1$')} to the reference")
        for axis in (panels[0].xaxis, panels[1].xaxis, panels[0].yaxis):
            figures.log_ticks(axis)
        figure.legend(loc="outside upper center", ncols=4, fontsize=7)
    return figure
