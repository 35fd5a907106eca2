"""Trained networks as targets: distances from the ends of a network's own flow, and the quality of its samples.

A run comes from a recipe of :data:`RECIPES`, or from its folder. Points are computed in float64. Images are computed by
the network in float32, and the states between its evaluations are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sdegen
from arena.problem import EndPoints, Problem, flow
from arena.race import Contestant, Row, fitting, walk
from sdegen.core.randomness import generator, randn_like
from sdegen.runs.measures import measure, tell
from sdegen.runs.trained import Trained
from sdegen.sde.base import Score

RECIPES: dict[str, tuple[str, ...]] = {
    "smile": ("experiment=smile",),
    "moons": ("dataset=moons",),
    "digits": ("experiment=digits",),
    # The whole training takes an hour of two cores.
    "fashion_mnist": ("experiment=fashion_mnist", "trainer.steps=800"),
}
"""Options of the trainings, by the names of the runs."""

FOLDER = Path("outputs/contest")
"""Folder of the runs that are trained."""

SAMPLES = {"vectors": 2000, "images": 200}
SEARCH = {"vectors": 250, "images": 8}
"""Numbers of samples on which samplers are measured, and on which their settings are compared, by the kind of data."""

TOLERANCE = {"vectors": 1e-10, "images": 1e-7}
"""Tolerance of the exact ends. Those of images at 1e-7 and 1e-8 are less than 1e-4 standard deviations apart."""

QUALITY = ("sliced_w1", "c2st", "frechet")
"""Metrics of the package that are shown."""


def trained(name: str) -> Trained:
    """Returns a run: the one of a recipe, which is trained if it is not there yet, or the one in a folder ``name``."""
    folder = FOLDER / name if name in RECIPES else Path(name)
    if name in RECIPES and not any((folder / "checkpoints").glob("*.pt")):
        sdegen.train(*RECIPES[name], "figures=false", folder=folder)
    run = Trained(folder, device="cpu")
    return run if run.units.kind != "vectors" else Trained(folder, device="cpu", precision="float64")


def problem(run: Trained, samples: int, tolerance: float) -> Problem:
    """Returns the problem whose only target is a run; distances are in standard deviations of an entry of its data."""
    sde, score = run.sde.linear, in_float64(run)
    assert sde is not None
    like = torch.zeros(samples, *run.units.shape, dtype=torch.float64)
    x = sde.sample_prior(like, randn_like(generator("cpu", 0, "contest start")))
    with torch.no_grad():
        ends = flow(sde, score, x, tolerance)
    return Problem(sde, score, x[None], (EndPoints(ends, deviation(run)),))


def in_float64(run: Trained) -> Score:
    """Returns the score of a run with results in float64."""
    own = run.score_on_cpu()
    return lambda x, t: own(x, t).double()


def deviation(run: Trained) -> float:
    """Returns the standard deviation of an entry of the training data, in the network's units."""
    return float(run.units.encode(run.dataset.x).var(0, correction=0).mean().sqrt())


def judged(
    run: Trained, whole: Problem, contestants: Sequence[Contestant], rows: Sequence[Row], budgets: Sequence[int]
) -> dict[str, list[Row]]:
    """Returns, for each metric, its floor, its value for the exact ends, and a row for each row of distances.

    A sampler has the setting with the smallest distance.
    """
    (exact,) = whole.distances
    assert isinstance(exact, EndPoints)
    tables = {
        name: [constant("floor", floor, budgets), constant("exact", value, budgets)]
        for name, (floor, value) in quality(run, exact.truth).items()
    }
    for row in rows:
        at: dict[str, dict[str, Any]] = {name: {} for name in tables}
        for budget, result in row["at"].items():
            (own,) = (c for c in contestants if (c.name, c.setting) == (row["name"], result["setting"]))
            ends, _ = walk(own, whole, fitting(own, whole, int(budget)))
            for name, (_, value) in quality(run, ends[0]).items():
                at[name][budget] = {**result, "value": value}
        for name, table in tables.items():
            table.append({"name": row["name"], "at": at[name]})
    return tables


def quality(run: Trained, ends: Tensor) -> dict[str, tuple[float, float]]:
    """Returns floor and value of each metric of :data:`QUALITY` that the data have, for points in the network's units.

    Args:
        run: the run whose data the points are compared with.
        ends: points ``(N, *)``.
    """
    x = run.units.decode(ends)
    found = {**measure(run, x, None), **tell(run, x)}
    return {name: (found[name]["floor"], found[name]["value"]) for name in QUALITY if name in found}


def constant(name: str, value: float, budgets: Sequence[int]) -> Row:
    """Returns a row with the same value at each number of evaluations."""
    return {"name": name, "at": {str(b): {"value": value, "nfe": b, "setting": ""} for b in budgets}}
