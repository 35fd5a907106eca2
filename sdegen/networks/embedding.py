"""How a network is told the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MOST = 2**20
"""Fourier features: more than any network could use, and still no trouble to draw."""


class Concat(nn.Module):
    """The number t itself, as the paper's networks take it: ``(B,)`` to ``(B, 1)``."""

    width = 1

    def forward(self, t: Tensor) -> Tensor:
        return t.unsqueeze(1)


class GaussianFourier(nn.Module):
    r"""Random Fourier features of t: :math:`(\sin 2\pi W t, \cos 2\pi W t)` with :math:`W \sim N(0, s^2)`, fixed.

    ``(B,)`` to ``(B, width)``. Reference: Tancik et al. (2020), https://arxiv.org/abs/2006.10739

    Args:
        width: number of features, even.
        scale: s, in cycles per unit of t.
    """

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        if width % 2 or not 2 <= width <= MOST:
            raise ValueError(f"fourier_features={width} must be even, and between 2 and {MOST}")
        if scale <= 0:
            raise ValueError(f"fourier_scale={scale:g} must be above 0")
        self.width = width
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(width // 2))

    def forward(self, t: Tensor) -> Tensor:
        angle = t.unsqueeze(1) * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)
