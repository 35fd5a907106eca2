r"""Forward processes :math:`dx = f(x, t) dt + g(t) dw` on :math:`[\varepsilon, T]`, and their reverse processes.

A *score* is any callable ``(x, t) -> ∇ₓ log p_t(x)`` with ``x`` of shape ``(B, *)`` and ``t`` of shape ``()`` or
``(B,)``. The largest time T is 1, unless a process ends earlier: see :class:`~sdegen.sde.paths.GaussianPath`.

Reference: Song et al. (2021), https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand, squared_norm

Score = Callable[[Tensor, Tensor], Tensor]

S = TypeVar("S", bound="SDE", contravariant=True)
"""Type of process that a class works with: ``SDE``, or ``LinearSDE`` if the class needs a closed-form kernel."""


class SDE(ABC):
    r"""A diffusion :math:`dx = f(x, t) dt + g(t) dw` that turns data at 0 into a prior at :math:`T`.

    Args:
        eps: smallest time :math:`\varepsilon` of training and sampling, above 0 and below T.

    Attributes:
        T: largest time.
    """

    T: float = 1.0

    def __init__(self, eps: float = 1e-5) -> None:
        self.eps = in_range("eps", eps, above=0, below=self.T, fix=", which is T: try eps=1e-5")

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns f(x, t), ``(B, *)``, at ``x`` ``(B, *)`` and ``t``, ``()`` or ``(B,)``."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """Returns g(t), shaped like ``t``."""

    @abstractmethod
    def perturb(self, x0: Tensor, t: Tensor, randn_like: RandnLike) -> Tensor:
        """Draws x(t) given x(0) = ``x0``."""

    @abstractmethod
    def sample_prior(self, x: Tensor, randn_like: RandnLike) -> Tensor:
        """Draws points of the prior, with the shape and type of ``x``. The prior approximates p_T."""

    @abstractmethod
    def log_prior(self, x: Tensor) -> Tensor:
        """Returns the log-density ``(B,)`` of the prior at ``x`` ``(B, *)``, in nats."""

    def prior_score(self, x: Tensor) -> Tensor:
        """Returns the score of the prior at ``x`` ``(B, *)``. The result has a graph if ``x`` requires a gradient."""
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self.log_prior(point).sum(), point, create_graph=x.requires_grad)[0]

    def reverse(self, score: Score, eta: float = 1.0) -> ReverseSDE:
        """Returns the reverse process, from T to eps, with a score and an amount of noise ``eta``."""
        return ReverseSDE(self, score, eta)

    @property
    def linear(self) -> LinearSDE | None:
        """The process itself if its kernel has a closed form, else None."""
        return None

    @classmethod
    def measure(cls, x: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns values for options with the value ``auto``, from data ``x`` ``(N, *)`` and from the other options."""
        return {}


