r"""Solvers of ordinary differential equations :math:`dx/dt = f(x, t)` for a batch of independent initial values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.core.tensors import expand
from sdegen.flow.stepping import Attempt, Control, Rows, Scheme, Solution, integrate
from sdegen.sde.base import SDE

Field = Callable[[Tensor, Tensor], Tensor]
"""Function ``(x, t) -> dx/dt``, with ``x`` and ``dx/dt`` ``(b, *)``, and ``t`` ``()`` or ``(b,)``."""
RowField = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Function ``(x, t, row) -> dx/dt``, where ``row``, ``(b,)`` int64, holds the indices of the rows in the batch."""


class ODESolver(ABC):
    """Solver that integrates a field from ``t0`` to ``t1``, forwards or backwards."""

    @abstractmethod
    def integrate(
        self, field: RowField, x: Tensor, t0: float, t1: float, times: Tensor, parts: Sequence[int] = ()
    ) -> Solution:
        """Returns the solution that starts from ``x`` at ``t0``, for a field that may depend on the row.

        Args:
            field: right-hand side, evaluated only for the rows that have not reached ``t1``.
            x: initial values, ``(B, *)``.
            t0: start time.
            t1: end time.
            times: times at which the path is wanted, ``(F,)`` from ``t0`` to ``t1``; may be empty.
            parts: sizes of the parts of a state; empty for a single part. A solver that controls the error of each row
                controls the error of each part separately.
        """

    def solve(self, field: Field, x: Tensor, t0: float, t1: float, times: Tensor) -> Solution:
        """Returns the solution that starts from ``x`` at ``t0``, for a field that is the same for all rows."""
        return self.integrate(lambda x, t, row: field(x, t), x, t0, t1, times)


class SciPyRK45(ODESolver):
    """SciPy's ``solve_ivp`` with RK45, which the paper uses.

    The batch is solved as one large system, and one norm over the batch controls the error. Within the tolerance, a
    sample therefore depends on the other samples of the batch. :class:`DormandPrince` does not have this defect.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
    """

    def __init__(self, rtol: float, atol: float) -> None:
        self.rtol, self.atol = checked(rtol, atol)

    def integrate(
        self, field: RowField, x: Tensor, t0: float, t1: float, times: Tensor, parts: Sequence[int] = ()
    ) -> Solution:
        from scipy.integrate import solve_ivp

        every = torch.arange(len(x), device=x.device)

        def flat(t: float, state):  # noqa: ANN001, ANN202 - SciPy passes arrays
            rows = torch.as_tensor(state, dtype=x.dtype, device=x.device).view_as(x)
            slope = field(rows, torch.tensor(t, dtype=torch.float64), every).detach().flatten().double()
            if not bool(slope.isfinite().all()):
                # Raise an error: SciPy would never stop, because it does not reject a step of NaN.
                raise UserError(f"RK45 stopped: dx/dt is not finite at t={t:.3g}: try sampler=euler_maruyama")
            return slope.cpu().numpy()

        start = x.detach().flatten().double().cpu().numpy()
        asked = times.double().cpu().numpy()
        at = asked if t1 in asked else [*asked, t1]
        result = solve_ivp(flat, (t0, t1), start, method="RK45", rtol=self.rtol, atol=self.atol, t_eval=at)
        if not result.success:
            raise UserError(f"RK45 stopped: {result.message} Try a larger sampler.rtol, or sampler=euler_maruyama")
        states = torch.as_tensor(result.y.T, dtype=x.dtype, device=x.device).reshape(-1, *x.shape)
        return Solution(states[-1], states[: len(asked)])


class DormandPrince(ODESolver):
    """Adaptive Dormand–Prince 5(4) solver, with a time and a step size for each sample.

    The result of a sample does not depend on the other samples of the batch. Finished samples cost nothing more.
    Between steps, the path is a cubic Hermite interpolant.

    Reference: Hairer, Nørsett & Wanner (1993), Solving ordinary differential equations I, table II.5.2.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of attempted steps after which the solver raises an error.
    """

    def __init__(self, rtol: float, atol: float, max_steps: int) -> None:
        self.rtol, self.atol = checked(rtol, atol)
        self.max_steps = in_range("max_steps", max_steps, at_least=1)

    def integrate(
        self,
        field: RowField,
        x: Tensor,
        t0: float,
        t1: float,
        times: Tensor,
        parts: Sequence[int] = (),
        *,
        longest: float = math.inf,
        clock: Callable[[Tensor], Tensor] = torch.clone,
    ) -> Solution:
        """Returns the solution as in :meth:`ODESolver.integrate`.

        No step is longer than ``longest``, and the first step is at most ``longest / 5``. ``clock`` maps the time of
        the field to the time that messages show.
        """
        first = longest / 5 if math.isfinite(longest) else 1e-3 * abs(t1 - t0)
        control = Control(
            "dopri5", self.rtol, self.atol, self.max_steps, first, power=0.2, shrink=0.2, longest=longest, clock=clock
        )
        return integrate(DormandPrinceSteps(field, control, parts), control, x, t0, t1, times)


