r"""A solver of the reverse SDE that chooses a step size for each sample and each step."""

from __future__ import annotations

import torch
from torch import Tensor

from sdegen.errors import UserError
from sdegen.rng import RandnLike
from sdegen.samplers.base import Sampler, Walk
from sdegen.sde.base import SDE, Score
from sdegen.tensor import expand


class Brownian:
    """Increments of one Brownian motion for each row, over intervals that may be asked for again in parts.

    A rejected increment must not be forgotten: drawing another in its place would make large moves rarer than they
    are. It goes back on the row's stack, and the smaller interval that is tried next takes its part of it by a
    Brownian bridge. Reference: Rackauckas & Nie (2017), RSwM1, https://doi.org/10.3934/dcdsb.2017133

    Args:
        x: tells shape, type and device of an increment, ``(B, *)``.
    """

    def __init__(self, x: Tensor) -> None:
        self.spans = torch.zeros(len(x), 2, dtype=torch.float64, device=x.device)
        self.parts = x.new_zeros(len(x), 2, *x.shape[1:])
        self.top = torch.zeros(len(x), dtype=torch.long, device=x.device)

    def push(self, rows: Tensor, span: Tensor, part: Tensor) -> None:
        """Put intervals of length ``span`` and their increments on top of the stacks of ``rows``."""
        top = self.top[rows]
        if len(rows) and int(top.max()) == self.spans.shape[1]:
            self.spans = torch.cat([self.spans, torch.zeros_like(self.spans)], 1)
            self.parts = torch.cat([self.parts, torch.zeros_like(self.parts)], 1)
        self.spans[rows, top], self.parts[rows, top] = span, part
        self.top[rows] += 1

    def take(self, rows: Tensor, span: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The increments over the next intervals: no longer than ``span`` ``(b,)``, shorter where one is left over.

        Args:
            rows: indices, ``(b,)``.
            span: the lengths asked for.
            z: standard normal draws, ``(b, *)``.

        Returns:
            The lengths and the increments.
        """
        left = self.top[rows] > 0
        below = (self.top[rows] - 1).clamp(min=0)
        old, whole = self.spans[rows, below], self.parts[rows, below]
        self.top[rows] -= left.long()
        # What would be left over by rounding alone is taken as well.
        split = left & (old > span * (1 + 1e-9))
        got = torch.where(left & ~split, old, span)
        share = torch.where(split, span / old.clamp(min=1e-300), 0.0)
        bridge = expand(share, z) * whole + expand((span * (1 - share)).clamp(min=0).sqrt(), z) * z
        fresh = expand(span.sqrt(), z) * z
        part = torch.where(expand(split, z).bool(), bridge, torch.where(expand(left, z).bool(), whole, fresh))
        self.push(rows[split], (old - span)[split], (whole - part)[split])
        return got, part


class AdaptiveSDE(Sampler):
    r"""The reverse SDE with steps whose local error is kept below a tolerance, for each sample by itself.

    A step is stochastic Heun's; its distance from the Euler–Maruyama step with the same noise tells the error, in
    units of :math:`\mathrm{atol} + \mathrm{rtol} \max(|x|, |x_{\mathrm{new}}|)`. A rejected step is tried again at a
    smaller size along the same Brownian path. Between steps the path that is kept is a straight line.

    Reference: Jolicoeur-Martineau et al. (2021), Gotta go fast when generating data with score-based models,
    https://arxiv.org/abs/2105.14080, whose rejected noise is thrown away; see :class:`Brownian` for what that does.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance, in the network's units.
        max_steps: attempted steps after which the sampler gives up.
        denoise: see :class:`Sampler`.
    """

    FIRST, SAFETY, SHRINK, GROW, POWER, SMALLEST = 1e-3, 0.9, 0.1, 5.0, 0.9, 1e-12

    def __init__(self, rtol: float = 0.02, atol: float = 0.01, max_steps: int = 10000, denoise: bool = False) -> None:
        super().__init__(denoise)
        for name, value in (("rtol", rtol), ("atol", atol)):
            if value <= 0:
                raise ValueError(f"{name}={value:g} must be above 0: try {name}=0.01")
        if max_steps < 1:
            raise ValueError(f"max_steps={max_steps} must be at least 1")
        self.rtol, self.atol, self.max_steps = rtol, atol, max_steps

    def _integrate(self, sde: SDE, score: Score, x: Tensor, noise: RandnLike, frames: int) -> Walk:
        drift = sde.reverse(score).drift
        times = torch.linspace(sde.T, sde.eps, frames, dtype=torch.float64)
        path = x.expand(frames, *x.shape).clone()
        clock = times.to(x.device)
        end, brownian = x.clone(), Brownian(x)
        row = torch.arange(len(x), device=x.device)
        t = torch.full((len(x),), sde.T, dtype=torch.float64, device=x.device)
        wished = torch.full_like(t, self.FIRST * (sde.T - sde.eps))
        slope = drift(x, t)
        for _ in range(self.max_steps):
            h, dw = brownian.take(row, torch.minimum(wished, t - sde.eps), noise(end)[row])
            s = torch.where(t - h <= sde.eps * (1 + 1e-9), sde.eps, t - h)
            x_new, error = self._step(sde, drift, x, slope, t, s, h, dw)
            accept = error <= 1
            brownian.push(row[~accept], h[~accept], dw[~accept])
            frame, which = torch.nonzero(accept & (clock[:, None] >= s) & (clock[:, None] < t), as_tuple=True)
            share = expand((t[which] - clock[frame]) / h[which], x)
            path[frame, row[which]] = torch.lerp(x[which], x_new[which], share)
            done = accept & (s == sde.eps)
            end[row[done]] = x_new[done]
            wished = self._wished(wished, h, error)
            keep = ~done
            moved = accept[keep]
            x = torch.where(expand(moved, x).bool(), x_new[keep], x[keep])
            t, row, wished, slope = torch.where(moved, s[keep], t[keep]), row[keep], wished[keep], slope[keep]
            if not len(row):
                return Walk(end, path, times)
            if bool((stuck := wished < self.SMALLEST).any()):
                t = t[stuck]
                break
            renewed = moved.nonzero().flatten()
            if len(renewed):
                slope[renewed] = drift(x[renewed], t[renewed])
        raise UserError(
            f"adaptive_sde cannot reach rtol={self.rtol:g}, atol={self.atol:g}: {len(t)} samples are stuck, the "
            f"first at t={float(t[0]):.3g}. Try a looser rtol and atol, or more max_steps"
        )

    def _wished(self, wished: Tensor, h: Tensor, error: Tensor) -> Tensor:
        """The step sizes to try next, ``(b,)``, after steps of the sizes ``h`` with these errors.

        They are powers of the fourth root of 2, so that errors which differ in their last bits, as those of one sample
        do in batches of different sizes, give the same step.
        """
        factor = (self.SAFETY * error.clamp(min=1e-10) ** -self.POWER).clamp(self.SHRINK, self.GROW)
        accept = error <= 1
        # A step cut short by what was left over says nothing against a longer one.
        cut = accept & (h < wished * (1 - 1e-6))
        size = torch.where(cut, torch.maximum(h * factor, torch.minimum(wished, h * self.GROW)), h * factor)
        size = torch.where(accept, size, torch.minimum(size, 0.5 * h))
        size = torch.where(error.isfinite(), size, h * self.SHRINK)
        # The offset keeps a size that is such a power already from falling to the one below.
        return torch.exp2(torch.floor(4 * size.log2() + 1e-6) / 4)

    def _step(
        self, sde: SDE, drift: Score, x: Tensor, slope: Tensor, t: Tensor, s: Tensor, h: Tensor, dw: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state after stochastic Heun's step, and its error in units of the tolerance, ``(b,)``."""
        g_t, g_s = sde.diffusion(t), sde.diffusion(s)
        step = expand(h, x)
        euler = x - step * slope + expand(g_t, x) * dw
        improved = x - 0.5 * step * (slope + drift(euler, s)) + expand((0.5 * (g_t**2 + g_s**2)).sqrt(), x) * dw
        scale = self.atol + self.rtol * torch.maximum(x.abs(), improved.abs())
        error = (0.5 * (improved - euler) / scale).flatten(1).double().square().mean(1).sqrt()
        return improved, error
