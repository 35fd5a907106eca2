"""Posteriors of a run for unseen pairs: their calibration, and their distance from exact posteriors."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.metrics import calibration
from sdegen.metrics.points import Metrics, unmeasured
from sdegen.networks.condition import Condition
from sdegen.runs import conditions
from sdegen.runs.guiding import Target
from sdegen.runs.steered import Steered
from sdegen.runs.trained import Trained
from sdegen.runs.unseen import unseen

log = logging.getLogger("sdegen")

RANKED = 63
"""Number of samples among which the parameters of a pair are ranked."""
OBSERVED, SAMPLES = 20, 2000
"""Number of conditions for which samples are compared with exact draws, and number of samples for each."""
BLOCK = 2**20
"""Largest number of distances that are in memory at once."""


class Calibration(NamedTuple):
    """Calibration of a run.

    Attributes:
        metrics: metrics in the form of ``metrics.json``.
        names: names of the coordinates of a point.
        by_column: ranks of each coordinate, ``(N, d)``; see :func:`sdegen.metrics.calibration.ranks`.
        by_distance: ranks of distances, ``(N,)``.
    """

    metrics: Metrics
    names: list[str]
    by_column: Tensor
    by_distance: Tensor


def check(run: Trained) -> Condition:
    """Returns the condition of the network; raises UserError if the posteriors of a run cannot be tested."""
    dataset, taken = run.dataset, run.model.network.condition
    if dataset.c is None or taken is None or not taken.valued:
        data = "on a simulator, or with dataset.condition=[…]"
        fix = f"train a run {data if dataset.c is None else 'with network.condition_dropout=0'}"
        raise UserError(f"metrics=calibration: the network takes no condition: {fix}, or use metrics=likelihood")
    if dataset.units.kind != "vectors":
        raise UserError(
            f"metrics=calibration: ranks the columns of vectors, and the points are {dataset.units.kind}: use "
            f"metrics=likelihood"
        )
    if why := unmeasured(dataset):
        raise UserError(f"metrics=calibration: {why}, so there are no unseen pairs: hold out a part of the data")
    return taken


def measured(run: Steered, count: int, seed: int, batch_size: int) -> Calibration:
    """Returns the calibration of a run on at most ``count`` unseen pairs, and its errors if exact draws are known."""
    taken, dataset = check(run), run.dataset
    x, y, c, _ = unseen(dataset, count, seed)
    assert c is not None and dataset.c is not None and run.conditions is not None
    label = y if taken.labelled else None
    log.info(f"calibration on {len(x)} unseen pairs, {run.weights_used()}; trained on {_trained_on(dataset)}")

    def draws(n: int, rows: slice) -> Tensor:
        told = conditions.told(taken, run.conditions, None if label is None else label[rows], c[rows])
        given = run.at(Target(told=told.repeat_interleave(n, 0)))
        samples = given.generate(n * len(told), seed=seed, batch_size=batch_size).x
        return dataset.rounded(run.units.decode(samples).cpu().double()).reshape(-1, n, x.shape[1])

    samples, source = draws(RANKED, slice(None)), generator("cpu", seed, "ranks")
    by_column = calibration.ranks(x, samples, source)
    encoded = run.units.encode(samples.flatten(0, 1)).reshape(samples.shape)
    known, asked = (run.conditions.encode(part) for part in (dataset.c, c))
    near = run.units.encode(dataset.x[_nearest(known, asked)])
    by_distance = calibration.distance_ranks(run.units.encode(x), encoded, near, source)
    names = [dataset.description.column(i) for i in range(x.shape[1])]
    found = calibration.rank_metrics(by_column, by_distance, names)
    if dataset.posterior(c[0], 1, generator("cpu", 0, "posterior")) is not None:
        first = slice(OBSERVED)
        found |= calibration.measure_posteriors(dataset, c[first], draws(SAMPLES, first))
    return Calibration(found, names, by_column, by_distance)


def _trained_on(dataset: Dataset) -> str:
    """Returns the number of simulations that a run was trained on, or of rows."""
    return dataset.description.report[0] if dataset.simulate is not None else f"{len(dataset.x)} rows"


def _nearest(known: Tensor, c: Tensor) -> Tensor:
    """Returns the index of the row of ``known`` that is nearest to each row of ``c``."""
    known, c = known.flatten(1), c.flatten(1)
    return torch.cat([torch.cdist(part, known).argmin(1) for part in c.split(max(1, BLOCK // len(known)))])
