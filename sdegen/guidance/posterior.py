r"""Guidance by a measurement: samples that agree with :math:`y = A x_0 + \sigma_y n`.

A method approximates the score given the measurement: those of :mod:`sdegen.guidance.gaussian`, and
:class:`Replacement`, which prescribes the law of the measured coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.tensors import expand
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement
from sdegen.sde.base import LinearSDE, Score


class Problem(NamedTuple):
    """A measurement, its result ``(1, …)``, and the standard deviation of its noise."""

    measurement: Measurement
    y: Tensor
    noise: float


class Method(ABC):
    r"""An approximation of the score given a measurement.

    Attributes:
        decouples: True if it requires a measurement with :math:`A A^\top = c I`.
    """

    decouples = False

    @abstractmethod
    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        """Returns the score given the measurement."""

    @abstractmethod
    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        """Returns the states at T for draws ``x`` of the prior."""


class Replacement(Method):
    r"""A method in which the measured coordinates follow their own kernel, and the others the score.

    Where :math:`A A^\top = c I`, the measured coordinates of :math:`x_t` given y are :math:`N(\alpha y, (\alpha^2
    \sigma_y^2 + c \sigma^2) I)`. With :math:`P = A^\top A / c`, the score given y is

    .. math:: s(x, t) - P s(x, t) - A^\top \frac{A x - \alpha y}{\alpha^2 \sigma_y^2 + c \sigma^2},

    sampling starts from a draw of that distribution, and noise enters all coordinates. This is the replacement method
    of the reference, written as a score so that any sampler can use it. The other coordinates depend on a noisy copy
    of y instead of y itself, which is not exact even for Gaussian data.

    Reference: Song et al. (2021), appendix I, https://arxiv.org/abs/2011.13456
    """

    decouples = True

    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        measurement, y, noise = problem
        gain = measurement.gain or 1.0

        def guided(x: Tensor, t: Tensor) -> Tensor:
            own, alpha = score(x, t), sde.alpha(t)
            off = measurement(x) - expand(alpha, y) * y.to(x)
            variance = (alpha * noise) ** 2 + gain * sde.sigma(t) ** 2
            return own - measurement.adjoint(measurement(own) / gain + off / expand(variance, off))

        return guided

    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        measurement, y, noise = problem
        gain, t = measurement.gain or 1.0, torch.tensor(sde.T, dtype=torch.float64)
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        found = measurement(x)
        factor = ((alpha * noise) ** 2 + gain * sigma**2) ** 0.5 / (gain**0.5 * sde.prior_std)
        return x + measurement.adjoint(alpha * y.to(x) + (factor - 1) * found) / gain


class Posterior(Guidance[LinearSDE]):
    """Guidance towards samples that agree with a linear measurement of an image, or of a vector.

    Args:
        observed: the result of the measurement, ``(1, …)`` in the network's units; supplied by the program.
        measurement: A.
        method: the approximation of the score given the measurement.
        noise: standard deviation of the measurement's noise, in the network's units, above 0.
        image: index of the held-out image that is measured.
        path: a ``.npy`` file with a measurement in the units of the data, instead of a held-out image.
    """

    process = LinearSDE

    def __init__(
        self,
        observed: Tensor,
        measurement: Measurement,
        method: Method,
        noise: float = 0.05,
        image: int = 0,
        path: str | None = None,
    ) -> None:
        in_range("noise", noise, above=0, fix=": a small one, such as 1e-3, is nearly exact")
        if method.decouples and measurement.gain is None:
            raise ValueError("method needs measurements that do not overlap: use guidance/method=moments")
        self.method, self.problem = method, Problem(measurement, observed, noise)

    def __call__(self, sde: LinearSDE, score: Score) -> Score:
        return self.method(sde, score, self.problem)

    def start(self, sde: LinearSDE, x: Tensor) -> Tensor:
        return self.method.start(sde, self.problem, x)
