"""Simulations behind the truth of the errata, from the drift and diffusion of an SDE or the steps of a chain alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike, generator, randn_like
from sdegen.sde import SDE

STEPS = 400
"""Steps of a simulated path: their error is far below that of the errata's number of paths."""
SIGMA_MIN, SIGMA_MAX, BETA_MIN, BETA_MAX = 0.01, 50.0, 0.1, 20.0


def noise(key: str) -> RandnLike:
    """Returns a source of normal draws, the same for the same key."""
    return randn_like(generator("cpu", 0, "errata", key))


def simulated(sde: SDE, x: Tensor, t: float, key: str) -> Tensor:
    """Returns x(t) of paths from ``x`` at time 0, by Euler–Maruyama."""
    source, h = noise(key), t / STEPS
    for i in range(STEPS):
        # The middle of the step, where the rate of a linear β has its mean.
        now = torch.tensor((i + 0.5) * h, dtype=torch.float64)
        x = x + h * sde.drift(x, now) + math.sqrt(h) * sde.diffusion(now) * source(x)
    return x


def smld_walk(x: Tensor, level: int, levels: int, key: str) -> Tensor:
    """Returns the state at a level of the SMLD chain (equation 6 of the paper) from ``x``, with σ₀ = 0."""
    source, before = noise(key), 0.0
    for i in range(level):
        sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** (i / (levels - 1))
        x, before = x + math.sqrt(sigma**2 - before**2) * source(x), sigma
    return x


def ddpm_step(x: Tensor, beta: float, source: RandnLike) -> Tensor:
    """Returns the next state of the DDPM chain."""
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * source(x)


def ddpm_betas(levels: int) -> list[float]:
    """Returns β_i = β(i/N)/N for i = 1 … N."""
    return [(BETA_MIN + (BETA_MAX - BETA_MIN) * i / levels) / levels for i in range(1, levels + 1)]
