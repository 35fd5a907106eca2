r"""Forward processes :math:`dx = f(x, t) dt + g(t) dw` on :math:`[\varepsilon, T]`, and their reversal.

A *score* is any callable ``(x, t) -> ∇ₓ log p_t(x)`` with ``x`` of shape ``(B, *)`` and ``t`` of shape ``()`` or
``(B,)``. Time is in units of the horizon: :math:`T = 1`.

Reference: Song et al. (2021), https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand, squared_norm

Score = Callable[[Tensor, Tensor], Tensor]

S = TypeVar("S", bound="SDE", contravariant=True)
"""The processes that a part works with: ``SDE`` for any, ``LinearSDE`` for those with a closed-form kernel."""


class SDE(ABC):
    r"""A diffusion :math:`dx = f(x, t) dt + g(t) dw` that turns data at :math:`\varepsilon` into a prior at :math:`T`.

    Args:
        eps: the smallest time, :math:`0 < \varepsilon < 1`, where training and sampling stop.
    """

    T = 1.0

    def __init__(self, eps: float = 1e-5) -> None:
        if not 0 < eps < self.T:
            raise ValueError(f"eps={eps:g} must lie between 0 and T = 1: try eps=1e-5")
        self.eps = eps

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t): ``(B, *)`` and ``()`` or ``(B,)`` to ``(B, *)``."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """g(t), shaped like ``t``."""

    @abstractmethod
    def perturb(self, x0: Tensor, t: Tensor, randn_like: RandnLike) -> Tensor:
        """A draw of x(t) given x(0) = ``x0``."""

    @abstractmethod
    def sample_prior(self, x: Tensor, randn_like: RandnLike) -> Tensor:
        """Draws from the prior that stands for p_T, shaped and typed like ``x``."""

    @abstractmethod
    def log_prior(self, x: Tensor) -> Tensor:
        """Log-density of the prior, in nats: ``(B, *)`` to ``(B,)``."""

    def prior_score(self, x: Tensor) -> Tensor:
        """The score of the prior, ``(B, *)`` to ``(B, *)``, with a graph where ``x`` requires its gradient."""
        with torch.enable_grad():
            point = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self.log_prior(point).sum(), point, create_graph=x.requires_grad)[0]

    def reverse(self, score: Score, eta: float = 1.0) -> ReverseSDE:
        """The process that runs from T back to eps, driven by ``score``."""
        return ReverseSDE(self, score, eta)

    @property
    def linear(self) -> LinearSDE | None:
        """The process itself where its kernel is closed form, else None."""
        return None

    @classmethod
    def measure(cls, x: Tensor) -> dict[str, float]:
        """Values for the options that a configuration leaves to ``auto``, measured on the data ``(N, *)``."""
        return {}


class LinearSDE(SDE):
    r"""An SDE with :math:`f(x, t) = a(t) x`, whose perturbation kernel is closed form.

    .. math:: p_{0t}(x_t \mid x_0) = N(\alpha_t x_0, \sigma_t^2 I), \qquad
              \alpha' = a \alpha, \quad (\sigma^2)' = 2 a \sigma^2 + g^2

    It follows that the log noise-to-signal ratio :math:`u(t) = \log(\sigma_t^2 / \alpha_t^2)` has
    :math:`u' = g^2 / \sigma^2 > 0`; its inverse is closed form for every SDE here, and serves both the
    importance sampling of t and time grids.

    Attributes:
        smooth: whether f and g are smooth in t, on which the order of a sampler rests.
    """

    smooth = True

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """a(t) = f(x, t) / x, shaped like ``t``."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Mean factor of the kernel, shaped like ``t``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the kernel, shaped like ``t``."""

    @abstractmethod
    def time(self, u: Tensor) -> Tensor:
        r"""The t at which :math:`\log(\sigma_t^2/\alpha_t^2)` is ``u``."""

    @property
    @abstractmethod
    def prior_std(self) -> float:
        """Standard deviation of the Gaussian prior at T."""

    def log_nsr(self, t: Tensor) -> Tensor:
        r"""The log noise-to-signal ratio :math:`u(t) = \log(\sigma_t^2/\alpha_t^2)`, increasing in t."""
        return 2 * (self.sigma(t).log() - self.alpha(t).log())

    @property
    def linear(self) -> LinearSDE:
        return self

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""The factor a and the variance q of the kernel :math:`N(a x_s, q I)` of x(t) given x(s), s < t."""
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
    r"""The reversal of an SDE, one member of a family for each :math:`\eta \ge 0`.

    .. math:: dx = \left[f(x, t) - \tfrac12 (1 + \eta^2) g(t)^2 \nabla \log p_t(x)\right] dt + \eta\, g(t)\, d\bar w,
              \qquad dt < 0

    All have the marginals of the forward process: :math:`\eta = 1` is the reverse SDE of Anderson (1982),
    :math:`\eta = 0` the probability-flow ODE. (The paper prints :math:`\tfrac12 g` for the flow; it is
    :math:`\tfrac12 g^2`.)

    Args:
        sde: the forward process.
        score: ``(x, t) -> ∇ log p_t(x)``.
        eta: how much noise is put back.
    """

    def __init__(self, sde: SDE, score: Score, eta: float = 1.0) -> None:
        if eta < 0:
            raise ValueError(f"eta={eta:g} must not be negative")
        self.sde, self.score, self.eta = sde, score, eta

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The bracket above, at one evaluation of the score."""
        g = self.sde.diffusion(t)
        pull = expand(0.5 * (1 + self.eta**2) * g * g, x)
        return torch.addcmul(self.sde.drift(x, t), pull, self.score(x, t), value=-1.0)

    def diffusion(self, t: Tensor) -> Tensor:
        """η g(t), shaped like ``t``."""
        return self.eta * self.sde.diffusion(t)
