"""Samplers with adaptive step sizes for the reverse SDE and for the probability-flow ODE."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.flow.solvers import DormandPrince, RowField, SciPyRK45, integrate_flow
from sdegen.flow.stepping import Attempt, Control, Rows, Scheme, Solution, integrate
from sdegen.samplers.base import Sampler, Walk
from sdegen.sde.base import SDE
from sdegen.sde.scores import Counted


class ProbabilityFlow(Sampler):
    r"""Sampler for the probability-flow ODE :math:`\dot x = f(x, t) - \tfrac12 g(t)^2 \nabla \log p_t(x)`.

    Only the draw of the prior is random. Reference: Song et al. (2021), eq. 13.

    Args:
        denoise: see :class:`Sampler`.
    """

    def _integrate(self, sde: SDE, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        times = torch.linspace(sde.T, sde.eps, frames, dtype=torch.float64)
        solution = self._solution(sde, drift_of(sde, score, eta=0), x, times)
        return Walk(solution.x, solution.path, times)

    @abstractmethod
    def _solution(self, sde: SDE, field: RowField, x: Tensor, times: Tensor) -> Solution:
        """Returns the solution of dx/dt = ``field(x, t, row)`` from ``x`` at T to eps, and its path at ``times``."""


class RK45(ProbabilityFlow):
    """Sampler for the probability-flow ODE with SciPy's RK45 (``solve_ivp``), as in the paper.

    The error is controlled for the whole batch, so that the samples of a batch depend on each other. ``dopri5`` is as
    accurate and controls the error of each sample.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        denoise: see :class:`Sampler`.
    """

    couples = True

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.solver = SciPyRK45(rtol, atol)

    def _solution(self, sde: SDE, field: RowField, x: Tensor, times: Tensor) -> Solution:
        # Integrate in t, as in the paper.
        return self.solver.integrate(field, x, sde.T, sde.eps, times)


class Dopri5(ProbabilityFlow):
    """Sampler for the probability-flow ODE with the Dormand–Prince 5(4) scheme and a step size for each sample.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of attempted steps after which the solver raises an error.
        denoise: see :class:`Sampler`.
    """

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, max_steps: int = 10000, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.solver = DormandPrince(rtol, atol, max_steps)

    def _solution(self, sde: SDE, field: RowField, x: Tensor, times: Tensor) -> Solution:
        return integrate_flow(self.solver, sde, field, x, sde.T, sde.eps, times)


class AdaptiveSDE(Sampler):
    r"""Sampler for the reverse SDE with adaptive steps. The local error of each sample is below a tolerance.

    Each step is a stochastic Heun step. The error of the step is the difference from the Euler–Maruyama step with the
    same noise, divided by :math:`\mathrm{atol} + \mathrm{rtol} \max(|x|, |x_{\mathrm{new}}|)`. A rejected step is
    repeated with a smaller size along the same Brownian path. Between steps the path is a straight line.

    Reference: Jolicoeur-Martineau et al. (2021), Gotta go fast when generating data with score-based models,
    https://arxiv.org/abs/2105.14080. There the noise of rejected steps is
    discarded, and the samples are biased: see :class:`Brownian`.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance, in the network's units.
        max_steps: number of attempted steps after which the sampler raises an error.
        denoise: see :class:`Sampler`.
    """

    def __init__(self, rtol: float = 0.04, atol: float = 0.02, max_steps: int = 10000, denoise: bool = False) -> None:
        super().__init__(denoise)
        self.rtol = in_range("rtol", rtol, above=0, fix=": try rtol=0.01")
        self.atol = in_range("atol", atol, above=0, fix=": try atol=0.01")
        self.max_steps = in_range("max_steps", max_steps, at_least=1)

    def control(self, sde: SDE) -> Control:
        """Returns the tolerances and the rule for the step sizes."""
        first = 1e-3 * (sde.T - sde.eps)
        tolerances = self.rtol, self.atol, self.max_steps
        return Control("adaptive_sde", *tolerances, first, power=0.9, shrink=0.1, retry=0.5, rungs=4)

    def _integrate(self, sde: SDE, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        times, control = torch.linspace(sde.T, sde.eps, frames, dtype=torch.float64), self.control(sde)
        scheme = StochasticHeunSteps(sde, drift_of(sde, score, eta=1), control, x, noise)
        solution = integrate(scheme, control, x, sde.T, sde.eps, times)
        return Walk(solution.x, solution.path, times)


class StochasticHeunSteps(Scheme):
    """Stochastic Heun steps of the reverse SDE. Each row of a batch has a Brownian path of its own.

    ``drift`` is the drift of the reverse process, a function of the state, the time and the index of the row. ``x`` is
    a tensor with the shape, type and device of the whole batch.
    """

    def __init__(self, sde: SDE, drift: RowField, control: Control, x: Tensor, noise: RandnLike) -> None:
        self.sde, self.drift, self.control, self.like, self.noise = sde, drift, control, x, noise
        self.brownian = Brownian(x)

    def slope(self, row: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.drift(x, t, row)

    def attempt(self, rows: Rows) -> Attempt:
        fresh = rows.moved.nonzero().flatten()
        if len(fresh):
            rows.slope[fresh] = self.drift(rows.x[fresh], rows.t[fresh], rows.row[fresh])
        h, dw = self.brownian.take(rows.row, rows.size, self.noise(self.like)[rows.row])
        stop = rows.after(h)
        x_new, error = self.step(rows.x, rows.slope, rows.t, stop, h, dw, rows.row)
        attempt = Attempt(h, stop, x_new, rows.slope, error)
        rejected = ~attempt.accept
        self.brownian.push(rows.row[rejected], h[rejected], dw[rejected])
        return attempt

    def step(
        self, x: Tensor, slope: Tensor, t: Tensor, s: Tensor, h: Tensor, dw: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the states ``(b, *)`` after steps from ``t`` to ``s``, and errors divided by the tolerance, ``(b,)``.

        ``h`` holds the lengths of the steps, ``(b,)``, and ``dw`` the Brownian increments, ``(b, *)``. ``row`` holds
        the indices of the rows, ``(b,)``.
        """
        g_t, g_s = self.sde.diffusion(t), self.sde.diffusion(s)
        step = expand(h, x)
        euler = x - step * slope + expand(g_t, x) * dw
        improved = (
            x - 0.5 * step * (slope + self.drift(euler, s, row)) + expand((0.5 * (g_t**2 + g_s**2)).sqrt(), x) * dw
        )
        return improved, self.control.error(improved - euler, x, improved)

    def between(self, rows: Rows, attempt: Attempt, which: Tensor, share: Tensor) -> Tensor:
        """Returns states on the straight line between both ends of a step."""
        return torch.lerp(rows.x[which], attempt.x[which], expand(share, rows.x))


