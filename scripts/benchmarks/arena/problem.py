"""Problem of a contest: targets, initial states of the samplers, and distances from exact results."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from arena.targets import SideBySide, target
from sdegen.core.randomness import generator, randn_like
from sdegen.metrics.distances import directions
from sdegen.samplers import Dopri5
from sdegen.sde import VP, LinearSDE
from sdegen.sde.base import Score

REFERENCE = 50_000
"""Number of exact draws with which samples are compared."""


class Problem(NamedTuple):
    """Several targets, the initial states of the samplers, and the functions that measure samples.

    Attributes:
        sde: forward process.
        score: exact score at points ``(K B, *)``: B points for each of K targets.
        x: draws of the prior, ``(K, B, *)``.
        distances: functions, one for each target, that return the distance of samples ``(B, *)`` from exact results,
            in standard deviations of the data.
    """

    sde: LinearSDE
    score: Score
    x: Tensor
    distances: tuple[Callable[[Tensor], float], ...]

    def head(self, samples: int) -> Problem:
        """Returns the problem with the first ``samples`` initial states of each target."""
        return self._replace(x=self.x[:, :samples])


def problem(kind: str, family: str, seeds: Sequence[int], samples: int) -> Problem:
    """Returns the problem of several seeds of a family; the ``kind`` of contest selects the distances."""
    sde, laws = VP(), [target(family, seed) for seed in seeds]
    d = laws[0].means.shape[1]
    # A smaller number of samples starts from the first of these draws.
    start = randn_like(generator("cpu", 0, "contest start"))(torch.zeros(max(samples, 20_000), d, dtype=torch.float64))
    x = start[:samples].expand(len(laws), -1, -1)
    distances: list[Callable[[Tensor], float]]
    if kind == "ode":
        distances = [EndPoints(flow(sde, SideBySide([law], sde), x[0])) for law in laws]
    else:
        sources = [generator("cpu", seed, "contest draws") for seed in seeds]
        distances = [SlicedW1(law.sample(REFERENCE, source)) for law, source in zip(laws, sources, strict=True)]
    return Problem(sde, SideBySide(laws, sde), x, tuple(distances))


def apart(problem: Problem, family: str, seeds: Sequence[int]) -> list[Problem]:
    """Returns one problem for each target."""
    scores = [SideBySide([target(family, seed)], problem.sde) for seed in seeds]
    shares = zip(scores, problem.x.split(1), problem.distances, strict=True)
    return [problem._replace(score=score, x=x, distances=(distance,)) for score, x, distance in shares]


def flow(sde: LinearSDE, score: Score, x: Tensor, tolerance: float = 1e-10) -> Tensor:
    """Returns the end points ``(B, *)`` of the probability flow from ``x`` ``(B, *)``.

    With the default tolerance, errors are about 1e-9.
    """
    return Dopri5(rtol=tolerance, atol=tolerance)(sde, score, x, noise=randn_like(generator("cpu", 0))).x


def floor(problem: Problem, family: str, seeds: Sequence[int]) -> float:
    """Returns the mean over targets of the distance of exact draws; there are as many draws as samples."""
    samples = problem.x.shape[1]
    draws = [target(family, seed).sample(samples, generator("cpu", seed, "contest floor")) for seed in seeds]
    return statistics.mean(distance(x) for distance, x in zip(problem.distances, draws, strict=True))


class EndPoints:
    """Mean Euclidean distance between samples and exact end points that have the same initial states.

    Args:
        truth: exact end points, ``(N, *)``.
        unit: unit of the distance.
    """

    def __init__(self, truth: Tensor, unit: float = 1.0) -> None:
        self.truth, self.unit = truth, unit

    def __call__(self, x: Tensor) -> float:
        return float((x - self.truth[: len(x)]).flatten(1).norm(dim=1).mean()) / self.unit


class SlicedW1:
    """Distance :func:`sdegen.metrics.sliced_w1` to fixed points. They are sorted only once, which is ten times faster.

    Args:
        draws: points to compare with, ``(M, d)``.
    """

    def __init__(self, draws: Tensor) -> None:
        self.directions = directions(draws.shape[1])
        self.sorted = (draws @ self.directions).T.sort().values

    def __call__(self, x: Tensor) -> float:
        start, end, width = jumps(len(x), self.sorted.shape[1])
        gaps = (x @ self.directions).T.sort().values[:, start] - self.sorted[:, end]
        return float((gaps.abs() @ width).mean())


@functools.cache
def jumps(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the pieces on which the quantile functions of n and of m points are constant.

    Returns:
        For each piece, the index of the point in the first set, the index in the second set, and the width.
    """
    # In units of 1 / (n m), the quantile functions jump at multiples of m and of n.
    ends = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique()
    return ends[:-1] // m, ends[:-1] // n, ends.diff().double() / (n * m)
