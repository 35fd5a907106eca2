"""Frontier of samplers: the quality of samples against evaluations and time, with one score."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sdegen import figures
from sdegen.config.options import choice, flat
from sdegen.core.meanings import good
from sdegen.reports import seeds
from sdegen.runs import files

METRICS = ("w1", "sliced_w1", "energy", "frechet")
"""Metrics of quality. The first of these metrics that was measured is drawn."""
STEERED = ("agreement", "class_recall", "spread")
"""Metrics that show the gain and the cost of stronger guidance."""
SHARED = ("weights", "ema", "step", "seed", "count", "label", "condition")
"""Options of the sampling that do not belong to the sampler."""


class SamplingJob(NamedTuple):
    """One job of a sweep over samplers.

    Attributes:
        options: options of the sampler (without the steps), of the guidance and of the sampling, by path.
        name: name of the sampler.
        steps: number of steps; None if the sampler chooses it.
        nfe: number of evaluations of the score per sample, as counted.
        seconds: time for all samples, in seconds.
        metrics: content of ``metrics.json``.
    """

    options: dict[str, Any]
    name: str
    steps: int | None
    nfe: float
    seconds: float
    metrics: dict[str, dict[str, Any]]


def write(folders: Sequence[Path]) -> list[tuple[Path, list[str]]]:
    """Writes a table and a figure for the sample folders of a sweep into ``<run>/frontiers/<number>-samplers/``.

    Returns:
        For each run, the folder and lines of text with the quality of each sampler.
    """
    written = []
    for run in dict.fromkeys(folder.parents[1] for folder in folders):
        jobs = [read(folder) for folder in folders if folder.parents[1] == run]
        jobs = [job for job in jobs if job.metrics]
        if len(jobs) < 2:
            continue
        labels = label(jobs)
        with files.new_folder(run / "frontiers", "samplers") as (folder, final):
            table(jobs, labels, folder / "frontier.csv")
            figures.save(draw(jobs, labels), folder / "frontier.png")
            by_scale = {job.options.get("guidance.scale"): job.metrics for job in jobs}
            if len(by_scale) == len(jobs) and all(set(STEERED) <= set(found) for found in by_scale.values()):
                figures.save(steering(by_scale), folder / "steering.png")
        written.append((final, summary(jobs, labels)))
    return written


def summary(jobs: Sequence[SamplingJob], labels: Sequence[str]) -> list[str]:
    """Returns a table as lines of text: the quality of each sampler, as a mean over the seeds."""
    metric, found = quality(jobs), by_setting(jobs, labels)
    names = [label if own[0].steps is None else f"{label} steps={own[0].steps}" for label, own in found]
    samples = [[job.metrics[metric]["value"] for job in own] for _, own in found]
    return seeds.lines(names, seeds.ranks(samples, good(metric)), metric)


def quality(jobs: Sequence[SamplingJob]) -> str:
    """Returns the first metric of :data:`METRICS` that was measured, or else the first metric of any kind."""
    return next((name for name in METRICS if name in jobs[0].metrics), next(iter(jobs[0].metrics)))


def by_setting(jobs: Sequence[SamplingJob], labels: Sequence[str]) -> list[tuple[str, list[SamplingJob]]]:
    """Returns the jobs that differ in the seed alone as lists, each with its label."""
    found: dict[str, tuple[str, list[SamplingJob]]] = {}
    for job, text in zip(jobs, labels, strict=True):
        setting = str((job.name, job.steps, {**job.options, "seed": None}))
        found.setdefault(setting, (text, []))[1].append(job)
    return list(found.values())


def read(folder: Path) -> SamplingJob:
    """Returns the job that wrote a folder of samples."""
    from omegaconf import OmegaConf

    node: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    with np.load(folder / "samples.npz") as samples:
        nfe, seconds, count = float(samples["nfe"]), float(samples["seconds"]), len(samples["x"])
    metrics = folder / "metrics.json"
    options = {key: value for key, value in flat(node["sampler"]) if not key.endswith("_target_")}
    options |= {"network": choice(node["network"]), "sde": choice(node["sde"]), "count": count}
    options |= {f"sde.{key}": value for key, value in flat(node["sde"]) if key != "_target_"}
    options |= {key: node[key] for key in ("weights", "step", "seed")}
    guidance = [(f"guidance.{key}", value) for key, value in flat(node.get("guidance") or {}) if key != "_target_"]
    options |= dict(guidance, **{key: node.get(key) for key in ("ema", "label", "condition")})
    steps = options.pop("steps", None)
    found = json.loads(metrics.read_text()) if metrics.exists() else {}
    return SamplingJob(options, choice(node["sampler"]), steps, nfe, seconds, found)


def steering(by_scale: Mapping[Any, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Draws the metrics :data:`STEERED` against the scale of the guidance."""
    scales = sorted(by_scale)
    curves = {name: [by_scale[scale][name]["value"] for scale in scales] for name in STEERED}
    return figures.steering(scales, curves, {name: by_scale[scales[0]][name]["floor"] for name in STEERED})


