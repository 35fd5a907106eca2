"""Distances of samples from exact draws, divided by their floors, for several data sets and training recipes."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdegen import metrics
from sdegen.config import assembly
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.metrics import sliced_w1
from sdegen.runs import advice, sampling
from suites.base import Row, composed, row

REFERENCE, FLOORS = 10_000, 20


def columns(count: int, source: np.random.Generator) -> np.ndarray:
    """Draws four columns of different scales, skewed and dependent, as in a table."""
    age = source.gamma(9.0, 5.0, count)
    income = np.exp(0.02 * age + 0.5 * source.normal(size=count)) * 2e4
    share = source.beta(2, 5, count)
    level = 1e-3 * np.sin(age / 10) + 2e-4 * source.normal(size=count)
    return np.stack([age, income, share, level], axis=1)


def plane(count: int, source: np.random.Generator) -> np.ndarray:
    """Draws points in 1000 dimensions: three clusters in a fixed subspace of ten dimensions."""
    fixed = np.random.default_rng(0)
    basis, centres = np.linalg.qr(fixed.normal(size=(1000, 10)))[0], 2 * fixed.normal(size=(3, 10))
    return (centres[source.integers(0, 3, count)] + 0.5 * source.normal(size=(count, 10))) @ basis.T


RECIPES = {
    "default": [],
    # Earlier default recipe. The present one preconditions the network with the covariance of the data.
    "before": [
        "parametrization=noise",
        "weighting=variance",
        "times=stratified",
        "network.hidden=[128,128]",
        "network.activation=relu",
        "network.time_embedding=concat",
        "optimizer.lr=1e-3",
        "optimizer.decay=constant",
        "trainer.epochs=1000",
        "trainer.batch_size=64",
    ],
    "karras": ["parametrization=karras"],
    "data": ["parametrization=data"],
    # The default recipe with the values that sdegen calibrate suggests for the data.
    "calibrated": [],
}
"""Options of train.yaml for each recipe."""
OWN = {"plane": ["trainer.steps=3000", "network.hidden=[256,256]"]}
"""Further options for some data sets, with every recipe."""
FILES: dict[str, Callable] = {"columns": columns, "plane": plane}
"""Functions that draw points, by name of the data set. The points are written to a file, which is then the data set."""


def measure(
    sets: Sequence[str], recipes: Sequence[str], options: Sequence[str], points: int, count: int, seeds: int
) -> list[Row]:
    """Returns the rows of a panel for each distance, with a line for each recipe.

    Args:
        sets: names of data sets, or keys of :data:`FILES`.
        recipes: keys of :data:`RECIPES`.
        options: options of train.yaml for all recipes.
        points: number of points in a file.
        count: number of samples that are measured.
        seeds: number of seeds.
    """
    if foreign := [recipe for recipe in recipes if recipe not in RECIPES]:
        raise UserError(f"recipes={foreign[0]}: no such recipe: choose from {', '.join(RECIPES)}")
    rows = []
    for name in sets:
        for recipe in recipes:
            own = [*RECIPES[recipe], *OWN.get(name, []), *options]
            given = recipe == "calibrated"
            found = [one(name, [*own, f"seed={seed}"], given, points, count, seed) for seed in range(seeds)]
            rows += [row(measure, recipe, name, [each[measure] for each in found], "") for measure in found[0]]
    return sorted(rows, key=lambda each: each.panel)


def suggested(*line: str) -> list[str]:
    """Returns the options that ``sdegen calibrate`` changes."""
    config = composed(*line)
    return advice.changes(config, advice.calibrate(config))


def one(name: str, options: Sequence[str], calibrated: bool, points: int, count: int, seed: int) -> dict[str, float]:
    """Trains a network, draws samples, and returns the distances of the samples from exact draws.

    For the smallest noises, the error of the score shows more than the samples do.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = [f"dataset={name}"]
        if name in FILES:
            path = Path(folder) / "points.csv"
            np.savetxt(path, FILES[name](points, np.random.default_rng([1, seed])), delimiter=",", fmt="%.17g")
            given = ["dataset=file", f"dataset.path={path}"]
        line = [*given, *options, *(suggested(*given, *options) if calibrated else [])]
        (parts,) = assembly.replicated(composed(*line))
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    model: Any = training.averages[0]
    x = sampling.draw(parts.sde, model, parts.sampler, parts.dataset.units, count, seed=seed).x
    x = parts.dataset.units.decode(x).cpu()

    def exact(n: int, key: int) -> Tensor:
        if name in FILES:
            return torch.from_numpy(FILES[name](n, np.random.default_rng([2, key])))
        drawn = parts.dataset.draw(n, generator("cpu", key, "recipes"))
        assert drawn is not None
        return drawn.double()

    score = sampling.on_cpu(model, parts.trainer.device, torch.float32)
    error = metrics.score_error(parts.dataset, parts.sde, score)
    found = distances(x, exact, count) | ({} if error is None else {"error of the score": error})
    return found | (on_plane(x, exact(REFERENCE, 0)) if name == "plane" else {})


def distances(x: Tensor, exact: Callable[[int, int], Tensor], count: int) -> dict[str, float]:
    """Returns the sliced W1 of samples divided by its floor, with coordinates scaled to unit variance."""
    reference = exact(REFERENCE, 0)
    scale = reference.std(0)
    floor = statistics.median(sliced_w1(exact(count, 1 + i) / scale, reference / scale) for i in range(FLOORS))
    return {"sliced W1 divided by its floor": sliced_w1(x / scale, reference / scale) / floor}


def on_plane(x: Tensor, reference: Tensor) -> dict[str, float]:
    """Returns the smallest and the largest width of the samples in the plane, divided by the width of the data in the
    same direction, and the share of the variance off the plane.
    """
    centred = reference - reference.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:10].mT
    own = x - x.mean(0)
    along, total = own @ axes, own.square().sum()
    width = along.std(0) / (centred @ axes).std(0)
    return {
        "narrowest width divided by the width of the data": float(width.min()),
        "widest width divided by the width of the data": float(width.max()),
        "share of the variance off the plane": float(1 - along.square().sum() / total),
    }
