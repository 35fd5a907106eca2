r"""Fits of the time grid and the weights of a multistep scheme to a score, for a given number of steps.

The starts are draws of the prior in three parts. An accurate flow gives the exact path of each start.

- From the first part, the weights of a candidate grid follow step by step: with the values :math:`F_j` of the last
  evaluations, a step is :math:`x_s = A x_t + \sum_j w_j F_j`, see :mod:`sdegen.samplers.exponential`, and the change of
  w minimises the distance to the exact states at s. This is a linear least-squares problem with few unknowns. A ridge
  draws w towards the weights of the scheme.
- With the second part, the grid is chosen. The candidates are the named grids, and warps of the best of them: piecewise
  linear maps of its share of steps, whose slopes are improved by the method of Levenberg and Marquardt. The error of a
  candidate is the mean distance of the end points from the exact ones.
- The third part decides whether the fit is used: its error must be smaller than that of ``grid=logistic``.

All distances are weighted by their inverses (iteratively), so that the fit minimises the mean distance and not the mean
square, which few starts between two modes would dominate.

References for fitted steps and weights: Shaul et al. (2024), Bespoke non-stationary solvers,
https://arxiv.org/abs/2403.01329; Chen et al. (2024), GITS, https://arxiv.org/abs/2405.11326
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.samplers.base import Predictor
from sdegen.samplers.exponential import Adams, Exponential, ExponentialStep, Weights, combine
from sdegen.samplers.grids import GRIDS, Named, Times, along, check_falling
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.scores import of_rows

STARTS, FEWEST, NUMBERS = 768, 96, 2**16
"""Largest and smallest number of starts, and the number of coordinates of all starts between these numbers."""
VALUES = 8
"""Largest number of values of F in a fitted step."""
FINE = 400
"""Number of steps of the accurate flow."""
TABLE = 2000
"""Number of steps of the table of a named grid that is warped."""
SLOPES = 8
"""Largest number of slopes of a warp."""
ITERATIONS = 8
"""Largest number of iterations of the method of Levenberg and Marquardt."""
RIDGES = (1e-2, 1e-4, 1e-6)
"""Ridges that are tried, relative to the mean squares of the values."""
FIRST = 1e-4
"""Ridge with which the named grids are compared."""
SHIFT = 0.05
"""Difference of the logarithm of a slope in a difference quotient."""
ENOUGH = 0.005
"""Relative gain of an iteration below which no further one is made."""
ROBUST = 0.3
"""Distances far below this share of the mean distance have equal weights."""


class Fit(NamedTuple):
    """Result of a fit.

    Attributes:
        times: times of the steps, from T to eps.
        weights: weights of the values of F in each step, newest first; empty for those of the scheme.
        error: mean distance from the exact end points, in the network's units, from starts that the fit did not see.
        unfitted: same distance for ``grid=logistic`` and the weights of the scheme.
    """

    times: Times
    weights: Weights
    error: float
    unfitted: float

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Fit:
        """Returns the fit that plain data describe; raises ValueError, TypeError or KeyError if they describe none."""
        times, weights = (content[key] for key in ("times", "weights"))
        found = cls(
            tuple(map(float, times)),
            tuple(tuple(map(float, row)) for row in weights),
            *(float(content[key]) for key in ("error", "unfitted")),
        )
        check_falling(found.times)
        rows = [len(row) for row in found.weights]
        if rows and (len(rows) != len(found.times) - 1 or not 1 <= min(rows) <= max(rows) <= VALUES):
            raise ValueError("the weights do not fit the times")
        if not all(math.isfinite(weight) for row in found.weights for weight in row):
            raise ValueError("a weight is not finite")
        return found

    def summary(self) -> str:
        """Returns words about the errors."""
        if not self.weights:
            return f"no fit has a smaller error than grid=logistic, {self.unfitted:.3g}, which is used"
        return f"distance to the exact end points {self.error:.3g}, with grid=logistic {self.unfitted:.3g}"


def number(size: int) -> int:
    """Returns the number of starts for states of ``size`` coordinates, which is a multiple of 3."""
    return 3 * (min(STARTS, max(FEWEST, NUMBERS // size)) // 3)


def fit(
    predictor: Predictor | None, sde: LinearSDE, score: Score, x: Tensor, steps: int, report: Callable[[int], object]
) -> Fit:
    """Returns the fit of a scheme to a score.

    Args:
        predictor: multistep scheme for the flow.
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: draws of the prior, ``(3 N, *)``: three parts of equal size.
        steps: number of steps.
        report: function that is called with the number of candidates so far.

    Raises:
        UserError: the score is not finite along the flow.
    """
    assert isinstance(predictor, Exponential)
    part = len(x) // 3
    exact = Path.of(sde, score, x)
    trials = Trials(predictor, sde, of_rows(score, torch.arange(2 * part)), exact, part, report)
    times, ridge = trials.search(steps)
    weights = walk(trials.plan(times), trials.score, x[: 2 * part], exact.aims(sde, times), 2 * part, ridge).weights
    logistic = along("logistic", sde, steps)
    found = predictor.weighted(weights)
    held = of_rows(score, torch.arange(2 * part, len(x)))
    ends = [walk(plan, held, x[2 * part :]).x for plan in (found.plan(sde, times), trials.plan(logistic))]
    error, unfitted = (float(distances(end - exact.x[-1, 2 * part :]).mean()) for end in ends)
    if error < unfitted:
        return Fit(tuple(times.tolist()), weights, error, unfitted)
    return Fit(tuple(logistic.tolist()), (), unfitted, unfitted)


class Path(NamedTuple):
    """Exact states ``x`` ``(F, N, *)`` of the flow, and their noise levels ``lam`` ``(F,)``, which fall."""

    lam: Tensor
    x: Tensor

    @classmethod
    def of(cls, sde: LinearSDE, score: Score, x: Tensor) -> Path:
        """Returns the path from ``x`` ``(N, *)`` at T to eps; raises UserError if the score is not finite."""
        times = along("logistic", sde, FINE)
        states = [x]
        walk(merged(Adams(order=5).plan(sde, times)), score, x, keep=states)
        path = torch.stack(states)
        if not bool(path.isfinite().all()):
            first = next(i for i, state in enumerate(states) if not bool(state.isfinite().all()))
            raise UserError(
                f"sampler.grid=fitted: the score is not finite, near t={float(times[first - 1]):.3g}: use "
                f"sampler.grid=logistic, or another checkpoint"
            )
        return cls(0.5 * sde.log_nsr(times), path)

    def aims(self, sde: LinearSDE, times: Tensor) -> list[Tensor]:
        """Returns the states ``(N, *)`` at all times but the first, by cubic interpolation of x/α in λ."""
        alpha, fine = sde.alpha(times), sde.alpha(sde.time(2 * self.lam))
        found = []
        for lam, a in zip(0.5 * sde.log_nsr(times[1:-1]), alpha[1:-1], strict=True):
            middle = int(torch.searchsorted(-self.lam, -lam).clamp(2, len(self.lam) - 2))
            near = range(middle - 2, middle + 2)
            share = [self._share(lam, j, near) for j in near]
            states = [self.x[j] * float(s * a / fine[j]) for j, s in zip(near, share, strict=True)]
            found.append(sum(states[1:], states[0]))
        return [*found, self.x[-1]]

    def _share(self, lam: Tensor, j: int, near: Sequence[int]) -> float:
        """Returns the Lagrange polynomial of the fine time ``j`` at the noise level ``lam``."""
        return math.prod(float((lam - self.lam[m]) / (self.lam[j] - self.lam[m])) for m in near if m != j)


class Walk(NamedTuple):
    """States ``x`` ``(N, *)`` at eps, and the weights of each step."""

    x: Tensor
    weights: Weights


def walk(
    plan: Sequence[ExponentialStep],
    score: Score,
    x: Tensor,
    aims: Sequence[Tensor] = (),
    rows: int = 0,
    ridge: float = 0.0,
    keep: list[Tensor] | None = None,
) -> Walk:
    """Takes the steps of a plan without noise and corrections.

    Args:
        plan: steps, from :func:`merged`.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: states at the first time, ``(N, *)``.
        aims: exact states at the end of each step, for a fit of the weights; empty for no fit.
        rows: number of states, the first of ``x``, to which the weights are fitted.
        ridge: see :data:`RIDGES`.
        keep: list to which the states at the end of each step are added.
    """
    values: list[Tensor] = []
    weights = []
    for i, step in enumerate(plan):
        values = [(step.x * x).add_(score(x, step.t), alpha=step.score), *values[: VALUES - 1]]
        own = [*step.predict, *[0.0] * (len(values) - len(step.predict))][: len(values)]
        base = combine(step.keep * x, own, values)
        if aims:
            gap = aims[i][:rows] - base[:rows]
            change = regression([value[:rows] for value in values], gap, ridge)
            x = combine(base, change, values)
            own = [a + b for a, b in zip(own, change, strict=True)]
        else:
            x = base
        weights.append(tuple(own))
        if keep is not None:
            keep.append(x)
    return Walk(x, tuple(weights))


def regression(values: Sequence[Tensor], gap: Tensor, ridge: float) -> list[float]:
    """Returns the weights of the values ``(N, *)`` with which their sum is close to ``gap`` ``(N, *)``."""
    features = torch.stack([value.flatten(1) for value in values], 2).double()
    wanted = gap.flatten(1).double()
    found = torch.zeros(len(values), dtype=torch.float64, device=gap.device)
    for _ in range(2):
        scaled = features * robust(wanted - features @ found)[:, None, None]
        gram = torch.einsum("ndk,ndl->kl", scaled, features)
        # The largest entry keeps a matrix of equal or vanishing values regular.
        size = gram.diagonal()
        gram = gram + torch.diag(ridge * size + 1e-12 * size.max() + torch.finfo(torch.float64).tiny)
        found = torch.linalg.solve(gram, torch.einsum("ndk,nd->k", scaled, wanted))
    answer: list[float] = found.tolist()
    return answer if all(map(math.isfinite, answer)) else [0.0] * len(answer)


def robust(gap: Tensor) -> Tensor:
    """Returns weights of the rows of ``gap`` ``(N, d)`` with which the sum of squares is close to that of distances."""
    size = distances(gap)
    weight = 1 / (size + ROBUST * size.mean()).clamp(min=torch.finfo(size.dtype).tiny)
    return weight / weight.mean()


def distances(gap: Tensor) -> Tensor:
    """Returns the norms ``(N,)`` of the rows of ``gap``, ``(N, *)``, in float64."""
    return gap.flatten(1).double().norm(dim=1)


class Trials:
    """Candidates for a time grid, each with fitted weights, and their errors.

    Args:
        predictor: multistep scheme.
        sde: forward process.
        score: score of the first ``2 part`` starts.
        exact: exact paths of all starts.
        part: number of starts to which the weights are fitted, and number of the next starts, which compare the grids.
        report: function that is called with the number of candidates so far.
    """

    def __init__(
        self,
        predictor: Exponential,
        sde: LinearSDE,
        score: Score,
        exact: Path,
        part: int,
        report: Callable[[int], object],
    ) -> None:
        self.predictor, self.sde, self.score, self.part, self.report = predictor, sde, score, part, report
        self.exact = Path(exact.lam, exact.x[:, : 2 * part])
        self.count = 0

    def plan(self, times: Tensor) -> list[ExponentialStep]:
        """Returns the steps of the scheme along a grid."""
        return merged(self.predictor.plan(self.sde, times))

    def gaps(self, times: Tensor, ridge: float) -> Tensor:
        """Returns the differences ``(N, d)`` between end points and exact end points along a grid, in float64."""
        self.report(self.count)
        self.count += 1
        aims = self.exact.aims(self.sde, times)
        end = walk(self.plan(times), self.score, self.exact.x[0], aims, self.part, ridge).x
        return (end - self.exact.x[-1])[self.part :].flatten(1).double()

    def error(self, times: Tensor, ridge: float) -> float:
        """Returns the mean distance from the exact end points; infinity if it is not finite."""
        return mean(self.gaps(times, ridge))

    def search(self, steps: int) -> tuple[Tensor, float]:
        """Returns the times, ``(steps + 1,)``, and the ridge with the smallest error."""
        grids = {name: along(name, self.sde, steps) for name in NAMED}
        errors = {name: self.error(times, FIRST) for name, times in grids.items()}
        best = min(errors, key=errors.__getitem__)
        ridge = self.best_ridge(grids[best])
        table = 0.5 * self.sde.log_nsr(along(best, self.sde, TABLE))
        times = self.improved(lambda slopes: self.warped(table, slopes, steps), min(steps, SLOPES), ridge)
        return times, self.best_ridge(times)

    def best_ridge(self, times: Tensor) -> float:
        """Returns the ridge with the smallest error."""
        errors = {ridge: self.error(times, ridge) for ridge in RIDGES}
        return min(errors, key=errors.__getitem__)

    def warped(self, table: Tensor, slopes: Tensor, steps: int) -> Tensor:
        """Returns the times of a grid whose shares are mapped by a piecewise linear function.

        Args:
            table: noise levels λ of the grid at equal shares.
            slopes: logarithms of the slopes of the function, up to a constant.
            steps: number of steps.
        """
        corners = torch.cat([torch.zeros(1, dtype=torch.float64), slopes.softmax(0).cumsum(0)]) * (len(table) - 1)
        share = interpolated(corners, torch.linspace(0, len(slopes), steps + 1, dtype=torch.float64))
        times = self.sde.time(2 * interpolated(table, share))
        times[0], times[-1] = self.sde.T, self.sde.eps
        return times

    def improved(self, grid: Callable[[Tensor], Tensor], slopes: int, ridge: float) -> Tensor:
        """Returns the times ``grid(θ)`` that the method of Levenberg and Marquardt finds, from θ = 0."""
        theta, damping = torch.zeros(slopes, dtype=torch.float64), 1e-2
        gap = self.gaps(grid(theta), ridge)
        shifts = SHIFT * torch.eye(slopes, dtype=torch.float64)
        for _ in range(ITERATIONS if slopes > 1 else 0):
            columns = [self.gaps(grid(theta + shift), ridge) - gap for shift in shifts]
            slope = torch.stack(columns, 2).cpu() / SHIFT
            scaled, least = slope * robust(gap).cpu()[:, None, None], mean(gap)
            gram = torch.einsum("ndk,ndl->kl", scaled, slope)
            pull = torch.einsum("ndk,nd->k", scaled, gap.cpu())
            before = theta
            for _ in range(4):
                size = damping * gram.diagonal().mean() + torch.finfo(torch.float64).tiny
                move = torch.linalg.solve(gram + size * torch.eye(slopes, dtype=torch.float64), pull)
                tried = before - move / max(1.0, float(move.abs().max()))
                if mean(new := self.gaps(grid(tried), ridge)) < least:
                    theta, gap, damping = tried, new, 0.2 * damping
                    break
                damping *= 5
            if mean(gap) > (1 - ENOUGH) * least:
                break
        return grid(theta)


NAMED: tuple[Named, ...] = tuple(name for name in GRIDS if name != "fitted")
"""Grids from which a fit begins."""


def mean(gap: Tensor) -> float:
    """Returns the mean norm of the rows of ``gap``; infinity if it is not finite."""
    value = float(distances(gap).mean())
    return value if math.isfinite(value) else math.inf


def interpolated(values: Tensor, at: Tensor) -> Tensor:
    """Returns the piecewise linear function with ``values`` at 0, 1, 2, … at the points ``at``."""
    cell = at.long().clamp(0, len(values) - 2)
    return torch.lerp(values[cell], values[cell + 1], at - cell)


def merged(plan: Sequence[ExponentialStep]) -> list[ExponentialStep]:
    """Returns the same steps without corrections: the correction of a step becomes a part of the next step."""
    steps, before = [], [0.0]
    for step in plan:
        size = max(len(step.predict), len(step.correct))
        weights = [*step.predict, *[0.0] * (size - len(step.predict))]
        if step.correct:
            # The correction replaces the last prediction, whose newest value is now the second.
            last = [0.0, *before, *[0.0] * size]
            weights = [w + step.keep * (c - old) for w, c, old in zip(weights, step.correct, last, strict=False)]
        before = step.predict
        steps.append(step._replace(correct=[], predict=weights))
    return steps
