"""The three SDEs of Song et al. (2021): VE, VP and sub-VP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.sde.base import LinearSDE


class Beta:
    r"""The rate :math:`\beta(t) = \beta_{\min} + (\beta_{\max} - \beta_{\min}) t`. An instance is a function of t."""

    def __init__(self, low: float, high: float) -> None:
        in_range("beta_min", low, above=0)
        if not low <= high < math.inf:
            raise ValueError(f"beta_max={high:g} must be at least beta_min={low:g}")
        self.low, self.slope = low, high - low

    def __call__(self, t: Tensor) -> Tensor:
        return self.low + self.slope * t

    def integral(self, t: Tensor) -> Tensor:
        r"""Returns :math:`B(t) = \int_0^t \beta(s) ds`, shaped like ``t``."""
        return (self.low + 0.5 * self.slope * t) * t

    def time(self, b: Tensor) -> Tensor:
        """Returns the time t at which B(t) is ``b``. This form of the quadratic's root avoids cancellation."""
        return 2 * b / (self.low + torch.sqrt(self.low**2 + 2 * self.slope * b))


class Exploding(LinearSDE):
    """Linear SDE without drift, which only adds noise to the data."""

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    @classmethod
    def measure(cls, x: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"sigma_max": largest_distance(x)}


class VE(Exploding):
    r"""Variance-exploding SDE, the continuous limit of SMLD.

    .. math:: dx = \sqrt{\tfrac{d \sigma^2(t)}{dt}} \, dw, \qquad \alpha_t = 1, \quad
              \sigma_t^2 = \sigma^2(t) - \sigma^2(0), \quad
              \sigma(t) = \sigma_{\min} (\sigma_{\max}/\sigma_{\min})^t

    References: Song et al. (2021), eq. 9 and 30; for the choice of :math:`\sigma_{\max}`, Song & Ermon (2020),
    https://arxiv.org/abs/2006.09011

    Args:
        sigma_min: noise scale :math:`\sigma(0)`, in units of the standardised data.
        sigma_max: noise scale :math:`\sigma(1)`, above ``sigma_min``. With ``auto`` in a configuration, it is the
            largest distance between two data points.
        eps: smallest time of training and sampling.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float | Literal["auto"] = 50.0, eps: float = 1e-5) -> None:
        super().__init__(eps)
        self.sigma_min = sigma_min
        self.log_ratio = math.log(largest_noise(sigma_min, sigma_max) / sigma_min)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma_min * math.sqrt(2 * self.log_ratio) * torch.exp(self.log_ratio * t)

    def sigma(self, t: Tensor) -> Tensor:
        # Use expm1: in float32, the difference of the two variances is only rounding error at small t.
        return self.sigma_min * torch.expm1(2 * self.log_ratio * t).sqrt()

    def time(self, u: Tensor) -> Tensor:
        return torch.log1p(torch.exp(u - 2 * math.log(self.sigma_min))) / (2 * self.log_ratio)


class Decaying(LinearSDE):
    r"""Linear SDE with the drift :math:`f(x, t) = -\tfrac12 \beta(t) x` and a standard normal prior."""

    prior_std = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, eps: float = 1e-5) -> None:
        super().__init__(eps)
        self.beta = Beta(beta_min, beta_max)

    def rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.beta.integral(t))


class VP(Decaying):
    r"""Variance-preserving SDE, the continuous limit of DDPM.

    .. math:: dx = -\tfrac12 \beta(t) x \, dt + \sqrt{\beta(t)} \, dw,
              \qquad \alpha_t = e^{-\frac12 B(t)}, \quad \sigma_t^2 = 1 - e^{-B(t)}

    Reference: Song et al. (2021), eq. 11 and 29, https://arxiv.org/abs/2011.13456

    Args:
        beta_min: rate :math:`\beta(0)`, above 0.
        beta_max: rate :math:`\beta(1)`, at least ``beta_min``.
        eps: smallest time of training and sampling.
    """

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        # Use expm1: in float32, 1 - exp(-B) is only rounding error at t = 1e-6, and the score is divided by sigma.
        return torch.sqrt(-torch.expm1(-self.beta.integral(t)))

    def time(self, u: Tensor) -> Tensor:
        return self.beta.time(torch.nn.functional.softplus(u, threshold=30.0))


class SubVP(Decaying):
    r"""Sub-VP SDE: the drift of VP with less noise, so that the variance stays below the variance of VP.

    At :math:`t = 10^{-5}`, :math:`\sigma` is :math:`10^{-6}`. If this noise is added to an x of order one in float32,
    only one or two of its digits remain.

    .. math:: dx = -\tfrac12 \beta(t) x \, dt + \sqrt{\beta(t) (1 - e^{-2 B(t)})} \, dw,
              \qquad \alpha_t = e^{-\frac12 B(t)}, \quad \sigma_t^2 = (1 - e^{-B(t)})^2

    Reference: Song et al. (2021), eq. 13 and 29, https://arxiv.org/abs/2011.13456

    Args:
        beta_min: rate :math:`\beta(0)`, above 0.
        beta_max: rate :math:`\beta(1)`, at least ``beta_min``.
        eps: smallest time of training and sampling.
    """

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(-self.beta(t) * torch.expm1(-2 * self.beta.integral(t)))

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.beta.integral(t))

    def time(self, u: Tensor) -> Tensor:
        # Solve sigma / alpha = 2 sinh(B / 2) for B.
        return self.beta.time(2 * torch.asinh(0.5 * torch.exp(0.5 * u)))


def largest_noise(sigma_min: float, sigma_max: float | Literal["auto"]) -> float:
    """Returns ``sigma_max`` as a number. Raises ValueError unless 0 < ``sigma_min`` < ``sigma_max``."""
    if sigma_max == "auto":
        raise ValueError(
            "sigma_max=auto is computed from data, and no data are given: set a number, for example sigma_max=50"
        )
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_max={sigma_max:g} must be above sigma_min={sigma_min:g}, which must be above 0")
    return float(sigma_max)


def largest_distance(x: Tensor) -> float:
    """Returns the largest distance between two of at most 5000 equally spaced rows of ``x`` ``(N, *)``."""
    points = x.flatten(1)[:: -(-len(x) // 5000)]
    return max(float(torch.cdist(chunk, points).max()) for chunk in points.split(500))
