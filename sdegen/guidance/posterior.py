r"""Guidance by a measurement: samples that agree with :math:`y = A x_0 + \sigma_y n`.

The likelihood of the measurement given a noisy point,

.. math:: p_t(y \mid x) = \int N(y; A x_0, \sigma_y^2 I)\, p(x_0 \mid x)\, dx_0,

needs the law of :math:`x_0` given :math:`x_t = x`, of which a score tells the mean
:math:`\hat x = (x + \sigma^2 s)/\alpha` and the covariance :math:`(\sigma^2/\alpha)\, \partial \hat x/\partial x`, and
no more. Two methods take it for a Gaussian, with which

.. math:: \nabla_x \log p_t(y \mid x) \approx \left(\frac{\partial \hat x}{\partial x}\right)^\top A^\top
          (\sigma_y^2 I + A V A^\top)^{-1} (y - A \hat x),

and differ in V. The third fixes the measured coordinates and leaves the others to the score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.tensors import expand, squared_norm
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.scores import Parts, Steered


class Problem(NamedTuple):
    """A measurement, what it found ``(1, …)``, and the standard deviation of its noise."""

    measurement: Measurement
    y: Tensor
    noise: float


class Method(ABC):
    r"""An approximation of the score given a measurement.

    Attributes:
        decouples: whether it needs a measurement with :math:`A A^\top = c I`.
    """

    decouples = False

    @abstractmethod
    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        """The score given the measurement."""

    @abstractmethod
    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        """Where to begin, given draws ``x`` of the prior."""


class GaussianMethod(Method):
    """The law of x_0 given x_t taken for a Gaussian, by conjugate gradients.

    Args:
        iterations: of the conjugate gradients.
    """

    def __init__(self, iterations: int) -> None:
        if iterations < 1:
            raise ValueError(f"iterations={iterations} must be at least 1")
        self.iterations = iterations

    @abstractmethod
    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        r"""V v of each row, ``(B, *)``; ``pull`` gives :math:`(\partial \hat x/\partial x)^\top v`."""

    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        return Measured(self, sde, score, problem)

    @abstractmethod
    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        r"""c where :math:`\sigma_y^2 I + A V A^\top = c I`, shaped like ``t``; UserError where that is not so."""

    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        return x


class Measured(Steered):
    """A score under the guidance of a measurement."""

    def __init__(self, method: GaussianMethod, sde: LinearSDE, score: Score, problem: Problem) -> None:
        self.method, self.sde, self.score, self.problem = method, sde, score, problem

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        own, pull, _ = self._pulled(x, t)
        return own + pull

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        variance = self.method.variance(self.sde, t, self.problem).double()
        own, pull, missing = self._pulled(x, t)
        entries = missing[0].numel()
        log_p = -0.5 * (squared_norm(missing).double() / variance + entries * variance.log())
        return Parts(own, pull, log_p)

    def _pulled(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The score, the pull, and what is missing from the measurement of the mean."""
        sde, measurement, noise = self.sde, self.problem.measurement, self.problem.noise
        alpha, variance = expand(sde.alpha(t), x), expand(sde.sigma(t), x) ** 2
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            own = self.score(point, t)
            mean = (point + variance * own) / alpha

        def pull(v: Tensor) -> Tensor:
            return torch.autograd.grad(mean, point, v, retain_graph=True)[0]

        def spread(v: Tensor) -> Tensor:
            return noise**2 * v + measurement(self.method.covariance(sde, t, pull, measurement.adjoint(v)))

        missing = self.problem.y.to(x) - measurement(mean.detach())
        return own.detach(), pull(measurement.adjoint(solve(spread, missing, self.method.iterations))), missing


