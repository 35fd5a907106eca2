r"""Guidance by a measurement, with a Gaussian approximation of :math:`x_0` given :math:`x_t = x`.

The likelihood of a measurement needs the distribution of :math:`x_0` given :math:`x_t`. A score gives only the mean
:math:`\hat x = (x + \sigma^2 s)/\alpha` and the covariance :math:`(\sigma^2/\alpha)\, \partial \hat x/\partial x`
of this distribution. With a Gaussian of this mean and a covariance V, the linearisation
:math:`H(x_0) \approx H(\hat x) + J (x_0 - \hat x)`, and the covariance R of the noise,

.. math:: \nabla_x \log p_t(y \mid x) \approx \left(\frac{\partial \hat x}{\partial x}\right)^\top J^\top
          (R + J V J^\top)^{-1} (y - H(\hat x)).

For a linear measurement, H and J are the matrix A. The Gaussian methods differ in V.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.core.tensors import expand
from sdegen.guidance.posterior import Method, Problem
from sdegen.sde.base import LinearSDE, Score
from sdegen.sde.scores import GuidedScore, Parts, of_rows

MOST_NUMBERS = 64
"""Largest number of measured numbers whose covariance matrix is computed."""


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
    def factor(self, sde: LinearSDE, t: Tensor, gain: float | None) -> Tensor | None:
        r"""Returns q with :math:`J V J^\top = q I`, shaped like ``t``; None if there is no such q.

        ``gain`` is the gain of the measurement.
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
        own, pull, _, _ = self._pulled(x, t)
        return own + pull

    def of(self, row: Tensor) -> Measured:
        return Measured(self.method, self.sde, of_rows(self.score, row), self.problem)

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        measurement, y, noise = self.problem
        own, pull, mean, carried = self._pulled(x, t)
        spread = self.method.factor(self.sde, t, measurement.gain)
        spread = matrix(carried, mean) if spread is None else spread
        return Parts(own, pull, noise.log_likelihood(y.to(x), mean, spread))

    def _pulled(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Callable[[Tensor], Tensor]]:
        r"""Returns the score, the gradient of the log-likelihood of y, :math:`H(\hat x)`, and :math:`J V J^\top`."""
        sde, (measurement, y, noise) = self.sde, self.problem
        alpha, variance = expand(sde.alpha(t), x), expand(sde.sigma(t), x) ** 2
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            own = self.score(point, t)
            mean = (point + variance * own) / alpha
        value, forward, adjoint = measurement.linearised(mean.detach())
        own_variance = noise.variance(value)

        def pull(v: Tensor) -> Tensor:
            return torch.autograd.grad(mean, point, v, retain_graph=True)[0]

        def carried(v: Tensor) -> Tensor:
            return forward(self.method.covariance(sde, t, pull, adjoint(v)))

        solved = solve(own_variance, carried, y.to(x) - value, self.method.iterations)
        return own.detach(), pull(adjoint(solved)), value, carried


class Moments(GaussianMethod):
    r"""Method with the full covariance of x_0 given x_t, from the Jacobian of the score.

    .. math:: V = \frac{\sigma_t^2}{\alpha_t} \frac{\partial \hat x}{\partial x}

    It is exact for a linear measurement of Gaussian data if there are as many iterations as measured numbers. Each
    iteration costs a backward pass.

    Reference: Rozet et al. (2024), https://arxiv.org/abs/2405.13712; Boys et al. (2023), https://arxiv.org/abs/2310.06721

    Args:
        iterations: number of iterations of conjugate gradients.
    """

    def __init__(self, iterations: int = 3) -> None:
        super().__init__(iterations)

    def covariance(self, sde: LinearSDE, t: Tensor, pull: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        return expand(sde.sigma(t) ** 2 / sde.alpha(t), v) * pull(v)

    def factor(self, sde: LinearSDE, t: Tensor, gain: float | None) -> None:
        return None


class Isotropic(GaussianMethod):
    r"""ΠGDM, the method with one variance for all directions.

    It is exact for a linear measurement of Gaussian data with the covariance c² I.

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

    def factor(self, sde: LinearSDE, t: Tensor, gain: float | None) -> Tensor | None:
        return None if gain is None else gain * self._of_x0(sde, t)

    def _of_x0(self, sde: LinearSDE, t: Tensor) -> Tensor:
        """Returns the variance of x_0 given x_t, shaped like ``t``."""
        sigma, data = sde.sigma(t) ** 2, (self.spread * sde.alpha(t)) ** 2
        return self.spread**2 * sigma / (sigma + data)


def matrix(carried: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Returns the matrices ``(B, m, m)`` float64 of a linear map of rows with the shape of ``like``, ``(B, …)``."""
    m = like[0].numel()
    if m > MOST_NUMBERS:
        raise UserError(
            f"sampler=twisted needs the covariance of {m} measured numbers, and {MOST_NUMBERS} are the limit: use "
            f"guidance/method=isotropic with inpaint, super_resolution or colourise, or another sampler"
        )
    identity = torch.eye(m, dtype=like.dtype, device=like.device).reshape(m, 1, *like.shape[1:])
    columns = [carried(unit.expand_as(like)).flatten(1) for unit in identity]
    found = torch.stack(columns, dim=2).double()
    return 0.5 * (found + found.mT)


def solve(noise: Tensor | float, carried: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    r"""Solves :math:`(R + J V J^\top) v = b` for v, ``(B, …)``, by conjugate gradients from zero, each row by itself.

    There is no step along a direction d with :math:`d^\top (R + J V J^\top) d < \tfrac12 d^\top R d`. Then V is no
    covariance, because the score is not exact, and the step would be too long. The row goes on along its residual; it
    ends if d was the residual already.

    Args:
        noise: variances R of the noise, a number or ``(B, …)``.
        carried: product with :math:`J V J^\top`.
        b: right side, ``(B, …)``.
        iterations: number of iterations.
    """

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return expand((u * v).flatten(1).sum(1), u)

    v, residual = torch.zeros_like(b), b
    direction, size = residual, dot(residual, residual)
    for _ in range(iterations):
        own = noise * direction
        image = own + carried(direction)
        curvature = dot(direction, image)
        # Leave out a row that is solved, to avoid 0 / 0. Half of R leaves room for rounding errors.
        going = (curvature > 0.5 * dot(direction, own)) & (size > 0)
        step = torch.where(going, size / torch.where(going, curvature, 1.0), 0.0)
        v, residual = v + step * direction, residual - step * image
        size, before = dot(residual, residual), size
        direction = residual + torch.where(going, size / torch.where(going, before, 1.0), 0.0) * direction
    return v
