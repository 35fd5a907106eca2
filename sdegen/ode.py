r"""Solvers of ordinary differential equations :math:`dx/dt = f(x, t)` for a batch of independent initial values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.errors import UserError
from sdegen.sde.base import SDE
from sdegen.tensor import expand

Field = Callable[[Tensor, Tensor], Tensor]
"""``(x, t) -> dx/dt``: ``(B, *)`` and ``()`` or ``(B,)`` to ``(B, *)``."""


class Solution(NamedTuple):
    """``x`` at ``t1``, ``(B, *)``, and ``path`` at the asked times, ``(F, B, *)``."""

    x: Tensor
    path: Tensor


class ODESolver(ABC):
    """Integrates a field from ``t0`` to ``t1``, forwards or backwards."""

    @abstractmethod
    def solve(self, field: Field, x: Tensor, t0: float, t1: float, times: Tensor) -> Solution:
        """The solution from ``x`` at ``t0``.

        Args:
            field: the right-hand side.
            x: initial values, ``(B, *)``.
            t0: start.
            t1: end.
            times: ``(F,)``, from ``t0`` to ``t1``, where the path is wanted; may be empty.
        """


class RK45(ODESolver):
    """SciPy's ``solve_ivp`` with RK45, the black box that the paper uses.

    The batch is one large system: the error is controlled for its norm, so that a sample depends, within the
    tolerance, on the others of its batch. :class:`Dopri5` does not have this defect.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    def __init__(self, rtol: float, atol: float) -> None:
        self.rtol, self.atol = checked(rtol, atol)

    def solve(self, field: Field, x: Tensor, t0: float, t1: float, times: Tensor) -> Solution:
        from scipy.integrate import solve_ivp

        def flat(t: float, state):  # noqa: ANN001, ANN202 - arrays of SciPy's
            rows = torch.as_tensor(state, dtype=x.dtype, device=x.device).view_as(x)
            slope = field(rows, torch.tensor(t, dtype=torch.float64)).detach().flatten().double()
            if not bool(slope.isfinite().all()):
                # SciPy would try for ever: a step of NaN is never too small.
                raise UserError(f"RK45 stopped: dx/dt is not finite at t={t:.3g}. Try sampler=euler_maruyama")
            return slope.cpu().numpy()

        start = x.detach().flatten().double().cpu().numpy()
        asked = times.double().cpu().numpy()
        at = asked if t1 in asked else [*asked, t1]
        result = solve_ivp(flat, (t0, t1), start, method="RK45", rtol=self.rtol, atol=self.atol, t_eval=at)
        if not result.success:
            raise UserError(f"RK45 stopped: {result.message} Try a looser sampler.rtol, or sampler=euler_maruyama")
        states = torch.as_tensor(result.y.T, dtype=x.dtype, device=x.device).reshape(-1, *x.shape)
        return Solution(states[-1], states[: len(asked)])


