r"""Schemes for one step of the reverse process, of one or more evaluations and no memory.

For a linear SDE the forward process from s to t > s is :math:`x_t = a x_s + \sqrt q\, z` exactly, with
:math:`a = \alpha_t / \alpha_s` and :math:`q = \sigma_t^2 - a^2 \sigma_s^2`: for VP, :math:`a^2 = 1 - q` is DDPM's
:math:`1 - \beta`; for VE, :math:`a = 1` and q is the difference of two variances.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.samplers.base import Predictor, Row, State, numbers
from sdegen.sde.base import SDE, LinearSDE, ReverseSDE

ANY = "use sampler=euler_maruyama, stochastic_heun or dopri5"
"""What to use where an SDE has no closed-form kernel."""


class EulerMaruyama(Predictor[SDE]):
    r"""Euler–Maruyama for the reverse SDE.

    .. math:: x_s = x_t - h \left[f(x_t, t) - g(t)^2 s_\theta(x_t, t)\right] + \sqrt h\, g(t)\, z, \qquad h = t - s

    Reference: Kloeden & Platen (1992), section 9.1.
    """

    def plan(self, sde: SDE, times: Tensor) -> Sequence[Row]:
        h = -times.diff()
        return numbers(h, h.sqrt() * sde.diffusion(times[:-1]))

    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, row: Row, state: State, noise: RandnLike
    ) -> tuple[Tensor, State]:
        h, std = row
        return torch.add(x, reverse.drift(x, t), alpha=-h).add_(noise(x), alpha=std), None


class StochasticHeun(Predictor[SDE]):
    r"""Heun's scheme for the reverse SDE, a stochastic Runge–Kutta scheme of weak order 2.

    .. math::
        \hat x &= x_t - h\, a(x_t, t) + \sqrt h\, g(t)\, z \\
        x_s &= x_t - \tfrac h2 \left[a(x_t, t) + a(\hat x, s)\right] + \sqrt{\tfrac h2 (g(t)^2 + g(s)^2)}\, z,
        \qquad a = f - g^2 s_\theta

    Since g depends on t alone, one normal number a step and coordinate is enough. Reference: Kloeden & Platen (1992),
    section 14.1 and 15.1.
    """

    order = 2
    evaluations = 2

    def plan(self, sde: SDE, times: Tensor) -> Sequence[Row]:
        h, variance = -times.diff(), sde.diffusion(times) ** 2
        inner, outer = h * variance[:-1], 0.5 * h * (variance[:-1] + variance[1:])
        return [(s, *row) for s, row in zip(times[1:], numbers(h, inner.sqrt(), outer.sqrt()), strict=True)]

    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, row: Row, state: State, noise: RandnLike
    ) -> tuple[Tensor, State]:
        s, h, inner, outer = row
        z, slope = noise(x), reverse.drift(x, t)
        guess = torch.add(x, slope, alpha=-h).add_(z, alpha=inner)
        return torch.add(x, slope + reverse.drift(guess, s), alpha=-0.5 * h).add_(z, alpha=outer), None


class RK4(Predictor[SDE]):
    """The classical Runge–Kutta scheme of order 4 for the probability-flow ODE, in t.

    Reference: Hairer, Nørsett & Wanner (1993), section II.1.
    """

    eta = 0.0
    order = 4
    evaluations = 4

    def plan(self, sde: SDE, times: Tensor) -> Sequence[Row]:
        middle = 0.5 * (times[:-1] + times[1:])
        return list(zip(middle, times[1:], (-times.diff()).tolist(), strict=True))

    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, row: Row, state: State, noise: RandnLike
    ) -> tuple[Tensor, State]:
        middle, s, h = row
        k1 = reverse.drift(x, t)
        k2 = reverse.drift(torch.add(x, k1, alpha=-0.5 * h), middle)
        k3 = reverse.drift(torch.add(x, k2, alpha=-0.5 * h), middle)
        k4 = reverse.drift(torch.add(x, k3, alpha=-h), s)
        return torch.add(x, k1 + 2 * (k2 + k3) + k4, alpha=-h / 6), None


class Heun(Predictor[LinearSDE]):
    r"""Heun's scheme for the flow in :math:`\bar x = x/\alpha` and :math:`\bar\sigma = \sigma/\alpha`: EDM's sampler.

    .. math:: \frac{d \bar x}{d \bar\sigma} = -\alpha\, \bar\sigma\, s_\theta(x, t)

    With churn, noise is put back before each step: :math:`\bar\sigma` is raised by a factor
    :math:`1 + \min(\mathrm{churn}/N, \sqrt 2 - 1)`, never above its value at T.

    Reference: Karras et al. (2022), algorithms 1 and 2, https://arxiv.org/abs/2206.00364

    Args:
        churn: how much noise is put back in all the N steps; 0 for the flow itself.
        churn_min: the smallest :math:`\bar\sigma` at which it is.
        churn_max: the largest; None for no bound.
        churn_noise: standard deviation of the noise put back, over what the theory asks for.
    """

    eta = 0.0
    order = 2
    grid = "karras"
    evaluations = 2
    kernel = ANY

    def __init__(
        self, churn: float = 0.0, churn_min: float = 0.0, churn_max: float | None = None, churn_noise: float = 1.0
    ) -> None:
        if churn < 0:
            raise ValueError(f"churn={churn:g} must not be negative")
        highest = math.inf if churn_max is None else churn_max
        if not 0 <= churn_min <= highest:
            raise ValueError(f"churn_min={churn_min:g} must lie between 0 and churn_max={highest:g}")
        if churn_noise < 0:
            raise ValueError(f"churn_noise={churn_noise:g} must not be negative")
        self.churn, self.churn_min, self.churn_max, self.churn_noise = churn, churn_min, highest, churn_noise

    def plan(self, sde: LinearSDE, times: Tensor) -> Sequence[Row]:
        alpha = sde.alpha(times)
        ratio = sde.sigma(times) / alpha
        churned = (ratio >= self.churn_min) & (ratio <= self.churn_max)
        factor = 1 + churned * min(self.churn / (len(times) - 1), math.sqrt(2) - 1)
        raised = torch.minimum(ratio * factor, ratio[0])[:-1]
        start = torch.where(raised > ratio[:-1], sde.time(2 * raised.log()), times[:-1])
        raised_alpha = torch.where(raised > ratio[:-1], sde.alpha(start), alpha[:-1])
        put_back = self.churn_noise * (raised**2 - ratio[:-1] ** 2).sqrt()
        row = numbers(alpha[:-1], put_back, raised, raised_alpha, ratio[1:], alpha[1:])
        return list(zip(start, times[1:], row, strict=True))

    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, row: Row, state: State, noise: RandnLike
    ) -> tuple[Tensor, State]:
        start, s, (alpha_t, put_back, ratio, alpha, ratio_s, alpha_s) = row
        clean = x / alpha_t
        if put_back:
            clean = torch.add(clean, noise(x), alpha=put_back)
        slope = reverse.score(alpha * clean, start) * (-alpha * ratio)
        h = ratio_s - ratio
        guess = torch.add(clean, slope, alpha=h)
        slope = torch.add(slope, reverse.score(alpha_s * guess, s), alpha=-alpha_s * ratio_s)
        return torch.add(clean, slope, alpha=0.5 * h) * alpha_s, None


class OneEvaluation(Predictor[LinearSDE]):
    """A scheme whose step is :math:`x_s = A x_t + B s_θ(x_t, t) + C z` with numbers A, B and C."""

    kernel = ANY

    @abstractmethod
    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A, B and C of the steps from the times ``t`` to ``s``, ``(N,)`` each."""

    def plan(self, sde: LinearSDE, times: Tensor) -> Sequence[Row]:
        return numbers(*self.coefficients(sde, times[:-1], times[1:]))

    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, row: Row, state: State, noise: RandnLike
    ) -> tuple[Tensor, State]:
        keep, pull, std = row
        x_s = (keep * x).add_(reverse.score(x, t), alpha=pull)
        return x_s.add_(noise(x), alpha=std) if std else x_s, None