class Moments(GaussianMethod):
    r"""The mean and the whole covariance of x_0 given x_t, which the score's Jacobian tells: exact for Gaussian data.

    .. math:: V = \frac{\sigma_t^2}{\alpha_t} \frac{\partial \hat x}{\partial x}

    The best of the published approximations in our table; an evaluation costs a backward pass for each iteration.

    Reference: Rozet et al. (2024), https://arxiv.org/abs/2405.13712; Boys et al. (2023), https://arxiv.org/abs/2310.06721

    Args:
        iterations: of the conjugate gradients.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__(iterations)

    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        return expand(sde.sigma(t) ** 2 / sde.alpha(t), v) * pull(v)

    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        raise UserError("sampler=twisted needs the likelihood of the measurement: use guidance/method=isotropic")


class Isotropic(GaussianMethod):
    r"""One variance for all directions, right for data of a standard deviation c that are not correlated: ΠGDM.

    .. math:: V = \frac{c^2 \sigma_t^2}{\sigma_t^2 + c^2 \alpha_t^2} I

    Reference: Song et al. (2023), https://openreview.net/forum?id=9_gsMA8MRKQ

    Args:
        spread: c, 1 where the data are standardised.
        iterations: of the conjugate gradients; one is enough where :math:`A A^\top` is a multiple of the identity.
    """

    def __init__(self, spread: float = 1.0, iterations: int = 5) -> None:
        super().__init__(iterations)
        if spread <= 0:
            raise ValueError(f"spread={spread:g} must be above 0")
        self.spread = spread

    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        return expand(self._of_x0(sde, t), v) * v

    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        if problem.measurement.gain is None:
            raise UserError("sampler=twisted needs measured numbers that do not overlap: use another sampler")
        return problem.noise**2 + problem.measurement.gain * self._of_x0(sde, t)

    def _of_x0(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """The variance of x_0 given x_t, shaped like ``t``."""
        sigma, data = sde.sigma(t) ** 2, (self.spread * sde.alpha(t)) ** 2
        return self.spread**2 * sigma / (sigma + data)


class Replacement(Method):
    r"""The measured coordinates follow their own kernel, and the others the score beside them.

    Where :math:`A A^\top = c I`, the measured coordinates of :math:`x_t` given y are :math:`N(\alpha y, (\alpha^2
    \sigma_y^2 + c \sigma^2) I)`. With :math:`P = A^\top A / c`,

    .. math:: s(x, t) - P s(x, t) - A^\top \frac{A x - \alpha y}{\alpha^2 \sigma_y^2 + c \sigma^2},

    begun at a draw of that law: no clean pixels at T. It is the replacement of the paper's authors as a score, so that
    any sampler takes it. The others meet one noisy copy of y instead of y itself, which is not exact even for Gaussian
    data.

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
            wanted = measurement.adjoint(measurement(own) / gain + off / expand(variance, off))
            return own - wanted

        return guided

    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        measurement, y, noise = problem
        gain, t = measurement.gain or 1.0, torch.tensor(sde.T, dtype=torch.float64)
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        found = measurement(x)
        factor = ((alpha * noise) ** 2 + gain * sigma**2) ** 0.5 / (gain**0.5 * sde.prior_std)
        return x + measurement.adjoint(alpha * y.to(x) + (factor - 1) * found) / gain


class Posterior(Guidance[LinearSDE]):
    """Samples that agree with a linear measurement of an image, or of a vector.

    Args:
        observed: what was measured, ``(1, …)`` in the network's units; supplied by the program.
        measurement: A.
        method: how the score given the measurement is approximated.
        noise: standard deviation of the measurement's noise, in the network's units, above 0.
        image: which held-out image is measured, counted from 0.
        path: a ``.npy`` file with a measurement of your own, in the units of the data, in the place of an image.
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
        if noise <= 0:
            raise ValueError(f"noise={noise:g} must be above 0: a small one, such as 1e-3, is nearly exact")
        if method.decouples and measurement.gain is None:
            raise ValueError("method needs measured numbers that do not overlap: use guidance/method=moments")
        self.method, self.problem = method, Problem(measurement, observed, noise)

    def __call__(self, sde: LinearSDE, score: Score) -> Score:
        return self.method(sde, score, self.problem)

    def start(self, sde: LinearSDE, x: Tensor) -> Tensor:
        return self.method.start(sde, self.problem, x)


def solve(spread: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Conjugate gradients for a symmetric positive map of each row, from zero: ``(B, …)`` to ``(B, …)``."""

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).reshape(-1, *[1] * (u.ndim - 1))

    v, residual = torch.zeros_like(b), b
    direction, size = residual, dot(residual, residual)
    for _ in range(iterations):
        image = spread(direction)
        curvature = dot(direction, image)
        # A row that is solved has nothing left to divide by; one that the network's Jacobian makes negative stops.
        going = (curvature > 0) & (size > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        v, residual = v + step * direction, residual - step * image
        size, before = dot(residual, residual), size
        direction = residual + torch.where(going, size / torch.where(going, before, 1.0), 0.0) * direction
    return v
