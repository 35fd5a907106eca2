r"""One-step schemes for the reverse process, with one or more evaluations of the score in a step.

For a linear SDE the forward process from s to t > s is :math:`x_t = a x_s + \sqrt q\, z` exactly, with
:math:`a = \alpha_t / \alpha_s` and :math:`q = \sigma_t^2 - a^2 \sigma_s^2`. For VP, :math:`a^2 = 1 - q` is the
factor :math:`1 - \beta` of DDPM. For VE, :math:`a = 1`, and q is the difference of two variances.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.samplers.base import Memory, Predictor, Step
from sdegen.sde.base import SDE, LinearSDE, ReverseSDE


class EulerStep(NamedTuple):
    """A step from ``t`` of length ``h``, with noise of the standard deviation ``std``."""

    t: Tensor
    h: float
    std: float

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        return torch.add(x, reverse.drift(x, self.t), alpha=-self.h).add_(noise(x), alpha=self.std), ()


class EulerMaruyama(Predictor[SDE]):
    r"""Euler–Maruyama scheme for the reverse SDE.

    .. math:: x_s = x_t - h \left[f(x_t, t) - g(t)^2 s_\theta(x_t, t)\right] + \sqrt h\, g(t)\, z, \qquad h = t - s

    Reference: Kloeden & Platen (1992), section 9.1.
    """

    def plan(self, sde: SDE, times: Tensor) -> Sequence[Step]:
        h = -times.diff()
        # Use plain numbers: with tensors, each step would launch more GPU kernels.
        rows = torch.stack([h, h.sqrt() * sde.diffusion(times[:-1])], dim=1).tolist()
        return [EulerStep(t, *row) for t, row in zip(times[:-1], rows, strict=True)]


class StochasticHeunStep(NamedTuple):
    """A step of length ``h`` from ``t`` to ``s``.

    The noise has the standard deviation ``inner`` in the guess and ``outer`` in the result.
    """

    t: Tensor
    s: Tensor
    h: float
    inner: float
    outer: float

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        z, slope = noise(x), reverse.drift(x, self.t)
        guess = torch.add(x, slope, alpha=-self.h).add_(z, alpha=self.inner)
        slope = slope + reverse.drift(guess, self.s)
        return torch.add(x, slope, alpha=-0.5 * self.h).add_(z, alpha=self.outer), ()


class StochasticHeun(Predictor[SDE]):
    r"""Heun's scheme for the reverse SDE, a stochastic Runge–Kutta scheme of weak order 2.

    .. math::
        \hat x &= x_t - h\, a(x_t, t) + \sqrt h\, g(t)\, z \\
        x_s &= x_t - \tfrac h2 \left[a(x_t, t) + a(\hat x, s)\right] + \sqrt{\tfrac h2 (g(t)^2 + g(s)^2)}\, z,
        \qquad a = f - g^2 s_\theta

    One normal number for each step and coordinate is enough, because g depends only on t.

    Reference: Kloeden & Platen (1992), sections 14.1 and 15.1.
    """

    order = 2
    evaluations = 2

    def plan(self, sde: SDE, times: Tensor) -> Sequence[Step]:
        h, variance = -times.diff(), sde.diffusion(times) ** 2
        inner, outer = h * variance[:-1], 0.5 * h * (variance[:-1] + variance[1:])
        rows = torch.stack([h, inner.sqrt(), outer.sqrt()], dim=1).tolist()
        return [StochasticHeunStep(t, s, *row) for t, s, row in zip(times[:-1], times[1:], rows, strict=True)]


class RungeKuttaStep(NamedTuple):
    """A step of length ``h`` from ``t`` to ``s``; ``middle`` is the time in the middle of the step."""

    t: Tensor
    middle: Tensor
    s: Tensor
    h: float

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        k1 = reverse.drift(x, self.t)
        k2 = reverse.drift(torch.add(x, k1, alpha=-0.5 * self.h), self.middle)
        k3 = reverse.drift(torch.add(x, k2, alpha=-0.5 * self.h), self.middle)
        k4 = reverse.drift(torch.add(x, k3, alpha=-self.h), self.s)
        return torch.add(x, k1 + 2 * (k2 + k3) + k4, alpha=-self.h / 6), ()


class RK4(Predictor[SDE]):
    """Classical Runge–Kutta scheme of order 4 for the probability-flow ODE, with steps in t.

    Reference: Hairer, Nørsett & Wanner (1993), section II.1.
    """

    eta = 0.0
    order = 4
    evaluations = 4

    def plan(self, sde: SDE, times: Tensor) -> Sequence[Step]:
        starts, stops = times[:-1], times[1:]
        rows = zip(starts, 0.5 * (starts + stops), stops, (-times.diff()).tolist(), strict=True)
        return [RungeKuttaStep(*row) for row in rows]


class AffineStep(NamedTuple):
    """The step :math:`x_s = A x_t + B s_θ(x_t, t) + C z`, where A is ``keep``, B is ``pull`` and C is ``std``."""

    t: Tensor
    keep: float
    pull: float
    std: float

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        x_s = (self.keep * x).add_(reverse.score(x, self.t), alpha=self.pull)
        return x_s.add_(noise(x), alpha=self.std) if self.std else x_s, ()


class OneEvaluation(Predictor[LinearSDE]):
    """Scheme in which each step has the form :class:`AffineStep` and evaluates the score once."""

    process = LinearSDE

    @abstractmethod
    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns A, B and C, ``(N,)`` each, for the steps from the times ``t`` to the times ``s``."""

    def plan(self, sde: LinearSDE, times: Tensor) -> Sequence[Step]:
        rows = torch.stack(self.coefficients(sde, times[:-1], times[1:]), dim=1).tolist()
        return [AffineStep(t, *row) for t, row in zip(times[:-1], rows, strict=True)]


