r"""Parametrizations, which turn the output of a network into a score.

With :math:`x_t = \alpha_t x_0 + \sigma_t z`, a network F(x, t) may estimate one of several quantities. The
parametrization turns F into the score :math:`s = \nabla_x \log p_t(x)` of a linear SDE; ``raw`` and ``residual`` work
for any SDE.

==========  =====================================  ======================================================
name        F estimates                            s
==========  =====================================  ======================================================
raw         score                                  F
residual    score minus the score of the prior     ∇ log π(x) + F, with the prior π
noise       E[z | x]                               −F / σ
data        E[x_0 | x]                             (α F − x) / σ²
velocity    E[α z − σ x_0 | x]                     −(σ x + α F) / (σ (α² + σ²))
karras      E[x_0 | x] minus the value for         −x / v + α σ_d F(x/√v, ¼ log(σ/α)) / (σ √v),
            x_0 ~ N(0, σ_d²), scaled so that the   v = σ² + α² σ_d²
            training target has unit variance
gaussian    as karras, for a Gaussian x_0 with     formula along the principal axes of the data: see
            the mean and covariance of the data,   :class:`~sdegen.models.Gaussian`
            also given the condition
==========  =====================================  ======================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, NamedTuple

from torch import Tensor, nn

from sdegen.core.checks import in_range
from sdegen.core.tensors import expand
from sdegen.sde.base import SDE, LinearSDE, S
from sdegen.sde.change import Change

Output = Callable[[Tensor, Tensor], Tensor]
"""A network as a function of ``(x, t)``: the network itself, or the network given a condition."""


class Parametrization(ABC, Generic[S]):
    """The meaning of a network's output.

    Attributes:
        process: type of process that the parametrization works with.
    """

    process: type[SDE] = SDE

    @abstractmethod
    def __call__(self, network: Output, sde: S, x: Tensor, t: Tensor) -> Tensor:
        """Returns the score ``(B, *)`` at ``x`` ``(B, *)`` and ``t``, ``()`` or ``(B,)``."""

    def given(self, y: Tensor) -> Parametrization[S]:
        """Returns the parametrization of the score given the numbers of the condition, ``(k,)`` or ``(B, k)``.

        NaN means that the numbers are hidden. Most parametrizations do not depend on the condition.
        """
        return self


class Terms(NamedTuple):
    """Input ``x`` ``(B, *)`` and ``t`` of a network F, and the coefficients of the score ``constant + gain * F(x, t)``.

    The product is taken entry by entry: ``constant`` and ``gain`` broadcast against ``(B, *)``.
    """

    x: Tensor
    t: Tensor
    constant: Tensor
    gain: Tensor


class Affine(Parametrization[S]):
    """A parametrization in which, along orthonormal axes, each entry of the score is affine in the same entry of F."""

    @abstractmethod
    def terms(self, sde: S, x: Tensor, t: Tensor) -> Terms:
        """Returns the terms of the score along the axes, at ``x`` ``(B, *)`` and ``t``, ``()`` or ``(B,)``."""

    def along(self, x: Tensor) -> Tensor:
        """Returns the coordinates ``(B, *)`` along the axes of vectors ``x`` ``(B, *)``."""
        return x

    def back(self, x: Tensor) -> Tensor:
        """Returns the vectors that have the coordinates ``x`` along the axes. It is the inverse of :meth:`along`."""
        return x

    def __call__(self, network: Output, sde: S, x: Tensor, t: Tensor) -> Tensor:
        terms = self.terms(sde, x, t)
        return self.back(terms.constant + terms.gain * network(terms.x, terms.t))


class Raw(Affine[SDE]):
    """The parametrization of the paper: the network's output is the score."""

    def terms(self, sde: SDE, x: Tensor, t: Tensor) -> Terms:
        return Terms(x, t, x.new_zeros(()), x.new_ones(()))


class Residual(Affine[SDE]):
    r"""The parametrization by the difference from the score of the prior: :math:`s = \nabla \log \pi(x) + F`.

    For a nonlinear SDE with the drift :math:`\tfrac12 g^2 \nabla \log \pi`, as in
    :class:`~sdegen.sde.nonlinear.DoubleWell`, the flow is then :math:`-\tfrac12 g^2 F`. A network for the whole score
    would have to cancel the cubic drift exactly; otherwise, samples far from the data would diverge.
    """

    def terms(self, sde: SDE, x: Tensor, t: Tensor) -> Terms:
        return Terms(x, t, sde.prior_score(x), x.new_ones(()))


class Noise(Affine[LinearSDE]):
    r"""The parametrization by the noise :math:`z`: :math:`s = -F/\sigma_t` (Ho et al. 2020)."""

    process = LinearSDE

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        return Terms(x, t, x.new_zeros(()), -1 / expand(sde.sigma(t), x))


class Data(Affine[LinearSDE]):
    r"""The parametrization by the clean data: :math:`s = (\alpha_t F - x)/\sigma_t^2` (Tweedie's formula)."""

    process = LinearSDE

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        alpha, variance = expand(sde.alpha(t), x), expand(sde.sigma(t), x) ** 2
        return Terms(x, t, -x / variance, alpha / variance)


class Velocity(Affine[LinearSDE]):
    r"""The parametrization by :math:`\alpha_t z - \sigma_t x_0` (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512)."""

    process = LinearSDE

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        v = alpha**2 + sigma**2
        return Terms(x, t, -x / v, -alpha / (sigma * v))


class Karras(Affine[LinearSDE]):
    r"""The preconditioning of EDM, with which inputs and targets have unit variance at every t.

    .. math:: s = -\frac{x}{v} + \frac{\alpha \sigma_d}{\sigma \sqrt v} \,
              F\!\left(\frac{x}{\sqrt v}, \tfrac14 \log\frac{\sigma}{\alpha}\right), \qquad
              v = \sigma^2 + \alpha^2 \sigma_d^2

    A network with the output 0 gives the exact score of Gaussian data with standard deviation :math:`\sigma_d`.

    Reference: Karras et al. (2022), table 1, https://arxiv.org/abs/2206.00364

    Args:
        sigma_data: standard deviation :math:`\sigma_d` of the data in the network's units; 1 for standardised data.
    """

    process = LinearSDE

    def __init__(self, sigma_data: float = 1.0) -> None:
        self.sigma_data = in_range("sigma_data", sigma_data, above=0)

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        v = sigma**2 + (self.sigma_data * alpha) ** 2
        gain = self.sigma_data * alpha * v.rsqrt() / sigma
        seen = x * expand(v.rsqrt(), x)
        return Terms(seen, 0.25 * (sigma / alpha).log(), -x / expand(v, x), expand(gain, x))


class Moved(Parametrization[LinearSDE], nn.Module):
    """Parametrization of a network that was trained along another path: see :mod:`sdegen.sde.change`.

    Args:
        inner: parametrization of the training.
        trained: process of the training.
    """

    process = LinearSDE

    def __init__(self, inner: Parametrization, trained: LinearSDE) -> None:
        super().__init__()
        self.inner, self.trained = inner, trained

    def __call__(self, network: Output, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        point = Change(sde, self.trained)(x, t)
        return point.factor * self.inner(network, self.trained, point.x, point.t)

    def given(self, y: Tensor) -> Moved:
        return Moved(self.inner.given(y), self.trained)
