r"""Likelihoods, latents and interpolation along the probability-flow ODE.

The flow :math:`\dot x = \tilde f(x, t) = f(x, t) - \tfrac12 g(t)^2 \nabla \log p_t(x)` maps each point at
:math:`\varepsilon` to its latent at :math:`T`. Along the flow the density changes by the divergence alone:

.. math:: \log p_\varepsilon(x) = \log p_T(x_T) + \int_\varepsilon^T \nabla \cdot \tilde f(x_t, t) \, dt.

The formula needs only f, g, the score and the prior. Therefore every SDE has a likelihood.

A given point is taken as :math:`x(\varepsilon)`, because a score may be infinite at 0. The result is the density of the
data with the noise at :math:`\varepsilon`, which has the standard deviation 0.001 under VP with
:math:`\varepsilon = 10^{-5}`. Data on a curve or a lattice have no density: the result then only shows how small the
noise is.

References: Chen et al. (2018), https://arxiv.org/abs/1806.07366; Grathwohl et al. (2019),
https://arxiv.org/abs/1810.01367; Song et al. (2021), section 4.3 and appendix D.2, https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

import contextlib
import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core import processes
from sdegen.core.errors import UserError
from sdegen.core.progress import Evaluations
from sdegen.core.randomness import SampleNoise, derive
from sdegen.datasets import Units
from sdegen.flow.divergence import Divergence
from sdegen.flow.solvers import ODESolver, RowField
from sdegen.sde.base import SDE, Score
from sdegen.sde.scores import Counted, of_rows


class Likelihood(NamedTuple):
    """Log-densities of points, with standard errors and latents.

    Attributes:
        log_p: log-density of each point in the user's units, in nats, ``(B,)`` float64.
        standard_error: standard error of each ``log_p``, from the differences between probes, ``(B,)`` float64; None
            for an exact divergence or a single probe.
        latent: latents of the points, at T and in the network's units, ``(B, *)`` float64.
        nfe: number of evaluations of the score per point, counted at each call of the score. Each evaluation has a
            backward pass for every probe, or for every dimension if the divergence is exact.
    """

    log_p: Tensor
    standard_error: Tensor | None
    latent: Tensor
    nfe: float


class Flow:
    """Probability-flow ODE as a map between data, in the user's units, and latents, in the network's units.

    Args:
        sde: forward process.
        score: function ``(x, t) -> ∇ log p_t(x)`` in the network's units, differentiable in x for likelihoods. It may
            be a :class:`sdegen.sde.RowScore` with a score for each point.
        units: map between the user's units and the network's units.
        solver: solver of the ODE.
        batch_size: number of points that are computed at once; a smaller number needs less memory.
        device: device of the computation.
        dtype: number type of the computation.
    """

    def __init__(
        self,
        sde: SDE,
        score: Score,
        units: Units,
        solver: ODESolver,
        *,
        batch_size: int = 1000,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sde, self.score, self.units, self.solver = sde, score, units, solver
        self.batch_size, self.device, self.dtype = batch_size, device, dtype

    def encode(self, x: Tensor) -> Tensor:
        """Returns the latents at T, ``(B, *)`` float64, of the points ``x`` ``(B, *)`` in the user's units."""
        return self._carry(self.units.encode(self._checked(x)), self.sde.eps, self.sde.T)

    def decode(self, latent: Tensor) -> Tensor:
        """Returns the points ``(B, *)`` float64 in the user's units that have the latents ``latent`` ``(B, *)``."""
        return self.units.decode(self._carry(self._checked(latent), self.sde.T, self.sde.eps))

    def interpolate(self, a: Tensor, b: Tensor, n: int) -> Tensor:
        """Returns the points ``(n, *)`` float64 whose latents lie on the :func:`arc` between the latents of two points.

        Args:
            a: first point, in the user's units.
            b: last point, in the user's units.
            n: number of points, both ends included; at least 2.
        """
        latents = self.encode(torch.stack([a, b]))
        return self.decode(arc(latents[0], latents[1], n))

    def log_prob(self, x: Tensor, divergence: Divergence, seed: int = 0) -> Likelihood:
        r"""Returns the log-density at points, :math:`\log p(x) = \log p_\varepsilon(e(x)) + \sum_i \log e_i'(x_i)`.

        Here e is the map from the user's units to the network's units. The result is -inf at points without density:
        see :class:`sdegen.datasets.Quantile`. If the solver gives each point its own steps, the result at point i
        depends only on the point, on ``seed`` and on i.

        Args:
            x: points ``(B, *)``, in the user's units.
            divergence: exact divergence, or estimates with probes.
            seed: seed of the probes.
        """
        inner = self.units.encode(self._checked(x))
        # The processes of the command share the batches.
        spans = [range(len(x))[i : i + self.batch_size] for i in range(0, len(x), self.batch_size)]
        report = Evaluations("likelihood", sum(map(len, processes.present().own(spans))))
        counted = Counted(self.score, report.to)

        def here(span: range) -> Likelihood:
            part = self._log_prob(counted, inner, span, divergence, seed)
            report.finish(len(span), counted.rows)
            return part

        with contextlib.closing(report):
            parts = processes.present().each(_log_prob, (self, inner, divergence, seed), spans, here)
        latent = torch.cat([part.latent for part in parts])
        log_p = torch.cat([part.log_p for part in parts])
        if broken := int((~log_p.isfinite()).sum()):
            raise UserError(f"the density is not finite at {broken} of {len(x)} points: try precision=float64")
        errors = [part.standard_error for part in parts if part.standard_error is not None]
        nfe = sum(part.nfe * len(part.latent) for part in parts) / len(x)
        log_p = log_p + self.units.log_det(x).to(log_p.device)
        return Likelihood(log_p, torch.cat(errors) if errors else None, latent, nfe)

    def _log_prob(self, counted: Counted, inner: Tensor, span: range, divergence: Divergence, seed: int) -> Likelihood:
        """Returns the log-density of one batch in the network's units. The ODE is solved once."""
        x = inner[span.start : span.stop].to(self.device, self.dtype)
        noise = SampleNoise(derive(seed, "probes"), span.start, span.stop, self.units.shape, self.device)
        counted = counted.of(torch.arange(span.start, span.stop))
        before, d, k = counted.rows, x[0].numel(), divergence.estimates
        field = self._augmented(counted, x, divergence, divergence.probes(x, noise))
        state = torch.cat([x.flatten(1), x.new_zeros(len(x), k)], dim=1)
        end = self.solver.integrate(field, state, self.sde.eps, self.sde.T, torch.zeros(0), (d, k)).x.double()
        latent, grown = end[:, :d].reshape(x.shape), d * end[:, d:]
        error = grown.std(1) / math.sqrt(k) if k > 1 else None
        return Likelihood(self.sde.log_prior(latent) + grown.mean(1), error, latent, (counted.rows - before) / len(x))

    def _augmented(self, score: Counted, like: Tensor, divergence: Divergence, probes: Tensor) -> RowField:
        """Returns the right-hand side for states ``(b, d + K)`` of x and K log-determinants divided by d.

        x and the log-determinants each meet the tolerance: in a common norm, the d entries of x would hide an error of
        the density. Because of the division by d, the tolerance is in nats per dimension, and the number of steps does
        not grow with d.
        """
        d = like[0].numel()

        def field(state: Tensor, t: Tensor, row: Tensor) -> Tensor:
            with torch.enable_grad():
                x = state[:, :d].detach().reshape(-1, *like.shape[1:]).requires_grad_()
                velocity = self.sde.reverse(score.of(row), eta=0).drift(x, t)
                rates = divergence(velocity, x, probes[row]) / d
            return torch.cat([velocity.detach().flatten(1), rates.detach()], dim=1)

        return field

    def _carry(self, x: Tensor, start: float, stop: float) -> Tensor:
        """Returns the states at ``stop``, ``(B, *)`` float64, of the flow from ``x`` ``(B, *)`` at ``start``."""
        with torch.no_grad():
            batches = zip(
                x.to(self.device, self.dtype).split(self.batch_size),
                torch.arange(len(x)).split(self.batch_size),
                strict=True,
            )
            return torch.cat(
                [
                    self.solver.integrate(self._drift(of_rows(self.score, rows)), b, start, stop, torch.zeros(0)).x
                    for b, rows in batches
                ]
            ).double()

    def _drift(self, score: Score) -> RowField:
        """Returns the drift of the flow as a function of the state, the time and the index of the row."""
        return lambda x, t, row: self.sde.reverse(of_rows(score, row), eta=0).drift(x, t)

    def _checked(self, x: Tensor) -> Tensor:
        """Returns ``x``, or raises UserError if ``x`` is not a batch of points. A single point would broadcast."""
        if not len(x) or tuple(x.shape[1:]) != self.units.shape:
            wanted = ", ".join(map(str, ("N", *self.units.shape)))
            raise UserError(
                f"points of shape {tuple(x.shape)} are not a batch ({wanted}) with N > 0: give points of this shape"
            )
        return x