class ReverseDiffusion(OneEvaluation):
    r"""Reverse diffusion, which discretises the reverse process in the same way as the forward chain.

    .. math:: x_t = x_s + (a - 1) x_s + \sqrt q\, z \quad\longrightarrow\quad
              x_s = (2 - a) x_t + q\, s_\theta(x_t, t) + \sqrt q\, z

    Reference: Song et al. (2021), appendix E, https://arxiv.org/abs/2011.13456
    """

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, variance = sde.transition(s, t)
        return 2 - factor, variance, variance.sqrt()


class Ancestral(OneEvaluation):
    r"""Ancestral sampling of the Markov chain that the process forms at the times of the grid.

    .. math:: x_s = \frac{x_t + q\, s_\theta(x_t, t)}{a} + \sqrt v\, z

    The mean is exactly :math:`E[x_s \mid x_t]`. If the process preserves unit variance, v is q, which is exact for
    Gaussian data of unit variance. For VP, the step is then the step of DDPM,
    :math:`(x + \beta s)/\sqrt{1 - \beta} + \sqrt\beta z`. Otherwise, as for VE (SMLD) and sub-VP,
    :math:`v = q \sigma_s^2/\sigma_t^2`, the variance of :math:`x_s` given :math:`x_t` and :math:`x_0`.

    Reference: Ho et al. (2020), section 3.2, https://arxiv.org/abs/2006.11239; Song et al. (2021), appendix F.
    """

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, variance = sde.transition(s, t)
        posterior = variance * (sde.sigma(s) / sde.sigma(t)) ** 2
        whole = torch.linspace(sde.eps, sde.T, 33, dtype=torch.float64)
        preserving = torch.allclose(sde.alpha(whole) ** 2 + sde.sigma(whole) ** 2, torch.ones_like(whole))
        return 1 / factor, variance / factor, (variance if preserving else posterior).sqrt()


class DDIM(OneEvaluation):
    r"""Denoising diffusion implicit models. A step is exact if the denoised data do not change along the step.

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - v}\, \hat z + \sqrt v\, z, \qquad
              v = \eta^2 q\, \sigma_s^2/\sigma_t^2, \quad
              \hat z = -\sigma_t s_\theta(x_t, t), \quad \hat x_0 = (x_t - \sigma_t \hat z) / \alpha_t

    Reference: Song, Meng & Ermon (2021), eq. 12, https://arxiv.org/abs/2010.02502

    Args:
        eta: amount of noise, from 0 (the flow) to 1 (ancestral sampling).
    """

    grid = "log_snr"

    def __init__(self, eta: float = 0.0) -> None:
        self.eta = in_range("eta", eta, at_least=0, at_most=1)

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, variance = sde.transition(s, t)
        v = variance * (self.eta * sde.sigma(s) / sde.sigma(t)) ** 2
        noise = (sde.sigma(s) ** 2 - v).clamp(min=0).sqrt()
        return 1 / factor, sde.sigma(t) ** 2 / factor - sde.sigma(t) * noise, v.sqrt()
