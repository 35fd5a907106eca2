r"""Log-normal distribution of the noise level :math:`\tilde\sigma = \sigma_t/\alpha_t`, as a distribution of times."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdegen.sde.base import LinearSDE

LEAST = 0.01
"""Smallest share of the normal distribution that may lie between the ends of the process."""


class NoiseLevels:
    r"""Normal distribution of :math:`\log \tilde\sigma`, truncated to the noise levels of :math:`[\varepsilon, T]`.

    With :math:`u = \log(\sigma_t^2/\alpha_t^2) = 2 \log \tilde\sigma`, the derivative of :math:`\log \tilde\sigma` in t
    is :math:`u'/2 = g^2 / (2 \sigma^2)`, which turns the density of :math:`\log \tilde\sigma` into a density of t.

    Args:
        sde: forward process.
        mean: mean of the normal distribution before it is truncated.
        std: standard deviation of the normal distribution before it is truncated.
        prefix: beginning of the names of the options ``mean`` and ``std``, for messages.

    Raises:
        ValueError: the process has nearly none of the noise levels. The message begins with the name of the option.
    """

    def __init__(self, sde: LinearSDE, mean: float, std: float, prefix: str = "") -> None:
        self.sde, self.mean, self.std = sde, mean, std
        ends = 0.5 * sde.log_nsr(torch.tensor([sde.eps, sde.T], dtype=torch.float64))
        self.low, high = torch.special.ndtr((ends - mean) / std).tolist()
        self.mass = high - self.low
        if self.mass < LEAST:
            raise ValueError(
                f"{prefix}mean={mean:g} with {prefix}std={std:g} is outside of the noise levels of the process, whose "
                f"log(σ/α) is between {ends[0]:.1f} and {ends[1]:.1f}: choose {prefix}mean between them"
            )

    def density(self, t: Tensor) -> Tensor:
        """Returns the density of t divided by the uniform density on [eps, T], shaped like ``t``."""
        sigma, g = self.sde.sigma(t), self.sde.diffusion(t)
        standard = (0.5 * self.sde.log_nsr(t) - self.mean) / self.std
        normal = torch.exp(-0.5 * standard**2) / (self.std * math.sqrt(2 * math.pi) * self.mass)
        return normal * 0.5 * (g / sigma) ** 2 * (self.sde.T - self.sde.eps)

    def time(self, share: Tensor) -> Tensor:
        """Returns the times t before which the shares in [0, 1] of the distribution lie, shaped like ``share``."""
        standard = torch.special.ndtri(self.low + share.double() * self.mass)
        return self.sde.time(2 * (self.mean + self.std * standard)).clamp(self.sde.eps, self.sde.T).to(share)
