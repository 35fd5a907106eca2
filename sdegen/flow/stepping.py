"""Integration loop of ``dopri5`` and ``adaptive_sde``, in which each row of a batch has a time and a step size."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.tensors import expand

SAFETY, GROW = 0.9, 5.0
SMALLEST = 1e-12
"""Smallest step that is tried, as a fraction of the whole interval."""


class Solution(NamedTuple):
    """State ``x`` ``(B, *)`` at the end time, and the ``path`` ``(F, B, *)`` at the wanted times."""

    x: Tensor
    path: Tensor


class Rows(NamedTuple):
    """Rows of a batch that have not reached the end time.

    Attributes:
        row: indices of the rows in the batch, ``(b,)`` int64.
        x: states of the rows, ``(b, *)``.
        slope: last slopes of the rows that the scheme returned, ``(b, *)``.
        t: times of the rows, ``(b,)`` float64.
        proposed: step sizes that the last errors allow, ``(b,)`` float64, above 0.
        moved: True where the last attempt was accepted, ``(b,)``; False before the first attempt.
        goal: end time of all rows.
        sign: direction of the steps, 1 or -1.
        smallest: smallest step size that is tried.
    """

    row: Tensor
    x: Tensor
    slope: Tensor
    t: Tensor
    proposed: Tensor
    moved: Tensor
    goal: float
    sign: float
    smallest: float

    @classmethod
    def start(cls, scheme: Scheme, x: Tensor, t0: float, t1: float, first: float) -> Rows:
        """Returns all rows at ``t0``, with the states ``x`` ``(B, *)`` and the first step size ``first``."""
        row = torch.arange(len(x), device=x.device)
        t = torch.full((len(x),), t0, dtype=torch.float64, device=x.device)
        proposed, moved = torch.full_like(t, first), torch.zeros_like(t, dtype=torch.bool)
        sign, smallest = math.copysign(1.0, t1 - t0), SMALLEST * abs(t1 - t0)
        return cls(row, x, scheme.slope(row, x, t), t, proposed, moved, t1, sign, smallest)

    @property
    def left(self) -> Tensor:
        """Time from each row to the goal, ``(b,)``."""
        return (self.goal - self.t).abs()

    @property
    def size(self) -> Tensor:
        """Lengths of the next steps, ``(b,)``; an attempt may be shorter."""
        return torch.minimum(self.proposed, self.left)

    def after(self, h: Tensor) -> Tensor:
        """Returns the times after steps of length ``h``, ``(b,)``.

        A time is set to the goal exactly if it differs from the goal only by a rounding error.
        """
        return torch.where(self.left - h <= self.smallest, self.goal, self.t + self.sign * h)


class Attempt(NamedTuple):
    """One attempted step of each row.

    Attributes:
        h: length of the step, ``(b,)``, above 0 and at most :attr:`Rows.size`.
        stop: time at which the step ends, from :meth:`Rows.after`.
        x: state at ``stop``, ``(b, *)``.
        slope: next :attr:`Rows.slope` if the step is accepted, ``(b, *)``.
        error: error of the step divided by the tolerance, ``(b,)`` float64.
    """

    h: Tensor
    stop: Tensor
    x: Tensor
    slope: Tensor
    error: Tensor

    @property
    def accept(self) -> Tensor:
        """True where the step is within the tolerance, ``(b,)``; False where the error is NaN."""
        return self.error <= 1


class Scheme(ABC):
    """One-step scheme with an estimate of the error."""

    @abstractmethod
    def slope(self, row: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Returns the initial slopes ``(b, *)`` at ``x`` and ``t`` of the rows with the indices ``row``."""

    @abstractmethod
    def attempt(self, rows: Rows) -> Attempt:
        """Tries one step of each row."""

    @abstractmethod
    def between(self, rows: Rows, attempt: Attempt, which: Tensor, share: Tensor) -> Tensor:
        """Returns states within a step, ``(n, *)``, of the rows at the positions ``which``, ``(n,)``.

        Each state is the state after the fraction ``share``, ``(n,)``, of the step. ``rows`` are the rows before the
        step.
        """


