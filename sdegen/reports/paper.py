"""Content of the report about the paper: the runs of its experiments, and their figures, metrics and costs.

``paper.yaml`` has the settings, the captions (quoted from the paper, in Portuguese), and our choices where the paper is
silent or ambiguous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from sdegen.reports import comparison, page
from sdegen.reports.collection import FinishedRun
from sdegen.reports.page import Link, Table, duration, ratio, whole
from sdegen.runs import forecast


@cache
def experiments() -> dict[str, dict[str, Any]]:
    """Returns the experiments of ``paper.yaml`` by the names of their runs, in the order of the paper."""
    return yaml.safe_load(files("sdegen.reports").joinpath("paper.yaml").read_text("utf-8"))["experiments"]


def papers(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Returns the newest run of each seed of the paper's experiments, by name, in the order of the paper.

    A run is left out if its sweep also has runs that do not have the settings of a paper's experiment: such a sweep has
    another purpose.
    """
    swept = {run.folder.parent for run in runs if not _is_papers(run)}
    found: dict[str, list[FinishedRun]] = {}
    for name in experiments():
        own = [run for run in runs if run.name == name and run.folder.parent not in swept]
        if own:
            newest = {run.options.get("seed"): run for run in own}
            found[name] = sorted(newest.values(), key=own.index)
    return found


def _is_papers(run: FinishedRun) -> bool:
    experiment = experiments().get(run.name)
    return experiment is not None and experiment["settings"].items() <= run.options.items()


def summary(own: Mapping[str, Sequence[FinishedRun]]) -> Table:
    """Returns a table with one metric of each experiment and the floor of the metric.

    The metric is the first metric of quality that all seeds have, or else the first metric of any kind.
    """
    rows = []
    for name, seeds in own.items():
        shared = (metric for metric in seeds[0].metrics if all(metric in run.metrics for run in seeds))
        metric = comparison.headline(seeds) or next(shared, None)
        if metric is None:
            continue
        found, experiment = seeds[0].metrics[metric], experiments()[name]
        value, floor = median(run.metrics[metric]["value"] for run in seeds), found.get("floor")
        rows.append(
            [Link(experiment["title"], f"paper-{name}"), experiment["section"], len(seeds), metric.replace("_", " ")]
            + [value, floor, found.get("train"), ratio(value, floor), duration(seeds[0].cost.get("seconds"))]
        )
    heads = ["", "section", "seeds", "metric", "value", "floor", "training set", "value / floor", "training time"]
    return Table(heads, rows)


def experiment_content(name: str, seeds: Sequence[FinishedRun]) -> dict[str, Any]:
    """Returns the content of one experiment: figures with the captions of the paper, metrics, and our choices."""
    experiment, first = experiments()[name], seeds[0]
    available, captioned = page.pictures(first), []
    for caption in experiment["captions"]:
        if caption["file"] in available:
            captioned.append((caption, page.picture(available.pop(caption["file"]), caption["shows"])))
    animation = available.pop("generation_gif", None)
    guided = page.guided_samples(first)
    return {
        "experiment": experiment,
        "command": f"sdegen train experiment={name.replace('_', '/', 1)}",
        "captioned": captioned,
        "animations": [page.picture(animation, "the reverse process, from noise to data")] if animation else [],
        "metrics": page.metrics(seeds),
        "guided": page.metrics([guided]) if guided else None,
        "cost": page.cost(first),
        "others": [page.picture(path, f"{name}: {stem}") for stem, path in available.items()],
        "settings": Table([], list(first.options.items())),
    }


def costs(root: Path, own: Mapping[str, Sequence[FinishedRun]]) -> Table:
    """Returns a table of the cost of training on continuous t and on the paper's grid of times.

    The cost on the grid comes from the forecasts in the folders below ``root``.
    """
    forecasts = {
        job: spent for path in sorted(root.rglob(forecast.NAME)) for job, spent in forecast.read(path.parent).items()
    }
    rows = []
    for name, seeds in own.items():
        spent, wanted = seeds[0].cost, f"experiment=paper/grid/{name.removeprefix('paper_')}"
        grid = next((found for job, found in forecasts.items() if wanted in job.split()), None)
        if grid is not None and grid.steps == spent.get("steps") and spent.get("seconds", 0) > 0:
            real = [spent["steps"], duration(spent["seconds"]), whole(spent.get("peak_memory_mib"))]
            forecast_cells = [duration(grid.seconds), whole(grid.memory_mib), grid.seconds / spent["seconds"]]
            rows.append([experiments()[name]["title"], *real, *forecast_cells])
    heads = ["", "steps", "continuous t", "memory (MiB)", "time on the grid (forecast)", "memory on the grid (MiB)"]
    return Table([*heads, "time on the grid / time on continuous t"], rows)
