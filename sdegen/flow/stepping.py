"""The loop of all solvers with error control, in which each row of a batch has its own time and step size."""

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
"""Smallest step that is tried, as a share of the whole interval."""


class Solution(NamedTuple):
    """The state ``x`` at ``t1``, ``(B, *)``, and the ``path`` at the wanted times, ``(F, B, *)``."""

    x: Tensor
    path: Tensor


class Rows(NamedTuple):
    """The rows of a batch that are still under way.

    Attributes:
        row: their indices in the batch, ``(b,)`` int64.
        x: their states, ``(b, *)``.
        slope: their slopes, as the scheme keeps them, ``(b, *)``.
        t: their times, ``(b,)`` float64.
        proposed: the step sizes that their errors allow, ``(b,)`` float64, above 0.
        moved: True where the last attempt was accepted, ``(b,)``; False before the first attempt.
        goal: the time at which they end.
        sign: the direction of their steps, 1 or -1.
        smallest: the smallest step size that is tried.
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
        """Returns all rows of the states ``x`` ``(B, *)`` at ``t0``, before their first step towards ``t1``."""
        row = torch.arange(len(x), device=x.device)
        t = torch.full((len(x),), t0, dtype=torch.float64, device=x.device)
        proposed, moved = torch.full_like(t, first), torch.zeros_like(t, dtype=torch.bool)
        sign, smallest = math.copysign(1.0, t1 - t0), SMALLEST * abs(t1 - t0)
        return cls(row, x, scheme.slope(row, x, t), t, proposed, moved, t1, sign, smallest)

    @property
    def left(self) -> Tensor:
        """Time left to the goal, ``(b,)``."""
        return (self.goal - self.t).abs()

    @property
    def size(self) -> Tensor:
        """Lengths of the next steps, ``(b,)``; an attempt may be shorter."""
        return torch.minimum(self.proposed, self.left)

    def after(self, h: Tensor) -> Tensor:
        """Returns the times after steps of length ``h``, ``(b,)``.

        A time is exactly the goal if the time left after the step is only rounding error.
        """
        return torch.where(self.left - h <= self.smallest, self.goal, self.t + self.sign * h)


class Attempt(NamedTuple):
    """One attempted step of each row under way.

    Attributes:
        h: length of the step, ``(b,)``, above 0 and at most :attr:`Rows.size`.
        stop: the time at which the step ends, from :meth:`Rows.after`.
        x: the state at ``stop``, ``(b, *)``.
        slope: the slope at ``stop``, as the scheme keeps it, ``(b, *)``.
        error: the error of the step in units of the tolerance, ``(b,)`` float64.
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
    """A one-step method with an estimate of its error."""

    @abstractmethod
    def slope(self, row: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Returns the initial slopes ``(b, *)`` of the rows with the indices ``row``."""

    @abstractmethod
    def attempt(self, rows: Rows) -> Attempt:
        """Tries one step of each row."""

    @abstractmethod
    def between(self, rows: Rows, attempt: Attempt, which: Tensor, share: Tensor) -> Tensor:
        """Returns states within a step, ``(n, *)``, of the rows at the positions ``which``, ``(n,)``.

        A state is wanted after ``share`` of the step, ``(n,)``; ``rows`` are the rows before the step.
        """


class Control(NamedTuple):
    r"""Tolerances of a solver, and its rule for the next step size: :math:`0.9\, h\, \mathrm{error}^{-power}`.

    Attributes:
        name: the name of the solver in messages.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of attempted steps after which the solver raises an error.
        first: the size of the first step.
        power: the exponent of the error.
        shrink: the smallest factor by which a step size changes; the largest is 5.
        retry: the largest factor after a rejected step.
        rungs: number of step sizes for each factor of 2: sizes are rounded down to powers of the ``rungs``-th root of
            2. The last bits of a row's errors depend on the size of the batch; with the rounding, its steps do not. 0
            for no rounding.
        longest: the longest step.
        clock: maps the solver's time to the time that messages name.
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
        r"""Returns the error of a step in units of the tolerance, ``(b,)`` float64.

        It is the root mean square, over the entries of a state, of the difference between two results of the step
        divided by :math:`\mathrm{atol} + \mathrm{rtol} \max(|x|, |x_{\mathrm{new}}|)`, with x before the step. If the
        sizes of ``parts`` of a state are given, it is the largest error of a part.
        """
        scale = self.atol + self.rtol * torch.maximum(x.abs(), x_new.abs())
        squares = (difference / scale).flatten(1).square()
        split = squares.split(list(parts), dim=1) if parts else (squares,)
        return torch.stack([part.mean(1) for part in split]).amax(0).sqrt().double()

    def resized(self, proposed: Tensor, h: Tensor, error: Tensor) -> Tensor:
        """Returns the next :attr:`Rows.proposed`, ``(b,)``, after steps of the lengths ``h <= proposed``."""
        accept = error <= 1
        size = h * (SAFETY * error.clamp(min=1e-10) ** -self.power).clamp(self.shrink, GROW)
        # A step that was cut short does not shorten the next.
        cut = accept & (h < proposed * (1 - 1e-6))
        size = torch.where(cut, torch.maximum(size, torch.minimum(proposed, h * GROW)), size)
        size = torch.where(accept, size, torch.minimum(size, self.retry * h))
        size = torch.where(error.isfinite(), size, self.shrink * h)
        if self.rungs:
            # Without the offset, rounding errors could lower a size that is already on a rung.
            size = torch.exp2(torch.floor(self.rungs * size.log2() + 1e-6) / self.rungs)
        return size.clamp(max=self.longest)

    def failure(self, t: Tensor, count: int, *, limit: str = "", state: str, fix: str) -> UserError:
        """Returns the error for rows at the times ``t``, out of ``count``, that did not arrive."""
        return UserError(
            f"{self.name} cannot reach rtol={self.rtol:g}, atol={self.atol:g}{limit}: {len(t)} of {count} samples "
            f"{state}, the first at t={float(self.clock(t[:1])):.3g}: try {fix}"
        )


def integrate(scheme: Scheme, control: Control, x: Tensor, t0: float, t1: float, times: Tensor) -> Solution:
    """Integrates each row from ``t0`` to ``t1`` by its own steps; rows that have arrived cost nothing more.

    Args:
        scheme: attempts the steps.
        control: decides their sizes.
        x: initial states, ``(B, *)``.
        t0: start.
        t1: end, after or before ``t0``.
        times: times at which the path is wanted, ``(F,)`` from ``t0`` to ``t1``; may be empty.

    Raises:
        UserError: a row finds no step within the tolerance, or does not arrive within ``control.max_steps``.
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
            fix = "a looser rtol and atol, or precision=float64"
            raise control.failure(rows.t[stuck], len(x), state="stuck", fix=fix)
    limit, fix = f" within max_steps={control.max_steps}", "more max_steps, or a looser rtol and atol"
    raise control.failure(rows.t, len(x), limit=limit, state="not finished", fix=fix)


def _advanced(rows: Rows, attempt: Attempt, proposed: Tensor, keep: Tensor) -> Rows:
    """Returns the rows still under way after an attempt, with new step sizes; accepted rows have moved."""
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
    """Writes the states at the wanted times that accepted steps have passed into ``path``."""
    behind = rows.sign * (times[:, None] - rows.t) > 0
    ahead = rows.sign * (times[:, None] - attempt.stop) > 0
    frame, which = torch.nonzero(attempt.accept & behind & ~ahead, as_tuple=True)
    share = (times[frame] - rows.t[which]) / (attempt.stop - rows.t)[which]
    path[frame, rows.row[which]] = scheme.between(rows, attempt, which, share)
