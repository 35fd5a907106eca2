"""Content of the summary at the top of the report: what was run, what is best, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from sdegen.reports import comparison, seeds
from sdegen.reports.collection import FinishedRun, title, titles
from sdegen.reports.page import Link, anchor, duration, ratio

CHOICES = 4
"""Largest number of values of an option that are named."""


class Best(NamedTuple):
    """Best runs of one name and one data set, by the first metric of quality that all such runs have.

    Attributes:
        name: name of the runs, and of the data set if runs of this name used several.
        runs: links to the best runs, which differ in the seed alone.
        choice: the options of the best runs, of those in which the compared runs differ.
        among: number of settings that were compared.
        ties: options of the settings that are not distinguishable from the best one.
        metric: name of the metric; None if the runs share none.
        value: mean of the metric over the best runs, with the standard deviation.
        floor: mean floor; None if there is none.
        ratio: value divided by the floor; None if there is no positive floor.
    """

    name: str
    runs: list[Link]
    choice: str
    among: int
    ties: list[str]
    metric: str | None
    value: seeds.Estimate | None
    floor: float | None
    ratio: float | None


def overview(runs: Sequence[FinishedRun], left_out: Sequence[str]) -> dict[str, Any]:
    """Returns the content of the summary. ``left_out`` are the folders that were left out, with the reasons."""
    kinds: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)
    named = titles(runs)
    seconds = sum(run.cost.get("seconds", 0.0) for run in runs)
    return {
        "runs": len(runs),
        "choices": [(group, _choices(runs, group)) for group in ("dataset", "sde", "network", "sampler", "seed")],
        "time": duration(seconds) if seconds else "",
        "best": [_best(named[kind], own) for kind, own in kinds.items()],
        "left_out": left_out,
    }


def _choices(runs: Sequence[FinishedRun], key: str) -> str:
    """Returns the values of an option, the most common first."""
    values = [run.options[key] for run in runs if key in run.options]
    distinct = sorted(dict.fromkeys(values), key=values.count, reverse=True)
    more = len(distinct) - CHOICES
    return ", ".join([*distinct[:CHOICES], *([f"{more} more"] if more > 0 else [])])


def _best(name: str, own: Sequence[FinishedRun]) -> Best:
    keys = [key for key in comparison.varied(own) if key not in ("seed", "name", "count")]
    metric = comparison.headline(own)
    # The newest run of a seed counts, if runs differ in the number of samples alone.
    settings = [
        group._replace(runs=[*{run.options.get("seed"): run for run in group.runs}.values()])
        for group in seeds.groups(own, keys)
    ]
    found = [] if metric is None else [one for one in seeds.estimates(settings, metric) if one is not None]
    best = min(range(len(found)), key=lambda i: found[i].mean, default=0)
    runs = settings[best].runs
    floors = [run.metrics.get(metric or "", {}).get("floor") for run in runs]
    floor = None if None in floors else fmean(float(value or 0) for value in floors)
    return Best(
        name=name,
        runs=[Link(title(run.folder), anchor("run", run.folder)) for run in runs],
        choice=settings[best].written(keys),
        among=len(settings),
        ties=[group.written(keys) for group, one in zip(settings, found, strict=False) if one.rank == "tie"],
        metric=metric,
        value=found[best] if found else None,
        floor=floor,
        ratio=ratio(found[best].mean, floor) if found else None,
    )