class Control(NamedTuple):
    r"""Tolerances of a solver, and the rule for the next step size: :math:`0.9\, h\, \mathrm{error}^{-power}`.

    Attributes:
        name: name of the solver in messages.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of attempted steps after which the solver raises an error.
        first: size of the first step.
        power: exponent of the error in the rule.
        shrink: smallest factor by which a step size changes; the largest factor is 5.
        retry: largest factor after a rejected step.
        rungs: number of step sizes in each factor of 2, or 0 for no rounding. Step sizes are rounded down to powers of
            the ``rungs``-th root of 2. The last bits of the error of a row depend on the batch size; with the rounding,
            the step sizes do not.
        longest: largest step size.
        clock: function that maps the time of the solver to the time that messages show.
    """

    name: str
    rtol: float
    atol: float
    max_steps: int
    first: float
    power: float
    shrink: float
    retry: float = 1.0
    rungs: int = 0
    longest: float = math.inf
    clock: Callable[[Tensor], Tensor] = torch.clone

    def error(self, difference: Tensor, x: Tensor, x_new: Tensor, parts: Sequence[int] = ()) -> Tensor:
        r"""Returns the error of a step divided by the tolerance, ``(b,)`` float64.

        ``difference`` is the difference between two results of the step; ``x`` is the state before the step. The error
        is the root mean square, over the entries of a state, of ``difference`` divided by
        :math:`\mathrm{atol} + \mathrm{rtol} \max(|x|, |x_{\mathrm{new}}|)`. If ``parts`` holds the sizes of the parts
        of a state, the result is the largest error of a part.
        """
        scale = self.atol + self.rtol * torch.maximum(x.abs(), x_new.abs())
        squares = (difference / scale).flatten(1).square()
        split = squares.split(list(parts), dim=1) if parts else (squares,)
        return torch.stack([part.mean(1) for part in split]).amax(0).sqrt().double()

    def resized(self, proposed: Tensor, h: Tensor, error: Tensor) -> Tensor:
        """Returns the next :attr:`Rows.proposed`, ``(b,)``, after steps with the lengths ``h <= proposed``."""
        accept = error <= 1
        size = h * (SAFETY * error.clamp(min=1e-10) ** -self.power).clamp(self.shrink, GROW)
        # A step that was cut short at the goal or by the scheme must not shorten the next step.
        cut = accept & (h < proposed * (1 - 1e-6))
        size = torch.where(cut, torch.maximum(size, torch.minimum(proposed, h * GROW)), size)
        size = torch.where(accept, size, torch.minimum(size, self.retry * h))
        size = torch.where(error.isfinite(), size, self.shrink * h)
        if self.rungs:
            # Without the offset 1e-6, a rounding error could lower a size that is already such a power.
            size = torch.exp2(torch.floor(self.rungs * size.log2() + 1e-6) / self.rungs)
        return size.clamp(max=self.longest)

    def failure(self, t: Tensor, count: int, *, limit: str = "", state: str, fix: str) -> UserError:
        """Returns the error for the rows, at the times ``t``, that did not reach the end, out of ``count`` rows."""
        return UserError(
            f"{self.name} cannot reach rtol={self.rtol:g}, atol={self.atol:g}{limit}: {len(t)} of {count} samples "
            f"{state}, the first at t={float(self.clock(t[:1])):.3g}: try {fix}"
        )


def integrate(scheme: Scheme, control: Control, x: Tensor, t0: float, t1: float, times: Tensor) -> Solution:
    """Integrates each row from ``t0`` to ``t1`` with steps of its own. Finished rows cost nothing more.

    Args:
        scheme: scheme that attempts the steps.
        control: tolerances and rule for the step sizes.
        x: initial states, ``(B, *)``.
        t0: start time.
        t1: end time, before or after ``t0``.
        times: times at which the path is wanted, ``(F,)`` from ``t0`` to ``t1``; may be empty.

    Raises:
        UserError: a row finds no step within the tolerance, or does not reach ``t1`` within ``control.max_steps``.
    """
    times = times.to(device=x.device, dtype=torch.float64)
    end, path = x.clone(), x.new_zeros(len(times), *x.shape)
    path[times == t0] = x
    rows = Rows.start(scheme, x, t0, t1, control.first)
    for _ in range(control.max_steps):
        attempt = scheme.attempt(rows)
        if len(times):
            _record(path, times, scheme, rows, attempt)
        done = attempt.accept & (attempt.stop == t1)
        end[rows.row[done]] = attempt.x[done]
        rows = _advanced(rows, attempt, control.resized(rows.proposed, attempt.h, attempt.error), ~done)
        if not len(rows.row):
            return Solution(end, path)
        stuck = rows.proposed < rows.smallest
        if bool(stuck.any()):
            fix = "a larger rtol and atol, or precision=float64"
            raise control.failure(rows.t[stuck], len(x), state="found no step within the tolerance", fix=fix)
    limit, fix = f" within max_steps={control.max_steps}", "more max_steps, or a larger rtol and atol"
    raise control.failure(rows.t, len(x), limit=limit, state="did not finish", fix=fix)


def _advanced(rows: Rows, attempt: Attempt, proposed: Tensor, keep: Tensor) -> Rows:
    """Returns the rows where ``keep`` is True, with the results of accepted attempts and with new step sizes."""
    moved = attempt.accept[keep]

    def latest(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(expand(moved, old).bool(), new[keep], old[keep])

    return rows._replace(
        row=rows.row[keep],
        x=latest(attempt.x, rows.x),
        slope=latest(attempt.slope, rows.slope),
        t=latest(attempt.stop, rows.t),
        proposed=proposed[keep],
        moved=moved,
    )


def _record(path: Tensor, times: Tensor, scheme: Scheme, rows: Rows, attempt: Attempt) -> None:
    """Writes into ``path`` the states at those wanted ``times`` that accepted steps have passed."""
    behind = rows.sign * (times[:, None] - rows.t) > 0
    ahead = rows.sign * (times[:, None] - attempt.stop) > 0
    frame, which = torch.nonzero(attempt.accept & behind & ~ahead, as_tuple=True)
    share = (times[frame] - rows.t[which]) / (attempt.stop - rows.t)[which]
    path[frame, rows.row[which]] = scheme.between(rows, attempt, which, share)
