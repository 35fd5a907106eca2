r"""Fits of a multistep scheme to a score, for a given number of steps.

For a scheme with noise, see :mod:`sdegen.samplers.noisy`. For the flow, the time grid and the weights of the steps are
fitted. The starts are draws of the prior in three parts. An accurate flow gives the exact path of each start.

- From the first part, the weights of a candidate grid follow step by step: with the values :math:`F_j` of the last
  evaluations, a step is :math:`x_s = A x_t + \sum_j w_j F_j`, see :mod:`sdegen.samplers.exponential`, and the change of
  w minimises the distance to the exact states at s. This is a linear least-squares problem with few unknowns. A ridge
  draws w towards the weights of the scheme.
- With the second part, the grid is chosen. The candidates are the named grids, and warps of the best of them: piecewise
  linear maps of its share of steps, whose slopes are improved by the method of Levenberg and Marquardt. The error of a
  candidate is the mean distance of the end points from the exact ones. Its derivatives are difference quotients; for
  images and signals, Broyden's method updates them as long as the error falls, which needs fewer evaluations.
- Along the chosen grid, the weights are fitted once more, to both parts.
- The third part decides whether the fit is used: its error must be smaller than that of ``grid=logistic``.

All distances are weighted by their inverses (iteratively), so that the fit minimises the mean distance and not the mean
square, which few starts between two modes would dominate.

References for fitted steps and weights: Shaul et al. (2024), Bespoke non-stationary solvers,
https://arxiv.org/abs/2403.01329; Chen et al. (2024), GITS, https://arxiv.org/abs/2405.11326
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.samplers import noisy
from sdegen.samplers.base import Predictor
from sdegen.samplers.exponential import Exponential, ExponentialStep, Weights
from sdegen.samplers.grids import NAMED, Times, along, check_falling
from sdegen.samplers.walks import VALUES, Path, finer, mean, merged, robust, starts, walk
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.scores import of_rows

STARTS, FEWEST, NUMBERS = 2304, 96, 2**14
"""Largest and smallest number of starts. Between them, all starts together have about ``NUMBERS`` coordinates."""
IMAGES, LEAST, KEPT = 48, 6, 2**28
"""Largest and smallest number of starts for images and signals. Between them, the paths have ``KEPT`` numbers."""
TABLE = 2000
"""Number of steps of the table of a named grid that is warped."""
SLOPES = 12
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

LARGEST = 1e6
"""Largest absolute value of a weight, a spread and the inverse of a spread that are read from a file."""


class Fit(NamedTuple):
    """Result of a fit.

    Attributes:
        times: times of the steps, from T to eps.
        error: error from starts that the fit did not see, in the network's units: mean distance from the exact end
            points of the flow, or sliced Wasserstein distance of samples with noise.
        unfitted: same error for ``grid=logistic`` and the scheme as it is.
        weights: weights of the values of F in each step, newest first; empty for those of the scheme.
        order: number of values of F in a step; None for that of the scheme.
        spread: spread of the scheme; None for its own.
    """

    times: Times
    error: float
    unfitted: float
    weights: Weights = ()
    order: int | None = None
    spread: float | None = None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Fit:
        """Returns the fit that plain data describe.

        Raises:
            ValueError, TypeError, KeyError, OverflowError: the data describe no fit.
        """
        weights = tuple(tuple(map(float, row)) for row in content["weights"])
        error, unfitted = (float(content[key]) for key in ("error", "unfitted"))
        order = None if content["order"] is None else int(content["order"])
        spread = None if content["spread"] is None else float(content["spread"])
        found = cls(tuple(map(float, content["times"])), error, unfitted, weights, order, spread)
        check_falling(found.times)
        rows = [len(row) for row in weights]
        if rows and (len(rows) != len(found.times) - 1 or not 1 <= min(rows) <= max(rows) <= VALUES):
            raise ValueError("the weights do not fit the times")
        if not all(abs(number) <= LARGEST for number in (*sum(weights, ()), spread or 0.0, 1 / (spread or 1.0))):
            raise ValueError("a weight or the spread is too large or too small")
        return found

    def summary(self) -> str:
        """Returns words about the errors."""
        if self.error == self.unfitted:
            return f"using grid=logistic, because no fit has an error below {self.unfitted:.3g}"
        return f"error {self.error:.3g}, with grid=logistic {self.unfitted:.3g}"


def number(predictor: Predictor | None, shape: tuple[int, ...], steps: int) -> int:
    """Returns the number of starts of a fit of ``steps`` steps for states of a shape.

    Images have fewer starts than points, because their networks take longer, and all entries of an image count.
    """
    size = math.prod(shape)
    if predictor is not None and predictor.eta:
        return noisy.number(size)
    if len(shape) > 1:
        return 3 * (starts(size * (finer(steps, shape) + 1), LEAST, IMAGES, KEPT) // 3)
    return 3 * (starts(size, FEWEST, STARTS, NUMBERS) // 3)


def fit(
    predictor: Predictor | None, sde: LinearSDE, score: Score, x: Tensor, steps: int, report: Callable[[int], object]
) -> Fit:
    """Returns the fit of a scheme to a score.

    Args:
        predictor: multistep scheme.
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: draws of the prior, as many as :func:`number` says.
        steps: number of steps.
        report: function that is called with the number of candidates so far.

    Raises:
        UserError: the score is not finite along the flow.
    """
    assert isinstance(predictor, Exponential)
    best = (of_reverse if predictor.eta else of_flow)(predictor, sde, score, x, steps, report)
    if best.error < best.unfitted:
        return best
    return Fit(tuple(along("logistic", sde, steps).tolist()), best.unfitted, best.unfitted)


def of_flow(
    predictor: Exponential, sde: LinearSDE, score: Score, x: Tensor, steps: int, report: Callable[[int], object]
) -> Fit:
    """Returns the best times and weights of a scheme for the flow: see :func:`fit`."""
    part = len(x) // 3

    def watched(x: Tensor, t: Tensor) -> Tensor:
        report(0)
        return score(x, t)

    exact = Path.of(sde, watched, x, steps)
    trials = Trials(predictor, sde, of_rows(score, torch.arange(2 * part)), exact, part, report)
    times, ridge = trials.search(steps)
    weights = walk(trials.plan(times), trials.score, x[: 2 * part], exact.aims(sde, times), 2 * part, ridge).weights
    plans = predictor.adjusted(weights).plan(sde, times), trials.plan(along("logistic", sde, steps))
    held = of_rows(score, torch.arange(2 * part, len(x)))
    error, unfitted = (mean(walk(plan, held, x[2 * part :]).x - exact.x[-1, 2 * part :]) for plan in plans)
    return Fit(tuple(times.tolist()), error, unfitted, weights)


def of_reverse(
    predictor: Exponential, sde: LinearSDE, score: Score, x: Tensor, steps: int, report: Callable[[int], object]
) -> Fit:
    """Returns the best grid, order and spread of a scheme for the reverse SDE: see :func:`fit`."""
    (grid, order, spread), error, unfitted = noisy.choose(predictor, sde, score, x, steps, report)
    return Fit(tuple(along(grid, sde, steps).tolist()), error, unfitted, (), order, spread)


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
        self.count, self.secant = 0, exact.x.ndim > 3  # Images and signals have more axes than (F, N, d).

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
        shifts, slope = SHIFT * torch.eye(slopes, dtype=torch.float64), None
        for _ in range(ITERATIONS if slopes > 1 else 0):
            if fresh := slope is None or not self.secant:
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
                    if self.secant:
                        step = tried - before
                        change = (new - gap).cpu() - slope @ step
                        slope = slope + change.unsqueeze(2) * step / step.square().sum()
                    theta, gap, damping = tried, new, 0.2 * damping
                    break
                damping *= 5
            if mean(gap) > (1 - ENOUGH) * least:
                if fresh:
                    break
                slope = None
        return grid(theta)


def interpolated(values: Tensor, at: Tensor) -> Tensor:
    """Returns the piecewise linear function with ``values`` at 0, 1, 2, … at the points ``at``."""
    cell = at.long().clamp(0, len(values) - 2)
    return torch.lerp(values[cell], values[cell + 1], at - cell)