def _log_prob(context: tuple[Flow, Tensor, Divergence, int], span: range) -> Likelihood:
    """Returns the log-density of one batch, in a process of the command that shows no progress."""
    flow, inner, divergence, seed = context
    return flow._log_prob(Counted(flow.score), inner, span, divergence, seed)


def arc(a: Tensor, b: Tensor, n: int) -> Tensor:
    r"""Returns ``n`` points on the arc from ``a`` to ``b`` about the origin, ``(n, *)``, both ends included.

    .. math:: \frac{\sin((1 - s)\, \omega)}{\sin \omega} a + \frac{\sin(s\, \omega)}{\sin \omega} b,
              \qquad \omega = \angle(a, b), \quad 0 \le s \le 1

    A Gaussian in d dimensions has nearly all its mass near the radius of :math:`\sqrt d` standard deviations. The arc
    stays at this radius. The middle of the straight line is at :math:`\sqrt{d/2}`, where the prior has almost no mass
    and the score is not trained. If the origin lies on the line through both ends, as in one dimension, the result is
    the straight line.

    Reference: Shoemake (1985), https://doi.org/10.1145/325334.325242

    Args:
        a: first end, ``(*)``.
        b: last end, ``(*)``.
        n: number of points, at least 2.
    """
    if n < 2:
        raise UserError(f"n={n} must be at least 2: both ends are included")
    s = torch.linspace(0, 1, n, device=a.device, dtype=a.dtype)
    omega = torch.acos(((a * b).sum() / (a.norm() * b.norm())).clamp(-1, 1))
    # If an end is the origin, omega is NaN and the comparison is false.
    if not float(omega.sin()) > 1e-6:
        weights = torch.stack([1 - s, s])
    else:
        weights = torch.stack([((1 - s) * omega).sin(), (s * omega).sin()]) / omega.sin()
    return torch.tensordot(weights.T, torch.stack([a, b]), dims=1)


def dequantized(x: Tensor, seed: int) -> Tensor:
    r"""Returns x + u for whole numbers x, with :math:`u \sim U(-\tfrac12, \tfrac12)` for each entry.

    If p is a density, :math:`P(x) = \int_{-1/2}^{1/2} p(x + u) du` is the probability of the values that round to x,
    and by Jensen's inequality :math:`E_u \log p(x + u) \le \log P(x)`. The cell is centred on x, where a model of the
    whole numbers has its mass. The noise of point i depends only on ``seed`` and i.

    Reference: Theis et al. (2016), https://arxiv.org/abs/1511.01844

    Args:
        x: whole numbers, ``(N, *)``.
        seed: seed of u.
    """
    normal = SampleNoise(derive(seed, "dequantisation"), 0, len(x), tuple(x.shape[1:]))(x.double().cpu())
    return x.double() + (torch.special.ndtr(normal) - 0.5).to(x.device)


def bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """Converts negative log-likelihoods from nats per point to bits per dimension.

    If neighbouring levels are 1 apart in the user's units, no offset for the number of levels is needed.
    """
    return nats / (dimensions * math.log(2))