class LinearSDE(SDE):
    r"""An SDE with :math:`f(x, t) = a(t) x`, whose perturbation kernel has a closed form.

    .. math:: p_{0t}(x_t \mid x_0) = N(\alpha_t x_0, \sigma_t^2 I), \qquad \alpha_0 = 1, \quad \sigma_0 = 0

    A subclass defines :meth:`alpha` and :meth:`sigma`. Then a and g follow from :math:`u(t) = \log(\sigma_t^2 /
    \alpha_t^2)`, the logarithm of the squared noise-to-signal ratio, which must increase in t:

    .. math:: a = (\log \alpha)', \qquad g^2 = (\sigma^2)' - 2 a \sigma^2 = \sigma^2 u'

    Autograd computes the derivatives, and bisection in float64 the inverse of u. A subclass may replace
    :meth:`rate`, :meth:`diffusion`, :meth:`time` and :attr:`prior_std` by closed forms, which are faster.

    Attributes:
        smooth: True if f and g are smooth in t. Only then do samplers reach their order.
    """

    smooth = True
    BISECTIONS = 50

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Returns the factor of x(0) in the mean of the kernel, shaped like ``t``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Returns the standard deviation of the kernel, shaped like ``t``."""

    def rate(self, t: Tensor) -> Tensor:
        """Returns a(t) = f(x, t) / x, shaped like ``t``."""
        return derivative(lambda t: self.alpha(t).log(), t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * derivative(self.log_nsr, t).sqrt()

    def log_nsr(self, t: Tensor) -> Tensor:
        r"""Returns :math:`u(t) = \log(\sigma_t^2/\alpha_t^2)`, shaped like ``t``, which increases in t."""
        return 2 * (self.sigma(t).log() - self.alpha(t).log())

    def time(self, u: Tensor) -> Tensor:
        r"""Returns the time t at which :math:`\log(\sigma_t^2/\alpha_t^2)` is ``u``."""
        low = torch.zeros_like(u, dtype=torch.float64)
        high = torch.full_like(low, self.T)
        for _ in range(self.BISECTIONS):
            middle = 0.5 * (low + high)
            later = self.log_nsr(middle) < u
            low, high = torch.where(later, middle, low), torch.where(later, high, middle)
        return high.to(u)

    @property
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian prior at T."""
        return float(self.sigma(torch.tensor(self.T, dtype=torch.float64)))

    @property
    def linear(self) -> LinearSDE:
        return self

    def within(self, other: LinearSDE) -> Self:
        """Returns this process between the times at which another process has the same noise-to-signal ratios."""
        ends = other.log_nsr(torch.tensor([other.eps, other.T], dtype=torch.float64))
        first, last = self.time(ends).tolist()
        cut = copy.copy(self)
        cut.eps, cut.T = max(self.eps, first), rounded_down(min(self.T, last))
        return cut

    def prior_gap(self, square: float, dimensions: int) -> float:
        r"""Returns a bound on the KL divergence of the prior from :math:`p_T`, in nats, for data of any distribution.

        Since :math:`p_T` is a mixture of the kernels,

        .. math:: KL(p_T \,\|\, \pi) \le E_{x_0} KL(N(\alpha x_0, \sigma^2 I) \,\|\, N(0, p^2 I))
                  = \tfrac12 \left[ \alpha^2 E\|x_0\|^2 / p^2 + d\, (r - 1 - \log r) \right], \qquad r = \sigma^2/p^2.

        Args:
            square: mean of the squared norm of the data, :math:`E\|x_0\|^2`.
            dimensions: number of dimensions d of one data point.
        """
        t = torch.tensor(self.T, dtype=torch.float64)
        signal, noise = (float(c / self.prior_std) ** 2 for c in (self.alpha(t), self.sigma(t)))
        return 0.5 * (signal * square + dimensions * (noise - 1 - math.log(noise)))

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns a and q in the distribution :math:`N(a x_s, q I)` of x(t) given x(s), with s < t."""
        factor = self.alpha(t) / self.alpha(s)
        return factor, self.sigma(t) ** 2 - (factor * self.sigma(s)) ** 2

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return expand(self.rate(t), x) * x

    def perturb(self, x0: Tensor, t: Tensor, randn_like: RandnLike) -> Tensor:
        return expand(self.alpha(t), x0) * x0 + expand(self.sigma(t), x0) * randn_like(x0)

    def sample_prior(self, x: Tensor, randn_like: RandnLike) -> Tensor:
        return self.prior_std * randn_like(x)

    def log_prior(self, x: Tensor) -> Tensor:
        dimensions = x[0].numel()
        normaliser = dimensions * (0.5 * math.log(2 * math.pi) + math.log(self.prior_std))
        return -0.5 * squared_norm(x) / self.prior_std**2 - normaliser


class ReverseSDE:
    r"""Reverse process of an SDE, with an amount of noise :math:`\eta \ge 0`.

    .. math:: dx = \left[f(x, t) - \tfrac12 (1 + \eta^2) g(t)^2 \nabla \log p_t(x)\right] dt + \eta\, g(t)\, d\bar w,
              \qquad dt < 0

    With the exact score, the process has the marginals of the forward process for every :math:`\eta`. It is the reverse
    SDE of Anderson (1982) for :math:`\eta = 1` and the probability-flow ODE for :math:`\eta = 0`. (The paper prints
    :math:`\tfrac12 g` for the flow; the correct factor is :math:`\tfrac12 g^2`.)

    Args:
        sde: forward process.
        score: score ``(x, t) -> ∇ log p_t(x)``.
        eta: amount of noise, at least 0.
    """

    def __init__(self, sde: SDE, score: Score, eta: float = 1.0) -> None:
        self.sde, self.score, self.eta = sde, score, in_range("eta", eta, at_least=0)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the bracket in the formula of the class. The score is evaluated once."""
        g = self.sde.diffusion(t)
        pull = expand(0.5 * (1 + self.eta**2) * g * g, x)
        return torch.addcmul(self.sde.drift(x, t), pull, self.score(x, t), value=-1.0)

    def diffusion(self, t: Tensor) -> Tensor:
        """Returns η g(t), shaped like ``t``."""
        return self.eta * self.sde.diffusion(t)


def rounded_down(t: float) -> float:
    """Returns the largest number of float32 that is at most ``t``, so that no time in float32 exceeds it."""
    near = torch.tensor(t, dtype=torch.float32)
    return float(near if float(near) <= t else near.nextafter(near.new_zeros(())))


def most_special(*processes: type[SDE]) -> type[SDE]:
    """Returns the most derived type. A process of this type works with classes for any of the types."""
    return max(processes, key=lambda process: len(process.__mro__))


@torch.enable_grad()
def derivative(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Returns the derivative of a scalar function at each of the times ``t``, computed in float64."""
    point = t.detach().double().requires_grad_()
    # The second term gives the value of a constant function a graph.
    value = function(point) + 0 * point
    return torch.autograd.grad(value.sum(), point)[0].to(t.dtype)
