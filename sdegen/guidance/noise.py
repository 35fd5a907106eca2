r"""Noise of a measurement: the distribution of y given the measurement :math:`\mu = H(x_0)` without noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.tensors import squared_norm

STD = 0.05
"""Default standard deviation of Gaussian noise."""
NEARLY_EXACT = ": use 1e-3 for a nearly exact measurement"


class Noise(ABC):
    """Distribution of a measurement given the same measurement without noise. All numbers are independent.

    Attributes:
        std: standard deviation of Gaussian noise; None for other noise.
        of_data: True if the distribution refers to the units of the data.
        lowest: smallest measurement, with and without the noise.
    """

    std: float | None = None
    of_data = False
    lowest = -math.inf

    @abstractmethod
    def variance(self, mean: Tensor) -> Tensor | float:
        """Returns the variances of the numbers whose values without noise are ``mean`` ``(B, …)``."""

    @abstractmethod
    def log_likelihood(self, y: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        r"""Returns the log-likelihood ``(B,)`` float64 of ``y`` ``(1, …)`` if μ is uncertain, up to a constant.

        It is exact where ``spread`` is 0.

        Args:
            y: measurement.
            mean: mean of μ, ``(B, …)``.
            spread: covariance of μ, ``(B, m, m)`` for m numbers, or its factor of the identity, ``()`` or ``(B,)``.
        """

    @abstractmethod
    def draw(self, mean: Tensor, source: torch.Generator) -> Tensor:
        """Returns a measurement whose values without noise are ``mean``."""


class Gaussian(Noise):
    """Gaussian noise, which is added to the measurement.

    Args:
        std: standard deviation of the noise, above 0: in the network's units, or for an operator in the units of its
            result.
    """

    def __init__(self, std: float = STD) -> None:
        self._std = self.std = in_range("std", std, above=0, fix=NEARLY_EXACT)

    def variance(self, mean: Tensor) -> float:
        return self._std**2

    def log_likelihood(self, y: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        off = y - mean
        if spread.ndim < 3:
            variance = (self._std**2 + spread).double()
            return -0.5 * (squared_norm(off).double() / variance + off[0].numel() * variance.log())
        # The covariance of an inexact score can have negative eigenvalues.
        values, axes = torch.linalg.eigh(spread.double())
        variances = values.clamp(min=0) + self._std**2
        along = (axes.mT @ off.double().flatten(1).unsqueeze(2)).squeeze(2)
        return -0.5 * (along.square() / variances + variances.log()).sum(1)

    def draw(self, mean: Tensor, source: torch.Generator) -> Tensor:
        return mean + self._std * torch.randn(mean.shape, generator=source, dtype=mean.dtype)


class Poisson(Noise):
    r"""Poisson noise: y are counts whose expected numbers are :math:`H(x_0)`, in the units of the data.

    The variance of a count is its expected number. At t = 0, the guidance is then exactly the gradient of the
    log-likelihood, :math:`J^\top (y - \mu) / \mu`. The variance of the observed count would not have this property.

    If μ is uncertain with the variance v, the likelihood is that of a negative binomial distribution, for which μ has a
    gamma distribution. Its limit v = 0 is the Poisson distribution.

    Args:
        least: smallest expected number. Smaller and negative numbers, which an approximate :math:`x_0` can have, are
            replaced by this number.
    """

    of_data = True
    lowest = 0.0
    NEARLY_POISSON = 1e6

    def __init__(self, least: float = 0.1) -> None:
        self.least = in_range("least", least, above=0)

    def variance(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=self.least)

    def log_likelihood(self, y: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        y, mean = y.double().flatten(1), mean.double().flatten(1).clamp(min=self.least)
        variances = spread.double().diagonal(dim1=1, dim2=2) if spread.ndim == 3 else spread.double().reshape(-1, 1)
        shape = mean**2 / variances.clamp(min=1e-12)
        # A gamma function of a large shape would lose all digits.
        small = shape.clamp(max=self.NEARLY_POISSON)
        mixed = torch.lgamma(y + small) - torch.lgamma(small) + small * torch.log(small / (small + mean))
        mixed = mixed + torch.xlogy(y, mean / (small + mean))
        exact = torch.xlogy(y, mean) - mean
        return torch.where(shape > self.NEARLY_POISSON, exact, mixed).sum(1)

    def draw(self, mean: Tensor, source: torch.Generator) -> Tensor:
        return torch.poisson(mean, generator=source)


def as_noise(noise: Noise | float) -> Noise:
    """Returns the noise; a number is the standard deviation of Gaussian noise."""
    if isinstance(noise, Noise):
        return noise
    return Gaussian(in_range("noise", noise, above=0, fix=NEARLY_EXACT))
