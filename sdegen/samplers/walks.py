"""Walks along the steps of a multistep scheme, with weights that are fitted to exact states: a part of a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.samplers.exponential import Adams, ExponentialStep, Weights, combine
from sdegen.samplers.grids import along
from sdegen.sde.base import LinearSDE, Score

VALUES = 8
"""Largest number of values of F in a fitted step."""
FINER, FINEST = 12, 100
"""Number of steps of the accurate flow for each step of a scheme, and the smallest number; half for images."""
ROBUST = 0.3
"""Distances far below this share of the mean distance have equal weights."""


class Path(NamedTuple):
    """Exact states ``x`` ``(F, N, *)`` of the flow, and their noise levels ``lam`` ``(F,)``, which fall."""

    lam: Tensor
    x: Tensor

    @classmethod
    def of(cls, sde: LinearSDE, score: Score, x: Tensor, steps: int) -> Path:
        """Returns the path from ``x`` ``(N, *)`` at T to eps, accurate enough for a scheme with ``steps`` steps.

        Raises:
            UserError: the score is not finite.
        """
        times = along("logistic", sde, finer(steps, x.shape[1:]))
        states = [x]
        walk(merged(Adams(order=5).plan(sde, times)), score, x, keep=states)
        path = torch.stack(states)
        broken = [float(t) for t, state in zip(times, states[1:], strict=False) if not bool(state.isfinite().all())]
        check_finite(path, f", near t={broken[0]:.3g}" if broken else "")
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


def starts(size: int, fewest: int, most: int, numbers: int) -> int:
    """Returns the number of states of ``size`` coordinates with about ``numbers`` in all, between two bounds."""
    return min(most, max(fewest, numbers // size))


def finer(steps: int, shape: Sequence[int]) -> int:
    """Returns the number of steps of the accurate flow for a scheme with ``steps`` steps and states of a shape."""
    return max(FINEST, FINER * steps) // (2 if len(shape) > 1 else 1)


def check_finite(x: Tensor, where: str = "") -> None:
    """Raises UserError if states are not finite."""
    if not bool(x.isfinite().all()):
        raise UserError(
            f"sampler.grid=fitted: the score is not finite{where}: use sampler.grid=logistic, or another checkpoint"
        )


class Walked(NamedTuple):
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
) -> Walked:
    """Takes the steps of a plan without noise and corrections.

    Args:
        plan: steps, from :func:`merged`.
        score: function ``(x, t) -> ∇ log p_t(x)``.
        x: states at the first time, ``(N, *)``.
        aims: exact states at the end of each step, for a fit of the weights; empty for no fit.
        rows: number of states, the first of ``x``, to which the weights are fitted.
        ridge: ridge of the fit, relative to the mean squares of the values.
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
    return Walked(x, tuple(weights))


def regression(values: Sequence[Tensor], gap: Tensor, ridge: float) -> list[float]:
    """Returns the weights with which the weighted sum of the values ``(N, *)`` is closest to ``gap`` ``(N, *)``."""
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


def mean(gap: Tensor) -> float:
    """Returns the mean norm of the rows of ``gap``; infinity if it is not finite."""
    value = float(distances(gap).mean())
    return value if math.isfinite(value) else math.inf


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
