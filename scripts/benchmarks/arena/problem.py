"""The problem of a contest: targets, starts of the samplers, and distances to the truth."""

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
    """Several targets, the starts of the samplers, and the distances of samples to the truth.

    Attributes:
        sde: forward process.
        score: exact score of points ``(K B, d)``, B for each of K targets.
        x: draws of the prior, ``(K, B, d)``.
        distances: for each target, a function from samples ``(B, d)`` to their distance from the truth, in standard
            deviations of the data.
    """

    sde: LinearSDE
    score: Score
    x: Tensor
    distances: tuple[Callable[[Tensor], float], ...]

    def head(self, samples: int) -> Problem:
        """Returns the problem with the first ``samples`` starts."""
        return self._replace(x=self.x[:, :samples])


def problem(kind: str, family: str, seeds: Sequence[int], samples: int) -> Problem:
    """Returns the problem of several seeds of a family; the ``kind`` of contest selects the distances."""
    sde, laws = VP(), [target(family, seed) for seed in seeds]
    d = laws[0].means.shape[1]
    # Fewer samples have the first of the same draws.
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


def flow(sde: LinearSDE, score: Score, x: Tensor) -> Tensor:
    """Returns the end points of the probability-flow ODE with errors of about 1e-9: ``(B, *)`` to ``(B, *)``."""
    return Dopri5(rtol=1e-10, atol=1e-10)(sde, score, x, noise=randn_like(generator("cpu", 0))).x


def floor(problem: Problem, family: str, seeds: Sequence[int]) -> float:
    """Returns the distance of exact draws, as many as there are samples, to the truth; the mean over targets."""
    samples = problem.x.shape[1]
    draws = [target(family, seed).sample(samples, generator("cpu", seed, "contest floor")) for seed in seeds]
    return statistics.mean(distance(x) for distance, x in zip(problem.distances, draws, strict=True))


class EndPoints:
    """Mean Euclidean distance of samples to exact end points from the same starts.

    Args:
        truth: exact end points, ``(N, d)``.
    """

    def __init__(self, truth: Tensor) -> None:
        self.truth = truth

    def __call__(self, x: Tensor) -> float:
        return float((x - self.truth[: len(x)]).norm(dim=1).mean())


class SlicedW1:
    """Distance :func:`sdegen.metrics.sliced_w1` to points that are sorted once, which is ten times faster.

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
    """Returns the pieces on which the quantile functions of n and of m points are constant.

    Returns:
        For each piece, the index of the point in the first set, the index in the second set, and the width.
    """
    # In units of 1 / (n m), the quantile functions jump at multiples of m and of n.
    ends = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique()
    return ends[:-1] // m, ends[:-1] // n, ends.diff().double() / (n * m)
