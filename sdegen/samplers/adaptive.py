"""A solver of the reverse SDE that chooses a step size for each sample and each step."""

from __future__ import annotations

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.flow.stepping import Attempt, Control, Rows, Scheme, integrate
from sdegen.samplers.base import Sampler, Walk
from sdegen.sde.base import SDE, Score


class Brownian:
    """Increments of one Brownian motion for each row, over intervals that may be tried again in parts.

    The increment of a rejected step is kept, since a new one would make large moves too rare. It returns to the stack
    of its row, and a Brownian bridge divides it when a smaller interval is tried next.

    Reference: Rackauckas & Nie (2017), RSwM1, https://doi.org/10.3934/dcdsb.2017133

    Args:
        x: a tensor with the shape, type and device of an increment, ``(B, *)``.
    """

    def __init__(self, x: Tensor) -> None:
        self.spans = torch.zeros(len(x), 2, dtype=torch.float64, device=x.device)
        self.parts = x.new_zeros(len(x), 2, *x.shape[1:])
        self.top = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def push(self, rows: Tensor, span: Tensor, part: Tensor) -> None:
        """Pushes intervals of length ``span`` and their increments on the stacks of ``rows``."""
        top = self.top[rows]
        if len(rows) and int(top.max()) == self.spans.shape[1]:
            self.spans = torch.cat([self.spans, torch.zeros_like(self.spans)], 1)
            self.parts = torch.cat([self.parts, torch.zeros_like(self.parts)], 1)
        self.spans[rows, top], self.parts[rows, top] = span, part
        self.top[rows] += 1

    def take(self, rows: Tensor, span: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the increments over the next intervals, of length ``span`` ``(b,)`` or shorter if the stack has such.

        Args:
            rows: indices, ``(b,)``.
            span: the wanted lengths.
            z: standard normal draws, ``(b, *)``.

        Returns:
            The lengths and the increments.
        """
        left = self.top[rows] > 0
        below = (self.top[rows] - 1).clamp(min=0)
        old, whole = self.spans[rows, below], self.parts[rows, below]
        self.top[rows] -= left.long()
        # A rest that is only rounding is taken along.
        split = left & (old > span * (1 + 1e-9))
        got = torch.where(left & ~split, old, span)
        share = torch.where(split, span / old.clamp(min=1e-300), 0.0)
        bridge = expand(share, z) * whole + expand((span * (1 - share)).clamp(min=0).sqrt(), z) * z
        fresh = expand(span.sqrt(), z) * z
        part = torch.where(expand(split, z).bool(), bridge, torch.where(expand(left, z).bool(), whole, fresh))
        self.push(rows[split], (old - span)[split], (whole - part)[split])
        return got, part


class AdaptiveSDE(Sampler):
    r"""The reverse SDE in steps whose local error is below a tolerance for each sample by itself.

    A step is stochastic Heun's; its error is its distance from the Euler–Maruyama step with the same noise, in units of
    :math:`\mathrm{atol} + \mathrm{rtol} \max(|x|, |x_{\mathrm{new}}|)`. A rejected step is tried again at a
    smaller size along the same Brownian path. The path between steps is a straight line.

    Reference: Jolicoeur-Martineau et al. (2021), Gotta go fast when generating data with score-based models,
    https://arxiv.org/abs/2105.14080. They discard rejected noise, which is biased: see :class:`Brownian`.

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
        """Returns the tolerances and the rule for step sizes along an SDE."""
        first = 1e-3 * (sde.T - sde.eps)
        tolerances = self.rtol, self.atol, self.max_steps
        return Control("adaptive_sde", *tolerances, first, power=0.9, shrink=0.1, retry=0.5, rungs=4)

    def _integrate(self, sde: SDE, score: Score, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        times, control = torch.linspace(sde.T, sde.eps, frames, dtype=torch.float64), self.control(sde)
        scheme = StochasticHeunSteps(sde, sde.reverse(score).drift, control, x, noise)
        solution = integrate(scheme, control, x, sde.T, sde.eps, times)
        return Walk(solution.x, solution.path, times)


class StochasticHeunSteps(Scheme):
    """Stochastic Heun's steps of the reverse SDE, each along the Brownian path of its row.

    Args:
        sde: the forward process.
        drift: the drift of the reverse process.
        control: measures the error.
        x: a tensor with the shape, type and device of the whole batch, ``(B, *)``.
        noise: draws standard normal numbers of that shape.
    """

    def __init__(self, sde: SDE, drift: Score, control: Control, x: Tensor, noise: RandnLike) -> None:
        self.sde, self.drift, self.control, self.like, self.noise = sde, drift, control, x, noise
        self.brownian = Brownian(x)

    def slope(self, row: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.drift(x, t)

    def attempt(self, rows: Rows) -> Attempt:
        fresh = rows.moved.nonzero().flatten()
        if len(fresh):
            rows.slope[fresh] = self.drift(rows.x[fresh], rows.t[fresh])
        h, dw = self.brownian.take(rows.row, rows.size, self.noise(self.like)[rows.row])
        stop = rows.after(h)
        x_new, error = self.step(rows.x, rows.slope, rows.t, stop, h, dw)
        attempt = Attempt(h, stop, x_new, rows.slope, error)
        rejected = ~attempt.accept
        self.brownian.push(rows.row[rejected], h[rejected], dw[rejected])
        return attempt

    def step(self, x: Tensor, slope: Tensor, t: Tensor, s: Tensor, h: Tensor, dw: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the state after a step from t to s, ``(b, *)``, and its error over the tolerance, ``(b,)``."""
        g_t, g_s = self.sde.diffusion(t), self.sde.diffusion(s)
        step = expand(h, x)
        euler = x - step * slope + expand(g_t, x) * dw
        improved = x - 0.5 * step * (slope + self.drift(euler, s)) + expand((0.5 * (g_t**2 + g_s**2)).sqrt(), x) * dw
        return improved, self.control.error(improved - euler, x, improved)

    def between(self, rows: Rows, attempt: Attempt, which: Tensor, share: Tensor) -> Tensor:
        """Returns the states on the straight line between both ends."""
        return torch.lerp(rows.x[which], attempt.x[which], expand(share, rows.x))
