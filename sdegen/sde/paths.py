r"""Gaussian paths :math:`x_t = \alpha_t x_0 + \sigma_t z` that are given by :math:`\alpha` and :math:`\sigma`.

The SDE follows from the path: see :class:`~sdegen.sde.base.LinearSDE`. Two paths with the same signal-to-noise ratios
differ only in the scale of x and in the speed of t, but training and samplers depend on both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.sde.base import LinearSDE, rounded_down
from sdegen.sde.linear import largest_distance, largest_noise

LEAST = 1e-3
r"""Smallest noise-to-signal ratio of a path, and smallest signal-to-noise ratio if the signal vanishes.

Where :math:`\alpha = 0`, the score is :math:`-x/\sigma^2` and contains nothing about the data. In float32, the error of
:math:`E[x_0 \mid x]` is 0.5 % of the standard deviation of the data where :math:`\alpha/\sigma = 10^{-5}`, and 0.005 %
where :math:`\alpha/\sigma = 10^{-3}`.
"""


class GaussianPath(LinearSDE):
    r"""Path :math:`x_t = \alpha_t x_0 + \sigma_t z` from :math:`\alpha_0 = 1` and :math:`\sigma_0 = 0` to t = 1.

    A subclass defines :meth:`alpha` and :meth:`sigma`. If it has options of its own, its constructor sets them before
    it calls the constructor of this class. If the signal vanishes at t = 1, the process ends earlier, at the time T
    where :math:`\alpha/\sigma = 10^{-3}`. The prior is :math:`N(0, (\sigma_T^2 + c^2 \alpha_T^2) I)`, which is
    :math:`p_T` for Gaussian data of standard deviation c.

    Args:
        eps: smallest time of training and sampling; None for the time at which :math:`\sigma/\alpha = 10^{-3}`.
        spread: standard deviation c of the data in the network's units, for the prior. With ``auto`` in a
            configuration, it is measured on the data.
    """

    def __init__(self, eps: float | None = None, spread: float | Literal["auto"] = 1.0) -> None:
        if spread == "auto":
            raise ValueError("spread=auto is computed from data, and no data are given: set a number: try spread=1")
        self.spread = in_range("spread", spread, above=0)
        if float(self.alpha(torch.tensor(self.T, dtype=torch.float64))) < LEAST:
            self.T = min(self.T, self.time_of(1 / LEAST))
        self.T = rounded_down(self.T)
        super().__init__(self.time_of(LEAST) if eps is None else eps)

    def time_of(self, ratio: float) -> float:
        """Returns the time at which the noise-to-signal ratio is ``ratio``."""
        return float(self.time(torch.tensor(2 * math.log(ratio), dtype=torch.float64)))

    @property
    def prior_std(self) -> float:
        t = torch.tensor(self.T, dtype=torch.float64)
        return math.hypot(float(self.sigma(t)), self.spread * float(self.alpha(t)))

    @classmethod
    def measure(cls, x: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"spread": float(f"{float(x.double().square().mean().sqrt()):.3g}")}


class Linear(GaussianPath):
    r"""Straight path from the data to the noise, the path of flow matching and rectified flow.

    .. math:: x_t = (1 - t)\, x_0 + t z

    With a shift k, the noise-to-signal ratio at each t is k times as large:

    .. math:: \alpha_t = \frac{1 - t}{1 + (k - 1) t}, \qquad \sigma_t = \frac{k t}{1 + (k - 1) t}

    References: Lipman et al. (2023), https://arxiv.org/abs/2210.02747; Liu et al. (2023),
    https://arxiv.org/abs/2209.03003; for the shift, Esser et al. (2024), section 5.3.2, https://arxiv.org/abs/2403.03206

    Args:
        shift: factor k of the noise-to-signal ratio, above 0. At a higher resolution, neighbouring pixels are more
            alike, and more noise is needed to hide them: for images with n times as many pixels along a side, k = n is
            usual.
        eps: see :class:`GaussianPath`.
        spread: see :class:`GaussianPath`.
    """

    def __init__(self, shift: float = 1.0, eps: float | None = None, spread: float | Literal["auto"] = 1.0) -> None:
        self.shift = in_range("shift", shift, above=0)
        super().__init__(eps, spread)

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) / self._sum(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / self._sum(t)

    def rate(self, t: Tensor) -> Tensor:
        return -self.shift / ((1 - t) * self._sum(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return self.shift * (2 * t / (1 - t)).sqrt() / self._sum(t)

    def time(self, u: Tensor) -> Tensor:
        return torch.sigmoid(0.5 * u - math.log(self.shift))

    def _sum(self, t: Tensor) -> Tensor:
        """Returns 1 - t + k t, by which both terms are divided so that α + σ = 1."""
        return 1 + (self.shift - 1) * t


class Cosine(GaussianPath):
    r"""Variance-preserving path along a circle, with the cosine schedule.

    .. math:: \alpha_t = \frac{\cos \varphi_t}{\cos \varphi_0}, \qquad \sigma_t^2 = 1 - \alpha_t^2, \qquad
              \varphi_t = \frac \pi 2 \cdot \frac{t + s}{1 + s}

    With the offset s = 0, it is the trigonometric path :math:`x_t = \cos(\tfrac\pi2 t)\, x_0 + \sin(\tfrac\pi2 t)\, z`.
    With a shift k, the noise-to-signal ratio at each t is k times as large, and :math:`\alpha^2 + \sigma^2` remains 1.

    References: Nichol & Dhariwal (2021), eq. 17, https://arxiv.org/abs/2102.09672; for the shift, Hoogeboom et al.
    (2023), section 3.1, https://arxiv.org/abs/2301.11093

    Args:
        offset: offset s, at least 0. With a larger offset, the noise grows faster at small t.
        shift: factor k of the noise-to-signal ratio, above 0. For images with n times as many pixels along a side,
            k = n is usual.
        eps: see :class:`GaussianPath`.
        spread: see :class:`GaussianPath`.
    """

    def __init__(
        self,
        offset: float = 0.008,
        shift: float = 1.0,
        eps: float | None = None,
        spread: float | Literal["auto"] = 1.0,
    ) -> None:
        self.offset = in_range("offset", offset, at_least=0)
        self.shift = in_range("shift", shift, above=0)
        self._speed = 0.5 * math.pi / (1 + offset)
        self._start = self._speed * offset
        super().__init__(eps, spread)

    def alpha(self, t: Tensor) -> Tensor:
        signal, noise = self._sides(t)
        return signal / (signal**2 + noise).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        signal, noise = self._sides(t)
        return (noise / (signal**2 + noise)).sqrt()

    def rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.diffusion(t) ** 2

    def diffusion(self, t: Tensor) -> Tensor:
        signal, noise = self._sides(t)
        angle = self._speed * t + self._start
        tangent = angle.sin() / signal
        size = (2 * self._speed * tangent / (signal**2 + noise)).sqrt()
        return self.shift * math.cos(self._start) * size

    def time(self, u: Tensor) -> Tensor:
        # tan² φ = a² + (1 + a²) r² with a = tan φ_0 and the ratio r of the path without a shift. The angle φ - φ_0 is
        # computed without a difference of two tangents, which would have no digits at small r.
        a = math.tan(self._start)
        grown = torch.exp(u - 2 * math.log(self.shift)) * (1 + a**2)
        tangent = (a**2 + grown).sqrt()
        return torch.atan(grown / ((tangent + a) * (1 + a * tangent))) / self._speed

    def _sides(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns numbers proportional to α and to σ², with the same factor for α² and σ²."""
        # cos² φ_0 - cos² φ as a product of sines, and cos φ as the sine of the angle that is left: near the ends, the
        # differences would be only rounding errors in float32.
        turned = self._speed * t
        noise = self.shift**2 * turned.sin() * (turned + 2 * self._start).sin()
        return (self._speed * (1 - t)).sin(), noise


class EDM(GaussianPath):
    r"""Path of EDM, on which the noise is added to the data and grows linearly in time.

    .. math:: x_t = x_0 + \sigma_{\max}\, t\, z

    Reference: Karras et al. (2022), https://arxiv.org/abs/2206.00364, where the time is :math:`\sigma` itself.

    Args:
        sigma_max: standard deviation of the noise at t = 1, in units of the standardised data. With ``auto`` in a
            configuration, it is the largest distance between two data points.
        eps: see :class:`GaussianPath`.
        spread: see :class:`GaussianPath`.
    """

    def __init__(
        self,
        sigma_max: float | Literal["auto"] = 80.0,
        eps: float | None = None,
        spread: float | Literal["auto"] = 1.0,
    ) -> None:
        self.sigma_max = largest_noise(LEAST, sigma_max)
        super().__init__(eps, spread)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma_max * (2 * t).sqrt()

    def time(self, u: Tensor) -> Tensor:
        return torch.exp(0.5 * u) / self.sigma_max

    @classmethod
    def measure(cls, x: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().measure(x, options), "sigma_max": largest_distance(x)}