class ReverseDiffusion(OneEvaluation):
    r"""The reverse process discretised exactly as the forward chain is.

    .. math:: x_t = x_s + (a - 1) x_s + \sqrt q\, z \quad\longrightarrow\quad
              x_s = (2 - a) x_t + q\, s_\theta(x_t, t) + \sqrt q\, z

    Reference: Song et al. (2021), appendix E, https://arxiv.org/abs/2011.13456
    """

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, variance = sde.transition(s, t)
        return 2 - factor, variance, variance.sqrt()


class Ancestral(OneEvaluation):
    r"""Ancestral sampling of the chain that the grid makes of the process.

    .. math:: x_s = \frac{x_t + q\, s_\theta(x_t, t)}{a} + \sqrt v\, z,

    whose mean is exactly :math:`E[x_s \mid x_t]`. Where the process preserves unit variance, v = q is the variance
    that is right for data of unit variance: the DDPM chain, :math:`(x + \beta s)/\sqrt{1 - \beta} + \sqrt\beta z`.
    Elsewhere, :math:`v = q \sigma_s^2/\sigma_t^2` is that of :math:`x_s` given :math:`x_t` and :math:`x_0`: the SMLD
    chain, and sub-VP's.

    Reference: Ho et al. (2020), section 3.2, https://arxiv.org/abs/2006.11239; Song et al. (2021), appendix F.
    """

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, variance = sde.transition(s, t)
        posterior = variance * (sde.sigma(s) / sde.sigma(t)) ** 2
        whole = torch.linspace(sde.eps, sde.T, 33, dtype=torch.float64)
        preserving = torch.allclose(sde.alpha(whole) ** 2 + sde.sigma(whole) ** 2, torch.ones_like(whole))
        return 1 / factor, variance / factor, (variance if preserving else posterior).sqrt()


class DDIM(OneEvaluation):
    r"""Denoising diffusion implicit models: the step that is exact where the denoised data do not change along it.

    .. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - v}\, \hat z + \sqrt v\, z, \qquad
              v = \eta^2 q\, \sigma_s^2/\sigma_t^2, \quad
              \hat z = -\sigma_t s_\theta(x_t, t), \quad \hat x_0 = (x_t - \sigma_t \hat z) / \alpha_t

    Reference: Song, Meng & Ermon (2021), eq. 12, https://arxiv.org/abs/2010.02502

    Args:
        eta: 0 for the flow, 1 for ancestral sampling.
    """

    grid = "log_snr"

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta:g} must lie between 0 and 1")
        self.eta = eta

    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, variance = sde.transition(s, t)
        put_back = variance * (self.eta * sde.sigma(s) / sde.sigma(t)) ** 2
        noise = (sde.sigma(s) ** 2 - put_back).clamp(min=0).sqrt()
        return 1 / factor, sde.sigma(t) ** 2 / factor - sde.sigma(t) * noise, put_back.sqrt()