def drift_of(sde: SDE, score: Counted, eta: float) -> RowField:
    """Returns the drift of the reverse process as a function of the state, the time and the index of the row."""
    return lambda x, t, row: sde.reverse(score.of(row), eta).drift(x, t)


class Brownian:
    """Brownian motion of each row of a batch, with increments that can be divided after a rejected step.

    The increment of a rejected step is kept, because a new draw would make large moves too rare. The increment is
    pushed on the stack of the row. If the next interval is shorter, a Brownian bridge divides the increment. The
    increments of the whole batch have the shape, type and device of ``x``, ``(B, *)``.

    Reference: Rackauckas & Nie (2017), RSwM1, https://doi.org/10.3934/dcdsb.2017133
    """

    def __init__(self, x: Tensor) -> None:
        self.spans = torch.zeros(len(x), 2, dtype=torch.float64, device=x.device)
        self.parts = x.new_zeros(len(x), 2, *x.shape[1:])
        self.top = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def push(self, rows: Tensor, span: Tensor, part: Tensor) -> None:
        """Pushes intervals of length ``span`` with the increments ``part`` on the stacks of ``rows``."""
        top = self.top[rows]
        if len(rows) and int(top.max()) == self.spans.shape[1]:
            self.spans = torch.cat([self.spans, torch.zeros_like(self.spans)], 1)
            self.parts = torch.cat([self.parts, torch.zeros_like(self.parts)], 1)
        self.spans[rows, top], self.parts[rows, top] = span, part
        self.top[rows] += 1

    def take(self, rows: Tensor, span: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the lengths of the next intervals of ``rows``, ``(b,)``, and the increments over them, ``(b, *)``.

        A length is ``span``, but at most the length of the interval on top of the row's stack. ``z`` holds standard
        normal numbers.
        """
        left = self.top[rows] > 0
        below = (self.top[rows] - 1).clamp(min=0)
        old, whole = self.spans[rows, below], self.parts[rows, below]
        self.top[rows] -= left.long()
        # Do not divide an interval if the remainder would be only a rounding error.
        split = left & (old > span * (1 + 1e-9))
        got = torch.where(left & ~split, old, span)
        share = torch.where(split, span / old.clamp(min=1e-300), 0.0)
        bridge = expand(share, z) * whole + expand((span * (1 - share)).clamp(min=0).sqrt(), z) * z
        fresh = expand(span.sqrt(), z) * z
        part = torch.where(expand(split, z).bool(), bridge, torch.where(expand(left, z).bool(), whole, fresh))
        self.push(rows[split], (old - span)[split], (whole - part)[split])
        return got, part
