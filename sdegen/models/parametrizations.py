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

import torch
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
        maps: True if the parametrization has a flow map: see :class:`Mapped`.
    """

    process: type[SDE] = SDE
    maps = False

    @abstractmethod
    def __call__(self, network: Output, sde: S, x: Tensor, t: Tensor) -> Tensor:
        """Returns the score ``(B, *)`` at ``x`` ``(B, *)`` and ``t``, ``()`` or ``(B,)``."""

    def given(self, y: Tensor) -> Parametrization[S]:
        """Returns the parametrization of the score given the numbers of the condition, ``(k,)`` or ``(B, k)``.

        NaN means that the numbers are hidden. Most parametrizations do not depend on the condition.
        """
        return self


class Mapped(Parametrization[LinearSDE]):
    """The meaning of a network's output, from which the flow map of a network of two times follows."""

    process = LinearSDE
    maps = True

    @abstractmethod
    def moved(self, network: Output, sde: LinearSDE, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Returns the flow map of a network of two times: see :meth:`sdegen.models.ScoreModel.moved`."""


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


class Spread(NamedTuple):
    r"""The Gaussian with which a parametrization compares the data, at a time t.

    Attributes:
        mean: mean :math:`\alpha \mu`, which broadcasts against ``(B, *)``.
        std: standard deviations :math:`\sqrt v` along the axes, :math:`v = \alpha^2 \Lambda + \sigma^2`.
        angle: angles :math:`\varphi = \arctan(\sigma / (\alpha \sqrt\Lambda))`, from 0 at the data to :math:`\pi/2`.
    """

    mean: Tensor
    std: Tensor
    angle: Tensor

    @classmethod
    def of(cls, sde: LinearSDE, x: Tensor, t: Tensor, mean: Tensor, deviations: Tensor) -> Spread:
        """Returns the Gaussian of data with this ``mean`` and these ``deviations`` along the axes."""
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        signal = alpha * deviations
        return cls(alpha * mean, torch.hypot(signal, sigma), torch.atan2(sigma, signal))


class Compared(Affine[LinearSDE], Mapped):
    r"""An affine parametrization by the difference from a Gaussian, for which the network has a flow map.

    Let :math:`w = U^\top (x - \alpha \mu) / \sqrt v` be the point in standard deviations of the Gaussian. Along the
    flow, :math:`dw/d\varphi = -F(x, t)`. So the flow of the Gaussian keeps w, and a network that is given the end t of
    the way from s as well, and is the mean of F along the way, has the flow map

    .. math:: w_t = w_s + (\varphi_s - \varphi_t)\, F(x, s, t).

    It is the identity for t = s, where F is the parametrization of the score.
    """

    @abstractmethod
    def spread(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Spread:
        """Returns the Gaussian at the times of the rows of ``x``."""

    def moved(self, network: Output, sde: LinearSDE, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        before, after, terms = self.spread(sde, x, s), self.spread(sde, x, t), self.terms(sde, x, s)
        # The network sees ¼ log(σ/α), of which log_nsr is eight times as much.
        times = (part.to(x).expand(len(x)) for part in (terms.t, 0.125 * sde.log_nsr(t)))
        mean = network(terms.x, torch.stack([*times], dim=1))
        w = self.along(x - before.mean) / before.std + (before.angle - after.angle) * mean
        return after.mean + self.back(after.std * w)


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


class Karras(Compared):
    r"""The preconditioning of EDM, with which inputs and targets have unit variance at every t.

    .. math:: s = -\frac{x}{v} + \frac{\alpha \sigma_d}{\sigma \sqrt v} \,
              F\!\left(\frac{x}{\sqrt v}, \tfrac14 \log\frac{\sigma}{\alpha}\right), \qquad
              v = \sigma^2 + \alpha^2 \sigma_d^2

    A network with the output 0 gives the exact score of Gaussian data with standard deviation :math:`\sigma_d`.

    Reference: Karras et al. (2022), table 1, https://arxiv.org/abs/2206.00364

    Args:
        sigma_data: standard deviation :math:`\sigma_d` of the data in the network's units; 1 for standardised data.
    """

    def __init__(self, sigma_data: float = 1.0) -> None:
        self.sigma_data = in_range("sigma_data", sigma_data, above=0)

    def terms(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Terms:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        v = sigma**2 + (self.sigma_data * alpha) ** 2
        gain = self.sigma_data * alpha * v.rsqrt() / sigma
        seen = x * expand(v.rsqrt(), x)
        return Terms(seen, 0.25 * (sigma / alpha).log(), -x / expand(v, x), expand(gain, x))

    def spread(self, sde: LinearSDE, x: Tensor, t: Tensor) -> Spread:
        return Spread.of(sde, x, t, x.new_zeros(()), x.new_tensor(self.sigma_data))


class Moved(Mapped, nn.Module):
    """Parametrization of a network that was trained along another path: see :mod:`sdegen.sde.change`.

    It has a flow map if that of the training has one.

    Args:
        inner: parametrization of the training.
        trained: process of the training.
    """

    def __init__(self, inner: Parametrization, trained: LinearSDE) -> None:
        super().__init__()
        self.inner, self.trained, self.maps = inner, trained, inner.maps

    def __call__(self, network: Output, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        point = Change(sde, self.trained)(x, t)
        return point.factor * self.inner(network, self.trained, point.x, point.t)

    def moved(self, network: Output, sde: LinearSDE, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        assert isinstance(self.inner, Mapped)
        change = Change(sde, self.trained)
        start, end = change(x, s), change(x, t)
        return self.inner.moved(network, self.trained, start.x, start.t, end.t) / end.factor

    def given(self, y: Tensor) -> Moved:
        return Moved(self.inner.given(y), self.trained)
