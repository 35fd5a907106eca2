"""Points that a training has not seen, and points of the training, with their classes and conditions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets import Dataset


class Examples(NamedTuple):
    """Points of a data set with their classes and conditions.

    Attributes:
        x: points ``(N, *)`` float64, in the user's units.
        y: class of each point, ``(N,)``; None if there are no classes.
        c: condition of each point, ``(N, *)`` float64; None if there are no conditions.
        kind: ``fresh`` for draws of the exact distribution, else ``held-out`` or ``training``.
    """

    x: Tensor
    y: Tensor | None
    c: Tensor | None
    kind: str


def unseen(dataset: Dataset, count: int, seed: int = 0) -> Examples:
    """Returns at most ``count`` points of a seed: fresh ones, else held-out ones, else points of the training."""
    if (found := _fresh(dataset, count, seed)) is not None:
        return found
    if dataset.held_out is None:
        return training(dataset, count, seed)
    return _some(dataset.held_out, dataset.held_out_y, dataset.held_out_c, count, seed, "held-out")


def conditioning(dataset: Dataset, count: int, seed: int = 0) -> Examples:
    """Returns ``count`` points of a seed whose classes and conditions samples take: fresh points, else training points.

    Samples with the conditions of held-out points would be nearer to these points than other points of the same
    distribution are, and would lie below the floors. If there are too few points, they are repeated in the same order.
    """
    found = _fresh(dataset, count, seed) or training(dataset, count, seed)
    index = torch.arange(count) % len(found.x)
    y, c = (None if part is None else part[index] for part in (found.y, found.c))
    return Examples(found.x[index], y, c, found.kind)


def training(dataset: Dataset, count: int, seed: int = 0) -> Examples:
    """Returns at most ``count`` points of the training, chosen by a seed."""
    return _some(dataset.x, dataset.y, dataset.c, count, seed, "training")


def _fresh(dataset: Dataset, count: int, seed: int) -> Examples | None:
    """Returns draws of the exact distribution with their classes and conditions; None if these cannot be drawn."""
    if dataset.simulate is not None:
        x, c = dataset.simulate(count, generator("cpu", seed, "unseen pairs"))
        return Examples(x.double(), None, c.double(), "fresh")
    source = generator("cpu", seed, "evaluation")
    if (drawn := dataset.draw_labelled(count, source)) is not None:
        return Examples(drawn[0].double(), drawn[1], None, "fresh")
    # Points with classes are compared by class.
    if dataset.y is None and (fresh := dataset.draw(count, source)) is not None:
        return Examples(fresh.double(), None, None, "fresh")
    return None


def _some(x: Tensor, y: Tensor | None, c: Tensor | None, count: int, seed: int, kind: str) -> Examples:
    rows = shuffled(torch.arange(len(x)), seed)[:count]
    return Examples(x[rows].double(), None if y is None else y[rows], None if c is None else c[rows], kind)


def shuffled(x: Tensor, seed: int) -> Tensor:
    """Returns points in random order, because a data set may be sorted."""
    return x[torch.randperm(len(x), generator=generator("cpu", seed, "order"))]