class DormandPrinceSteps(Scheme):
    """Dormand and Prince's scheme of order 5, with an error estimate of order 4.

    The last slope of a step is also the first slope of the next step.
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

    def __init__(self, field: RowField, control: Control, parts: Sequence[int] = ()) -> None:
        self.field, self.control, self.parts = field, control, parts

    def slope(self, row: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.field(x, t, row)

    def attempt(self, rows: Rows) -> Attempt:
        x, size = rows.x, rows.size
        h = rows.sign * size
        step = expand(h, x)
        slopes = torch.empty(len(self.ERROR), *x.shape, dtype=x.dtype, device=x.device)
        slopes[0] = rows.slope
        for i, (c, weights) in enumerate(zip(self.C, self.A, strict=True), 1):
            x_new = torch.addcmul(x, step, torch.tensordot(slopes.new_tensor(weights), slopes[:i], dims=1))
            slopes[i] = self.field(x_new, rows.t + c * h, rows.row)
        difference = step * torch.tensordot(slopes.new_tensor(self.ERROR), slopes, dims=1)
        error = self.control.error(difference, x, x_new, self.parts)
        return Attempt(size, rows.after(size), x_new, slopes[-1], error)

    def between(self, rows: Rows, attempt: Attempt, which: Tensor, share: Tensor) -> Tensor:
        """Returns states on the cubic polynomial through the states and the slopes at both ends of a step."""
        x, x_new, k, k_new = rows.x[which], attempt.x[which], rows.slope[which], attempt.slope[which]
        theta, h = expand(share, x), expand((attempt.stop - rows.t)[which], x)
        bend = (1 - 2 * theta) * (x_new - x) + (theta - 1) * h * k + theta * h * k_new
        return (1 - theta) * x + theta * x_new + theta * (theta - 1) * bend


LONGEST = 2.4
r"""Longest step of the log noise-to-signal ratio along the flow; a factor of 11 in :math:`\sigma^2/\alpha^2`."""


def solve_flow(
    solver: DormandPrince, sde: SDE, field: Field, x: Tensor, t0: float, t1: float, times: Tensor
) -> Solution:
    """Returns the solution of :func:`integrate_flow` for a field that is the same for all rows."""
    return integrate_flow(solver, sde, lambda x, t, row: field(x, t), x, t0, t1, times)


def integrate_flow(
    solver: DormandPrince, sde: SDE, field: RowField, x: Tensor, t0: float, t1: float, times: Tensor
) -> Solution:
    r"""Returns the solution of the flow of an SDE, computed in a variable in which a trained network's flow is smooth.

    In t, the flow of a network, or of data with fine structure, changes as :math:`1/\sqrt t` near zero and slowly
    at other times. In the log noise-to-signal ratio :math:`u = \log(\sigma_t^2 / \alpha_t^2)` of a linear SDE, with
    :math:`dt = (\sigma^2/g^2)\, du`, the flow changes about equally at all noise levels. No step is longer than
    :data:`LONGEST`: at high noise the flow hardly changes, and the error estimate of a long step would miss a later
    change. If the kernel has no closed form, the variable is t.

    The arguments have the same meaning as in :meth:`ODESolver.integrate`, with all times in t.
    """
    linear = sde.linear
    if linear is None:
        return solver.integrate(field, x, t0, t1, times)
    low, high = sorted((t0, t1))
    u0, u1 = linear.log_nsr(torch.tensor([t0, t1], dtype=torch.float64)).tolist()

    def in_u(x: Tensor, u: Tensor, row: Tensor) -> Tensor:
        t = linear.time(u).clamp(low, high)
        return field(x, t, row) * expand((linear.sigma(t) / linear.diffusion(t)) ** 2, x)

    times = times.double()
    # Set both ends exactly, because a solver compares the wanted times with the ends.
    asked = linear.log_nsr(times).clamp(min(u0, u1), max(u0, u1))
    asked = torch.where(times == t0, u0, torch.where(times == t1, u1, asked))
    return solver.integrate(in_u, x, u0, u1, asked, longest=LONGEST, clock=linear.time)


def checked(rtol: float, atol: float) -> tuple[float, float]:
    """Returns the two tolerances, or raises ValueError if one is out of range."""
    # Below 1e-13, the rounding errors of float64 are too large.
    in_range("rtol", rtol, at_least=1e-13, fix=": try rtol=1e-5")
    return rtol, in_range("atol", atol, above=0, fix=": try atol=1e-5")
