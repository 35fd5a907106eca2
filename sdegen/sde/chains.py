r"""The discrete chains SMLD and DDPM (appendices A and B of the paper) as linear SDEs.

At :math:`t = i/N`, the kernel of the SDE equals the kernel of the chain at level i. Between two levels, one function of
the kernel is linear in t: the variance for SMLD, :math:`B = -\log \alpha_t^2` for DDPM. On each step, g² and f(x, t)/x
are therefore constant. Sampling ends at the first level, :math:`\varepsilon = 1/N`. On the uniform grid of N − 1 steps,
the ancestral sampler is the reversed chain, and its option ``denoise`` adds the last step of the chain, without noise.
The samplers for continuous time work as well. For the loss of the chain, use ``weighting=variance`` and
``times=levels``, with ``times.points`` equal to the number of levels.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.sde.base import LinearSDE
from sdegen.sde.linear import Beta, Exploding, largest_noise


class Steps:
    """Increasing function on [0, 1]. It is 0 at 0, and linear on each of N equal steps.

    Args:
        values: values of the function at the times 1/N, 2/N, …, 1, ``(N,)`` float64.
    """

    def __init__(self, values: Tensor) -> None:
        self.n = len(values)
        self.values = torch.cat([values.new_zeros(1), values])

    def __call__(self, t: Tensor) -> Tensor:
        """Returns the function at ``t``, shaped like ``t``."""
        step = self._step(t)
        values = self.values.to(t)
        return torch.lerp(values[step], values[step + 1], t * self.n - step)

    def slope(self, t: Tensor) -> Tensor:
        """Returns the derivative at ``t``. Where two steps meet, it is the derivative on the earlier step."""
        step = self._step(t)
        return (self.n * self.values.diff()).to(t)[step]

    def inverse(self, value: Tensor) -> Tensor:
        """Returns the time t at which the function is ``value``."""
        values = self.values.to(value)
        step = (torch.searchsorted(values, value.contiguous()) - 1).clamp(0, self.n - 1)
        return (step + (value - values[step]) / (values[step + 1] - values[step])) / self.n

    def _step(self, t: Tensor) -> Tensor:
        # The time i/N belongs to the earlier step, also if rounding makes i/N times N larger than i.
        return ((t * self.n - 1e-3).ceil().long() - 1).clamp(0, self.n - 1)


class SMLD(Exploding):
    r"""Noise scales of score matching with Langevin dynamics (appendix A of the paper).

    .. math:: \alpha_t = 1, \qquad \sigma_{i/N} = \sigma_{\min} (\sigma_{\max}/\sigma_{\min})^{\frac{i-1}{N-1}},
              \quad i = 1, \dots, N

    with :math:`\sigma_0 = 0`. The step to the first level adds the whole variance :math:`\sigma_{\min}^2`. For large N,
    the process is therefore :class:`~sdegen.sde.linear.VE` for data with noise of standard deviation
    :math:`\sigma_{\min}`.

    Reference: Song & Ermon (2019), https://arxiv.org/abs/1907.05600

    Args:
        sigma_min: smallest noise scale :math:`\sigma_1`, in units of the standardised data.
        sigma_max: largest noise scale :math:`\sigma_N`, above ``sigma_min``. With ``auto`` in a configuration, it is
            the largest distance between two data points.
        levels: number of levels N, at least 2.
    """

    smooth = False

    def __init__(self, sigma_min: float = 0.01, sigma_max: float | Literal["auto"] = 50.0, levels: int = 1000) -> None:
        super().__init__(1 / in_range("levels", levels, at_least=2))
        self.levels, self._sigma_max = levels, largest_noise(sigma_min, sigma_max)
        share = torch.linspace(0, 1, levels, dtype=torch.float64)
        self._variance = Steps((sigma_min * (self._sigma_max / sigma_min) ** share) ** 2)

    def diffusion(self, t: Tensor) -> Tensor:
        return self._variance.slope(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return self._variance(t).sqrt()

    def time(self, u: Tensor) -> Tensor:
        return self._variance.inverse(u.exp())

    @property
    def prior_std(self) -> float:
        return self._sigma_max


class DDPM(LinearSDE):
    r"""Chain of denoising diffusion probabilistic models (appendix B of the paper). The limit for large N is VP.

    .. math:: x_i = \sqrt{1 - \beta_i}\, x_{i-1} + \sqrt{\beta_i}\, z_{i-1}, \qquad
              \beta_i = \tfrac1N \left[\beta_{\min} + \tfrac iN (\beta_{\max} - \beta_{\min})\right], \qquad
              \alpha_{i/N}^2 = \prod_{j \le i} (1 - \beta_j) = 1 - \sigma_{i/N}^2

    Reference: Ho, Jain & Abbeel (2020), https://arxiv.org/abs/2006.11239; Song et al. (2021), appendix B.

    Args:
        beta_min: smallest rate :math:`\beta_{\min}`, above 0.
        beta_max: largest rate :math:`\beta_{\max}`, at least ``beta_min``.
        levels: number of levels N, at least 2 and above ``beta_max``.
    """

    smooth = False
    prior_std = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, levels: int = 1000) -> None:
        super().__init__(1 / in_range("levels", levels, at_least=2))
        beta = Beta(beta_min, beta_max)
        if levels <= beta_max:
            raise ValueError(
                f"levels={levels} must be above beta_max={beta_max:g}, so that beta_N is below 1: try levels=1000"
            )
        self.levels = levels
        share = torch.arange(1, levels + 1, dtype=torch.float64) / levels
        self._integral = Steps(-torch.log1p(-beta(share) / levels).cumsum(0))

    def rate(self, t: Tensor) -> Tensor:
        return -0.5 * self._integral.slope(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self._integral.slope(t).sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self._integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def time(self, u: Tensor) -> Tensor:
        return self._integral.inverse(torch.nn.functional.softplus(u, threshold=30.0))
