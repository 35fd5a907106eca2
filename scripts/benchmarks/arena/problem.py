"""The problem of a contest: targets side by side, where samplers start, and how far from the truth they end."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from arena.targets import SideBySide, target

if TYPE_CHECKING:
    from torch import Tensor

    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score

REFERENCE = 50_000
"""Exact draws that samples are compared to."""


class Problem(NamedTuple):
    """Targets side by side, where samplers start on them, and how far from the truth samples are.

    Attributes:
        sde: the forward process.
        score: the exact score, of ``(K B, d)`` points of which each target has B.
        x: draws of the prior, ``(K, B, d)``.
        distances: for each target, of samples ``(B, d)``, in standard deviations of the data.
    """

    sde: LinearSDE
    score: Score
    x: Tensor
    distances: tuple[Callable[[Tensor], float], ...]

    def head(self, samples: int) -> Problem:
        """The problem with the first of the starts."""
        return self._replace(x=self.x[:, :samples])


def problem(kind: str, family: str, seeds: Sequence[int], samples: int) -> Problem:
    """The targets of some seeds of a family, with what the ``kind`` of contest compares to."""
    import torch

    from sdegen.core.randomness import generator, randn_like
    from sdegen.sde import VP

    sde, laws = VP(), [target(family, seed) for seed in seeds]
    d = laws[0].means.shape[1]
    # The draws of fewer samples are the head of those of more.
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
    """The targets as problems of their own."""
    scores = [SideBySide([target(family, seed)], problem.sde) for seed in seeds]
    shares = zip(scores, problem.x.split(1), problem.distances, strict=True)
    return [problem._replace(score=score, x=x, distances=(distance,)) for score, x, distance in shares]


def flow(sde: LinearSDE, score: Score, x: Tensor) -> Tensor:
    """The exact end points of the probability-flow ODE, ``(B, *)`` to ``(B, *)``, to about 1e-9."""
    from sdegen.core.randomness import generator, randn_like
    from sdegen.samplers import Dopri5

    return Dopri5(rtol=1e-10, atol=1e-10)(sde, score, x, noise=randn_like(generator("cpu", 0))).x


def floor(problem: Problem, family: str, seeds: Sequence[int]) -> float:
    """Mean over targets of the distance of exact draws, as many as there are samples, to the truth."""
    from sdegen.core.randomness import generator

    samples = problem.x.shape[1]
    draws = [target(family, seed).sample(samples, generator("cpu", seed, "contest floor")) for seed in seeds]
    return statistics.mean(distance(x) for distance, x in zip(problem.distances, draws, strict=True))


class EndPoints:
    """Mean Euclidean distance of samples to exact end points from the same starts.

    Args:
        truth: the end points, ``(N, d)``.
    """

    def __init__(self, truth: Tensor) -> None:
        self.truth = truth

    def __call__(self, x: Tensor) -> float:
        return float((x - self.truth[: len(x)]).norm(dim=1).mean())


class SlicedW1:
    """:func:`sdegen.metrics.points.sliced_w1` to points that are sorted once, which is ten times faster.

    Args:
        draws: the points compared to, ``(M, d)``.
    """

    def __init__(self, draws: Tensor) -> None:
        from sdegen.metrics.points import directions

        self.directions = directions(draws.shape[1])
        self.sorted = (draws @ self.directions).T.sort().values

    def __call__(self, x: Tensor) -> float:
        start, end, width = jumps(len(x), self.sorted.shape[1])
        gaps = (x @ self.directions).T.sort().values[:, start] - self.sorted[:, end]
        return float((gaps.abs() @ width).mean())


@functools.cache
def jumps(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces on which the quantile functions of n and of m points are constant.

    Returns:
        The index of the point of the first set and of the second on each piece, and the width of the piece.
    """
    import torch

    # In units of 1 / (n m) they jump at multiples of m and of n.
    ends = torch.cat([torch.arange(n + 1) * m, torch.arange(m) * n]).unique()
    return ends[:-1] // m, ends[:-1] // n, ends.diff().double() / (n * m)