class Dopri5(ODESolver):
    """Dormand–Prince 5(4), adaptive, with a time and a step size of its own for each sample.

    A sample's result does not depend on the others of its batch, and finished samples cost nothing more. Between
    steps the path is a cubic Hermite interpolant.

    Reference: Hairer, Nørsett & Wanner (1993), Solving ordinary differential equations I, table II.5.2.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: attempted steps after which the solver gives up.
    """

    A = (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )
    C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
    FIRST, SAFETY, SHRINK, GROW = 1e-3, 0.9, 0.2, 5.0

    def __init__(self, rtol: float, atol: float, max_steps: int) -> None:
        self.rtol, self.atol = checked(rtol, atol)
        if max_steps < 1:
            raise ValueError(f"max_steps={max_steps} must be at least 1")
        self.max_steps = max_steps

    def solve(
        self, field: Field, x: Tensor, t0: float, t1: float, times: Tensor, longest: float | None = None
    ) -> Solution:
        """See :meth:`ODESolver.solve`. No step is longer than ``longest``, and the first is a fifth of it."""
        end, path = x.clone(), x.new_zeros(len(times), *x.shape)
        path[times == t0] = x
        sign = 1.0 if t1 > t0 else -1.0
        times = times.to(device=x.device, dtype=torch.float64)
        # The rows still under way: their index, state, slope, time and step size.
        row = torch.arange(len(x), device=x.device)
        t = torch.full((len(x),), t0, dtype=torch.float64, device=x.device)
        h = torch.full_like(t, self.FIRST * abs(t1 - t0) if longest is None else longest / 5)
        k = field(x, t)
        for _ in range(self.max_steps):
            left = (t1 - t).abs()
            h = h if longest is None else h.clamp(max=longest)
            last = h >= left
            h = torch.minimum(h, left)
            t_new = torch.where(last, t1, t + sign * h)
            x_new, k_new, error = self._step(field, x, k, t, sign * h)
            accept = error <= 1
            if len(times):
                self._record(path, times, row, accept, (t, x, k), (t_new, x_new, k_new))
            done = accept & last
            end[row[done]] = x_new[done]
            factor = (self.SAFETY * error.clamp(min=1e-10) ** -0.2).clamp(self.SHRINK, self.GROW)
            # An error that is not a number shrinks the step; a step too small to move t ends the search below.
            h = h * torch.where(error.isfinite(), factor, self.SHRINK)
            keep = ~done
            moved = accept[keep]
            x = torch.where(expand(moved, x).bool(), x_new[keep], x[keep])
            k = torch.where(expand(moved, k).bool(), k_new[keep], k[keep])
            t = torch.where(moved, t_new[keep], t[keep])
            row, h = row[keep], h[keep]
            if not len(row):
                return Solution(end, path)
            if float(h.min()) < 1e-12 * abs(t1 - t0):
                break
        raise UserError(
            f"dopri5 cannot reach rtol={self.rtol:g}, atol={self.atol:g}: {len(row)} of {len(end)} samples are stuck. "
            f"Try a looser rtol and atol, or more max_steps"
        )

    def _step(self, field: Field, x: Tensor, k: Tensor, t: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state and slope after a step, and its error in units of the tolerance, ``(B,)``."""
        step = expand(h, x)
        slopes = torch.empty(len(self.ERROR), *x.shape, dtype=x.dtype, device=x.device)
        slopes[0] = k
        for i, (c, weights) in enumerate(zip(self.C, self.A, strict=True), 1):
            x_new = torch.addcmul(x, step, torch.tensordot(slopes.new_tensor(weights), slopes[:i], dims=1))
            slopes[i] = field(x_new, t + c * h)
        difference = step * torch.tensordot(slopes.new_tensor(self.ERROR), slopes, dims=1)
        scale = self.atol + self.rtol * torch.maximum(x.abs(), x_new.abs())
        error = (difference / scale).flatten(1).square().mean(1).sqrt().double()
        return x_new, slopes[-1], error

    @staticmethod
    def _record(
        path: Tensor,
        times: Tensor,
        row: Tensor,
        accept: Tensor,
        start: tuple[Tensor, Tensor, Tensor],
        stop: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        """Write the times that an accepted step of each row has passed into the path."""
        (t, x, k), (t_new, x_new, k_new) = start, stop
        after, before = torch.minimum(t, t_new), torch.maximum(t, t_new)
        frame, which = torch.nonzero(
            accept & (times[:, None] >= after) & (times[:, None] <= before) & (times[:, None] != t), as_tuple=True
        )
        h = t_new[which] - t[which]
        theta = expand((times[frame] - t[which]) / h, x)
        h = expand(h, x)
        x, x_new, k, k_new = x[which], x_new[which], k[which], k_new[which]
        bend = (1 - 2 * theta) * (x_new - x) + (theta - 1) * h * k + theta * h * k_new
        path[frame, row[which]] = (1 - theta) * x + theta * x_new + theta * (theta - 1) * bend


LONGEST = 2.4
r"""In the log noise-to-signal ratio: a factor of 11 in :math:`\sigma^2/\alpha^2`."""


def solve_flow(solver: Dopri5, sde: SDE, field: Field, x: Tensor, t0: float, t1: float, times: Tensor) -> Solution:
    r"""The solution along the flow of an SDE, in the clock in which that of a trained network is smooth.

    In t the flow of a network, or of data with fine structure, changes as :math:`1/\sqrt t` next to zero and slowly
    elsewhere. In the log noise-to-signal ratio :math:`u = \log(\sigma_t^2 / \alpha_t^2)` of a linear SDE, with
    :math:`dt = (\sigma^2/g^2)\, du`, it changes about as much at all noises. At high noise next to nothing happens, and
    an estimate of the error sees too late what comes: no step is longer than :data:`LONGEST`.

    Args:
        solver: integrates the field.
        sde: the forward process; one without a closed-form kernel keeps its own time.
        field: dx/dt.
        x: initial values, ``(B, *)``.
        t0: start, in t.
        t1: end.
        times: ``(F,)`` in t, where the path is wanted.
    """
    linear = sde.linear
    if linear is None:
        return solver.solve(field, x, t0, t1, times)
    low, high = sorted((t0, t1))
    u0, u1 = linear.log_nsr(torch.tensor([t0, t1], dtype=torch.float64)).tolist()

    def in_u(x: Tensor, u: Tensor) -> Tensor:
        t = linear.time(u).clamp(low, high)
        return field(x, t) * expand((linear.sigma(t) / linear.diffusion(t)) ** 2, x)

    times = times.double()
    # The ends exactly: a solver asks whether they are met.
    asked = linear.log_nsr(times).clamp(min(u0, u1), max(u0, u1))
    asked = torch.where(times == t0, u0, torch.where(times == t1, u1, asked))
    return solver.solve(in_u, x, u0, u1, asked, LONGEST)


def checked(rtol: float, atol: float) -> tuple[float, float]:
    """The two tolerances, or ValueError."""
    if rtol <= 0:
        raise ValueError(f"rtol={rtol:g} must be above 0: try rtol=1e-5")
    if rtol < 1e-13:
        raise ValueError(f"rtol={rtol:g} must be at least 1e-13, as far as float64 goes: try rtol=1e-5")
    if atol <= 0:
        raise ValueError(f"atol={atol:g} must be above 0: try atol=1e-5")
    return rtol, atol
