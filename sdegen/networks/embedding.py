"""The time as an input of a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sdegen.core.checks import in_range

MOST = 2**20
"""Largest number of Fourier features; no network needs more."""


def by_row(t: Tensor, x: Tensor, times: int = 1) -> Tensor:
    """Returns the times ``(B,)`` of the rows of ``x``, with its device and type, from ``t``, ``()`` or ``(B,)``.

    For a network of two ``times``, the result is ``(B, 2)``, and ``t`` may be ``(B, 2)``; a single time is both.
    """
    t = t.to(x).expand(len(x), *t.shape[1:])
    return t if times == 1 or t.ndim == 2 else torch.stack([t, t], dim=1)


class GaussianFourier(nn.Module):
    r"""Random Fourier features :math:`(\sin 2\pi W t, \cos 2\pi W t)` of t, with fixed :math:`W \sim N(0, s^2)`.

    The input t is ``(B,)``, and the output is ``(B, width)``. For two times of each row, t is ``(B, 2)``, and the
    features of the second time follow those of the first, ``(B, 2 * width)``.

    Reference: Tancik et al. (2020), https://arxiv.org/abs/2006.10739

    Args:
        width: number of features, even.
        scale: standard deviation s of the frequencies, in cycles per unit of t.
    """

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        if width % 2 or not 2 <= width <= MOST:
            raise ValueError(f"fourier_features={width} must be even and lie between 2 and {MOST}")
        in_range("fourier_scale", scale, above=0)
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(width // 2))

    def forward(self, t: Tensor) -> Tensor:
        angle = t.unsqueeze(-1) * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(1)
