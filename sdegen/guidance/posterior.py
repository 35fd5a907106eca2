r"""Guidance by a measurement, towards samples that agree with :math:`y = H(x_0) + \text{noise}`.

A method approximates the score given the measurement. :class:`Replacement` prescribes the distribution of the measured
coordinates. The methods in :mod:`sdegen.guidance.gaussian` approximate the likelihood of the measurement given a noisy
point,

.. math:: p_t(y \mid x) = \int p(y \mid H(x_0))\, p(x_0 \mid x)\, dx_0.

Several independent measurements of one point, of the same kind or not, are one measurement, whose likelihood given
:math:`x_0` is a product: :class:`Together` stacks them, each in standard deviations of its noise. For t > 0 the
likelihood given :math:`x_t` is not a product, because :math:`x_t` leaves :math:`x_0` uncertain, and a sum of separate
guidances would be wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.tensors import expand
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement
from sdegen.guidance.noise import STD, Noise, as_noise
from sdegen.sde.base import LinearSDE, Score


class Problem(NamedTuple):
    """A measurement, the result ``y`` ``(1, …)``, and the noise."""

    measurement: Measurement
    y: Tensor
    noise: Noise


class Method(ABC):
    r"""Approximation of the score given a measurement.

    Attributes:
        needs_gain: True if the method requires a measurement with :math:`A A^\top = c I` and Gaussian noise.
    """

    needs_gain = False

    @abstractmethod
    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        """Returns the approximate score given the measurement."""

    @abstractmethod
    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        """Returns the initial states at T, ``(B, *)``, for the draws ``x`` ``(B, *)`` of the prior."""


class Posterior(Guidance[LinearSDE]):
    """Guidance towards samples that agree with a measurement of an image, or of a vector.

    Args:
        observed: result of the measurement, ``(1, …)``, in the units of the measurement; from ``path`` or ``image``.
        measurement: map from points to the measured numbers, or a list of several maps with independent Gaussian noise.
        method: approximation of the score given the measurement.
        noise: noise of the measurement, or a list with the noise of each measurement. A number is the standard
            deviation of Gaussian noise.
        image: index of the held-out image that is measured.
        path: ``.npy`` file with the result of a measurement, in the units of the data, or a list with a file for each
            measurement; replaces ``image``. With one more axis in front, the array has independent results of the same
            measurement.
    """

    process = LinearSDE

    def __init__(
        self,
        observed: Tensor,
        measurement: Measurement | tuple[Measurement, ...],
        method: Method,
        noise: Noise | float | tuple[Noise | float, ...] = STD,
        image: int = 0,
        path: str | tuple[str, ...] | None = None,
    ) -> None:
        if isinstance(measurement, tuple) or isinstance(noise, tuple):
            raise ValueError("measurement: several measurements must be joined: use sdegen.guidance.Together")
        noise = as_noise(noise)
        if method.needs_gain and (measurement.gain is None or noise.std is None):
            raise ValueError(
                "method needs Gaussian noise and a measurement with A A^T = c I: use guidance/method=moments"
            )
        self.method, self.problem = method, Problem(measurement, observed, noise)

    def __call__(self, sde: LinearSDE, score: Score) -> Score:
        return self.method(sde, score, self.problem)

    def start(self, sde: LinearSDE, x: Tensor) -> Tensor:
        return self.method.start(sde, self.problem, x)


class Replacement(Method):
    r"""Replacement method.

    The measured coordinates have the distribution of :math:`x_t` given y. The other coordinates follow the score.

    If :math:`A A^\top = c I`, the measured coordinates of :math:`x_t` given y are :math:`N(\alpha y, (\alpha^2
    \sigma_y^2 + c \sigma^2) I)`. With :math:`P = A^\top A / c`, the score given y is

    .. math:: s(x, t) - P s(x, t) - A^\top \frac{A x - \alpha y}{\alpha^2 \sigma_y^2 + c \sigma^2}.

    At T, the measured coordinates are drawn from this distribution. The reference replaces coordinates in each step;
    here the method gives a score, which every sampler can use. The unmeasured coordinates depend on a noisy copy of y
    instead of y. This is not exact, even for Gaussian data.

    Reference: Song et al. (2021), appendix I, https://arxiv.org/abs/2011.13456
    """

    needs_gain = True

    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        measurement, y, noise = problem
        gain, std = measurement.gain or 1.0, noise.std or 0.0

        def guided(x: Tensor, t: Tensor) -> Tensor:
            own, alpha = score(x, t), sde.alpha(t)
            value, forward, adjoint = measurement.linearised(x)
            off = value - expand(alpha, y) * y.to(x)
            variance = (alpha * std) ** 2 + gain * sde.sigma(t) ** 2
            return own - adjoint(forward(own) / gain + off / expand(variance, off))

        return guided

    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        measurement, y, noise = problem
        gain, std, t = measurement.gain or 1.0, noise.std or 0.0, torch.tensor(sde.T, dtype=torch.float64)
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        found, _, adjoint = measurement.linearised(x)
        factor = ((alpha * std) ** 2 + gain * sigma**2) ** 0.5 / (gain**0.5 * sde.prior_std)
        return x + adjoint(alpha * y.to(x) + (factor - 1) * found) / gain