def label(jobs: Sequence[SamplingJob]) -> list[str]:
    """Returns a label for each job: its sampler, and the options in which jobs of the same sampler differ."""
    labels = []
    for job in jobs:
        same = [other for other in jobs if other.name == job.name]
        varied = [key for key in job.options if differ(same, key)]
        varied += [key for key in SHARED if key not in varied and differ(jobs, key)]
        # Tolerances of an adaptive sampler vary along one line of the figure, as the number of steps does. A point of
        # the line is a mean over the seeds.
        varied = [key for key in varied if key not in ("rtol", "atol", "seed")]
        labels.append(" ".join([job.name, *(f"{key}={job.options.get(key)}" for key in varied)]))
    return labels


def differ(jobs: Sequence[SamplingJob], key: str) -> bool:
    """Returns True if an option differs between jobs."""
    return len({str(job.options.get(key)) for job in jobs}) > 1


def table(jobs: Sequence[SamplingJob], labels: Sequence[str], path: Path) -> None:
    """Writes all metrics of all jobs, and the floors of the metrics, as CSV."""
    names = list(dict.fromkeys(name for job in jobs for name in job.metrics))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        fields = [field for name in names for field in (name, f"{name}_floor")]
        writer.writerow(["sampler", "seed", "steps", "nfe", "seconds", *fields])
        for job, text in zip(jobs, labels, strict=True):
            cells = [job.metrics.get(name, {}).get(field) for name in names for field in ("value", "floor")]
            costs = [f"{job.nfe:g}", f"{job.seconds:.4g}"]
            writer.writerow([text, job.options["seed"], job.steps, *costs, *map(cell, cells)])


def cell(value: float | None) -> str:
    """Returns a number as text, or an empty text for None."""
    return "" if value is None else f"{value:.5g}"


@figures.styled
def draw(jobs: Sequence[SamplingJob], labels: Sequence[str]) -> Figure:
    """Draws the quality against evaluations and against seconds. The dashed line is the floor.

    A point is the mean over the seeds, and a bar is the standard deviation over the seeds.
    """
    metric = quality(jobs)
    figure, panels = figures.subplots(7.2, 3.4, 1, 2, sharey=True)
    for k, text in enumerate(dict.fromkeys(labels)):
        found = [own for name, own in by_setting(jobs, labels) if name == text]
        found.sort(key=lambda own: fmean(job.nfe for job in own))
        measured = [[job.metrics[metric]["value"] for job in own] for own in found]
        means, style = [fmean(values) for values in measured], figures.marked(k) | {"markersize": 4, "linewidth": 1}
        several = any(len(values) > 1 for values in measured)
        bars = [stdev(values) if len(values) > 1 else 0.0 for values in measured] if several else None
        costs = [[fmean(getattr(job, cost) for job in own) for own in found] for cost in ("nfe", "seconds")]
        for axes, x in zip(panels, costs, strict=True):
            axes.errorbar(x, means, yerr=bars, label=text if axes is panels[0] else None, capsize=2, **style)
    floors = sorted({job.metrics[metric]["floor"] for job in jobs})
    for axes, name in zip(panels, ("evaluations of the score per sample", "seconds for all samples"), strict=True):
        for floor in floors:
            shown = "floor" if axes is panels[0] and floor == floors[0] else None
            axes.axhline(floor, color="0.5", linestyle="--", linewidth=1, label=shown)
        axes.set(xscale="log", yscale="log", xlabel=name)
    panels[0].set_ylabel(f"{metric.replace('_', ' ').replace('w1', '$W_1$')} to the reference")
    for axis in (panels[0].xaxis, panels[1].xaxis, panels[0].yaxis):
        figures.log_ticks(axis)
    figure.legend(loc="outside upper center", ncols=4, fontsize=7)
    return figure
