r"""Choice of the grid, the order and the spread of a multistep scheme for the reverse SDE, for one score.

A candidate is compared with the same scheme on a fine grid. Both start from the same draws of the prior and follow the
same Brownian paths: the noise of a step is the sum of the noise of the fine steps inside of it. The error is the sliced
Wasserstein distance between the two sets of end points. The chance of the draws nearly cancels, because both sets have
the same draws.

First the named grids and orders are compared, then spreads, then the grids again. On further starts and paths, the
error must be smaller than that of the scheme as it is with ``grid=logistic``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import generator, randn_like
from sdegen.samplers.base import Memory
from sdegen.samplers.exponential import Exponential
from sdegen.samplers.grids import NAMED, Named, along
from sdegen.samplers.walks import check_finite, starts
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.scores import of_rows

ROWS, FEWEST, NUMBERS = 2000, 200, 2**15
"""Largest and smallest number of paths. Between them, all starts together have about ``NUMBERS`` coordinates."""
FINER, FINEST = 4, 200
"""Number of steps of the fine grid for each step of the scheme, and the smallest number."""
SPREADS = (0.0, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)
"""Spreads that are compared."""
DIRECTIONS = 64
"""Number of directions of the sliced distance."""


class Candidate(NamedTuple):
    """Grid, number of values of F in a step, and spread; None for those of the scheme itself."""

    grid: Named = "logistic"
    order: int | None = None
    spread: float | None = None


class Chosen(NamedTuple):
    """Best candidate, its error on further starts, and the error of the scheme itself there."""

    best: Candidate
    error: float
    unfitted: float


def number(size: int) -> int:
    """Returns the number of starts for states of ``size`` coordinates."""
    return 2 * starts(size, FEWEST, ROWS, NUMBERS)


def choose(
    predictor: Exponential, sde: LinearSDE, score: Score, x: Tensor, steps: int, report: Callable[[int], object]
) -> Chosen:
    """Returns the candidate with the smallest error.

    Args:
        predictor: multistep scheme with noise.
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: draws of the prior, ``(2 N, *)``: the second half compares the choice with the scheme itself.
        steps: number of steps.
        report: function that is called with the number of candidates so far.

    Raises:
        UserError: the score is not finite.
    """
    half, tried = len(x) // 2, dict[Candidate, float]()
    first, second = (
        Paths(
            predictor,
            sde,
            of_rows(score, torch.arange(i * half, (i + 1) * half)),
            x[i * half : (i + 1) * half],
            i,
            max(FINEST, FINER * steps),
        )
        for i in (0, 1)
    )

    def best(candidates: list[Candidate]) -> Candidate:
        for candidate in candidates:
            if candidate not in tried:
                report(len(tried))
                tried[candidate] = first.error(candidate, steps)
        return min(tried, key=tried.__getitem__)

    orders = [None, *(order for order in (1, 2) if order <= steps)]
    found = best([Candidate(grid, order) for grid, order in product(NAMED, orders)])
    found = best([found._replace(spread=spread) for spread in SPREADS])
    found = best([found._replace(grid=grid, order=order) for grid, order in product(NAMED, orders)])
    return Chosen(found, second.error(found, steps), second.error(Candidate(), steps))


class Paths:
    """Brownian paths, and the end points of a scheme on a fine grid along them.

    Args:
        predictor: multistep scheme with noise.
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: draws of the prior, ``(N, *)``.
        seed: seed of the paths.
        fine: number of steps of the fine grid.
    """

    def __init__(self, predictor: Exponential, sde: LinearSDE, score: Score, x: Tensor, seed: int, fine: int) -> None:
        self.predictor, self.sde, self.score, self.x = predictor, sde, score, x
        draw, self.times = randn_like(generator(x.device, seed, "paths of a fit")), along("logistic", sde, fine)
        self.noise = [draw(x) for _ in range(fine)]
        self.end = self.sample(predictor, self.times, self.noise)
        check_finite(self.end)

    def sample(self, predictor: Exponential, times: Tensor, noise: list[Tensor]) -> Tensor:
        """Returns the end points of a scheme along a grid, with the noise of each step."""
        reverse, x, draws = self.sde.reverse(self.score, predictor.eta), self.x, iter(noise)
        memory: Memory = ()
        for step in predictor.plan(self.sde, times):
            x, memory = step(reverse, x, lambda like: next(draws), memory)
        return x

    def error(self, candidate: Candidate, steps: int) -> float:
        """Returns the distance of the end points of a candidate from those on the fine grid."""
        predictor = self.predictor.adjusted(order=candidate.order, spread=candidate.spread)
        times = along(candidate.grid, self.sde, steps)
        return distance(self.sample(predictor, times, self.sums(predictor, times)), self.end)

    def sums(self, predictor: Exponential, times: Tensor) -> list[Tensor]:
        """Returns the noise of each step of a grid, standard normal numbers ``(N, *)``, from that of the fine steps."""
        ratio = 0.5 * self.sde.log_nsr(self.times)
        clock = (ratio.exp() ** 2 + predictor.spread**2) ** -(predictor.eta**2)
        share = clock.diff().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        middle = 0.5 * (ratio[1:] + ratio[:-1])
        # The number of the step in which the middle of each fine step lies.
        step = torch.searchsorted(-0.5 * self.sde.log_nsr(times[1:-1]), -middle)
        draw, found = randn_like(generator(self.x.device, 2, "paths of a fit")), []
        for i in range(len(times) - 1):
            inside = torch.nonzero(step == i).flatten().tolist()
            # A step with no fine step in it has noise of its own.
            total = torch.zeros_like(self.x) if inside else draw(self.x)
            size = float(share[inside].square().sum().sqrt()) if inside else 1.0
            for j in inside:
                total.add_(self.noise[j], alpha=float(share[j]) / size)
            found.append(total)
        return found


def distance(x: Tensor, ends: Tensor) -> float:
    """Returns the sliced Wasserstein distance between equally many points, ``(N, *)``; infinity if not finite."""
    a, b = (points.flatten(1).double().cpu() for points in (x, ends))
    axes = torch.randn(a.shape[1], DIRECTIONS, generator=generator("cpu", 0, "directions"), dtype=torch.float64)
    axes = axes / axes.norm(dim=0)
    value = ((a @ axes).sort(0).values - (b @ axes).sort(0).values).abs().mean()
    return float(value) if bool(value.isfinite()) else float("inf")
