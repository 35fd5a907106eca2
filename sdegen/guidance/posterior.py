r"""Guidance by a measurement, towards samples that agree with :math:`y = A x_0 + \sigma_y n`.

A method approximates the score given the measurement. :class:`Replacement` prescribes the distribution of the measured
coordinates. The Gaussian methods approximate the likelihood of the measurement given a noisy point,

.. math:: p_t(y \mid x) = \int N(y; A x_0, \sigma_y^2 I)\, p(x_0 \mid x)\, dx_0.

The integral needs the distribution of :math:`x_0` given :math:`x_t = x`. A score gives only the mean
:math:`\hat x = (x + \sigma^2 s)/\alpha` and the covariance :math:`(\sigma^2/\alpha)\, \partial \hat x/\partial x`
of this distribution. With a Gaussian of this mean and a covariance V,

.. math:: \nabla_x \log p_t(y \mid x) \approx \left(\frac{\partial \hat x}{\partial x}\right)^\top A^\top
          (\sigma_y^2 I + A V A^\top)^{-1} (y - A \hat x).

The Gaussian methods differ in V.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.core.tensors import expand, squared_norm
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.scores import GuidedScore, Parts


class Problem(NamedTuple):
    """A measurement, the result ``y`` ``(1, …)``, and the standard deviation of the noise."""

    measurement: Measurement
    y: Tensor
    noise: float


class Method(ABC):
    r"""Approximation of the score given a measurement.

    Attributes:
        needs_gain: True if the method requires a measurement with :math:`A A^\top = c I`.
    """

    needs_gain = False

    @abstractmethod
    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        """Returns the approximate score given the measurement."""

    @abstractmethod
    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        """Returns the initial states at T, ``(B, *)``, for the draws ``x`` ``(B, *)`` of the prior."""


class Posterior(Guidance[LinearSDE]):
    """Guidance towards samples that agree with a linear measurement of an image, or of a vector.

    Args:
        observed: result of the measurement, ``(1, …)``, in the network's units; from ``path`` or ``image``.
        measurement: linear map A.
        method: approximation of the score given the measurement.
        noise: standard deviation of the noise of the measurement, in the network's units, above 0.
        image: index of the held-out image that is measured.
        path: ``.npy`` file with the result of a measurement, in the units of the data; replaces ``image``.
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
        in_range("noise", noise, above=0, fix=": use noise=1e-3 for a nearly exact measurement")
        if method.needs_gain and measurement.gain is None:
            raise ValueError("method needs a measurement with A A^T = c I: use guidance/method=moments")
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


class GaussianMethod(Method):
    """Method with a Gaussian approximation of x_0 given x_t. Conjugate gradients solve the linear system.

    Args:
        iterations: number of iterations of conjugate gradients.
    """

    def __init__(self, iterations: int) -> None:
        self.iterations = in_range("iterations", iterations, at_least=1)

    @abstractmethod
    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        r"""Returns V v of each row, ``(B, *)``; ``pull`` is :math:`v \mapsto (\partial \hat x/\partial x)^\top v`."""

    @abstractmethod
    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        r"""Returns q with :math:`\sigma_y^2 I + A V A^\top = q I`, shaped like ``t``.

        Raises:
            UserError: there is no such q.
        """

    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        return Measured(self, sde, score, problem)

    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        return x


class Measured(GuidedScore):
    """Score with the guidance of a measurement."""

    def __init__(self, method: GaussianMethod, sde: LinearSDE, score: Score, problem: Problem) -> None:
        self.method, self.sde, self.score, self.problem = method, sde, score, problem

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        own, pull, _ = self._pulled(x, t)
        return own + pull

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        variance = self.method.variance(self.sde, t, self.problem).double()
        own, pull, residual = self._pulled(x, t)
        log_p = -0.5 * (squared_norm(residual).double() / variance + residual[0].numel() * variance.log())
        return Parts(own, pull, log_p)

    def _pulled(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the score, the gradient of the log-likelihood of y, and the residual :math:`y - A \hat x`."""
        sde, measurement, noise = self.sde, self.problem.measurement, self.problem.noise
        alpha, variance = expand(sde.alpha(t), x), expand(sde.sigma(t), x) ** 2
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            own = self.score(point, t)
            mean = (point + variance * own) / alpha

        def pull(v: Tensor) -> Tensor:
            return torch.autograd.grad(mean, point, v, retain_graph=True)[0]

        def system(v: Tensor) -> Tensor:
            return noise**2 * v + measurement(self.method.covariance(sde, t, pull, measurement.adjoint(v)))

        residual = self.problem.y.to(x) - measurement(mean.detach())
        return own.detach(), pull(measurement.adjoint(solve(system, residual, self.method.iterations))), residual


class Moments(GaussianMethod):
    r"""Method with the full covariance of x_0 given x_t, from the Jacobian of the score. It is exact for Gaussian data.

    .. math:: V = \frac{\sigma_t^2}{\alpha_t} \frac{\partial \hat x}{\partial x}

    Each iteration costs a backward pass.

    Reference: Rozet et al. (2024), https://arxiv.org/abs/2405.13712; Boys et al. (2023), https://arxiv.org/abs/2310.06721

    Args:
        iterations: number of iterations of conjugate gradients.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__(iterations)

    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        return expand(sde.sigma(t) ** 2 / sde.alpha(t), v) * pull(v)

    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        raise UserError(
            "sampler=twisted needs a likelihood, and guidance/method=moments has none: use guidance/method=isotropic"
        )


class Isotropic(GaussianMethod):
    r"""ΠGDM, the method with one variance for all directions. It is exact for Gaussian data with the covariance c² I.

    .. math:: V = \frac{c^2 \sigma_t^2}{\sigma_t^2 + c^2 \alpha_t^2} I

    Reference: Song et al. (2023), https://openreview.net/forum?id=9_gsMA8MRKQ

    Args:
        spread: standard deviation c of the data in the network's units; 1 for standardised data.
        iterations: number of iterations of conjugate gradients; one is enough if :math:`A A^\top` is a multiple of the
            identity.
    """

    def __init__(self, spread: float = 1.0, iterations: int = 5) -> None:
        super().__init__(iterations)
        self.spread = in_range("spread", spread, above=0)

    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        return expand(self._of_x0(sde, t), v) * v

    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        if problem.measurement.gain is None:
            raise UserError(
                "sampler=twisted needs a measurement with A A^T = c I, such as inpaint: use another sampler"
            )
        return problem.noise**2 + problem.measurement.gain * self._of_x0(sde, t)

    def _of_x0(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """Returns the variance of x_0 given x_t, shaped like ``t``."""
        sigma, data = sde.sigma(t) ** 2, (self.spread * sde.alpha(t)) ** 2
        return self.spread**2 * sigma / (sigma + data)


def solve(system: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Solves ``system(v) = b`` for v, ``(B, …)``, by conjugate gradients from zero, separately for each row.

    ``system`` is a linear map of each row, symmetric and positive definite.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return expand((u * v).flatten(1).sum(1), u)

    v, residual = torch.zeros_like(b), b
    direction, size = residual, dot(residual, residual)
    for _ in range(iterations):
        image = system(direction)
        curvature = dot(direction, image)
        # Stop a row if it is solved, to avoid 0 / 0, or if the Jacobian of a network gives a negative curvature.
        going = (curvature > 0) & (size > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        v, residual = v + step * direction, residual - step * image
        size, before = dot(residual, residual), size
        direction = residual + torch.where(going, size / torch.where(going, before, 1.0), 0.0) * direction
    return v
