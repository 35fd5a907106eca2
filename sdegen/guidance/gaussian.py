r"""Guidance by a measurement, with a Gaussian approximation of the law of :math:`x_0` given :math:`x_t`.

The likelihood of the measurement given a noisy point,

.. math:: p_t(y \mid x) = \int N(y; A x_0, \sigma_y^2 I)\, p(x_0 \mid x)\, dx_0,

needs the law of :math:`x_0` given :math:`x_t = x`. A score gives only its mean
:math:`\hat x = (x + \sigma^2 s)/\alpha` and covariance :math:`(\sigma^2/\alpha)\, \partial \hat x/\partial x`.
With a Gaussian of this mean and a covariance V,

.. math:: \nabla_x \log p_t(y \mid x) \approx \left(\frac{\partial \hat x}{\partial x}\right)^\top A^\top
          (\sigma_y^2 I + A V A^\top)^{-1} (y - A \hat x).

The methods differ in V.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.core.tensors import expand, squared_norm
from sdegen.guidance.posterior import Method, Problem
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.scores import GuidedScore, Parts


class GaussianMethod(Method):
    """A Gaussian approximation of the law of x_0 given x_t, solved by conjugate gradients.

    Args:
        iterations: number of steps of the conjugate gradients.
    """

    def __init__(self, iterations: int) -> None:
        self.iterations = in_range("iterations", iterations, at_least=1)

    @abstractmethod
    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        r"""Returns V v of each row, ``(B, *)``; ``pull`` is :math:`v \mapsto (\partial \hat x/\partial x)^\top v`."""

    def __call__(self, sde: LinearSDE, score: Score, problem: Problem) -> Score:
        return Measured(self, sde, score, problem)

    @abstractmethod
    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        r"""Returns c of :math:`\sigma_y^2 I + A V A^\top = c I`, shaped like ``t``; UserError if there is no such c."""

    def start(self, sde: LinearSDE, problem: Problem, x: Tensor) -> Tensor:
        return x


class Measured(GuidedScore):
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
        """Returns the score, the pull, and the measurement minus the mean's."""
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
    r"""The method with the whole covariance of x_0 given x_t, from the score's Jacobian: exact for Gaussian data.

    .. math:: V = \frac{\sigma_t^2}{\alpha_t} \frac{\partial \hat x}{\partial x}

    It is the best approximation in the table of the documentation. Each iteration costs a backward pass.

    Reference: Rozet et al. (2024), https://arxiv.org/abs/2405.13712; Boys et al. (2023), https://arxiv.org/abs/2310.06721

    Args:
        iterations: number of steps of the conjugate gradients.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__(iterations)

    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        return expand(sde.sigma(t) ** 2 / sde.alpha(t), v) * pull(v)

    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        raise UserError("sampler=twisted needs the likelihood of the measurement: use guidance/method=isotropic")


class Isotropic(GaussianMethod):
    r"""The method with one variance for all directions, exact for uncorrelated Gaussian data: ΠGDM.

    .. math:: V = \frac{c^2 \sigma_t^2}{\sigma_t^2 + c^2 \alpha_t^2} I

    Reference: Song et al. (2023), https://openreview.net/forum?id=9_gsMA8MRKQ

    Args:
        spread: c, the standard deviation of the data in the network's units; 1 if they are standardised.
        iterations: number of steps of the conjugate gradients; one is enough if :math:`A A^\top` is a multiple of the
            identity.
    """

    def __init__(self, spread: float = 1.0, iterations: int = 5) -> None:
        super().__init__(iterations)
        self.spread = in_range("spread", spread, above=0)

    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        return expand(self._of_x0(sde, t), v) * v

    def variance(self, sde: LinearSDE, t: Tensor, problem: Problem) -> Tensor:
        if problem.measurement.gain is None:
            raise UserError("sampler=twisted needs measurements that do not overlap: use another sampler")
        return problem.noise**2 + problem.measurement.gain * self._of_x0(sde, t)

    def _of_x0(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """Returns the variance of x_0 given x_t, shaped like ``t``."""
        sigma, data = sde.sigma(t) ** 2, (self.spread * sde.alpha(t)) ** 2
        return self.spread**2 * sigma / (sigma + data)


def solve(spread: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Solves ``spread(v) = b`` for v by conjugate gradients from zero, row by row: ``(B, …)`` to ``(B, …)``.

    ``spread`` is a symmetric positive map of each row.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1).reshape(-1, *[1] * (u.ndim - 1))

    v, residual = torch.zeros_like(b), b
    direction, size = residual, dot(residual, residual)
    for _ in range(iterations):
        image = spread(direction)
        curvature = dot(direction, image)
        # Rows stop once they are solved, which avoids 0 / 0, and where a network's Jacobian has a negative curvature.
        going = (curvature > 0) & (size > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        v, residual = v + step * direction, residual - step * image
        size, before = dot(residual, residual), size
        direction = residual + torch.where(going, size / torch.where(going, before, 1.0), 0.0) * direction
    return v
