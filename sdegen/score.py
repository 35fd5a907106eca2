r"""From the output of a network to a score: the parametrizations, and the model that training and sampling share.

With :math:`x_t = \alpha_t x_0 + \sigma_t z`, a network F(x, t) may stand for several things. Each
parametrization turns it into the score :math:`s = \nabla_x \log p_t(x)`, for every linear SDE, the first two for any:

==========  =====================================  ======================================================
name        F estimates                            s
==========  =====================================  ======================================================
raw         the score                              F
residual    the score beyond that of the prior π   ∇ log π(x) + F
noise       E[z | x]                               −F / σ
data        E[x_0 | x]                             (α F − x) / σ²
velocity    E[α z − σ x_0 | x]                     −(σ x + α F) / (σ (α² + σ²))
karras      the part of the data that a Gaussian   −x / v + α σ_d F(x/√v, ¼ log(σ/α)) / (σ √v),
            guess misses, at unit variance         v = σ² + α² σ_d²
==========  =====================================  ======================================================

The score is the currency of the package: a trained :class:`ScoreModel`, an exact mixture and any callable
``(x, t) -> (B, *)`` are interchangeable in samplers, likelihoods and figures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Generic

from torch import Tensor, nn

from sdegen.networks.base import Network
from sdegen.schema import FromRun
from sdegen.sde.base import SDE, LinearSDE, S, Score
from sdegen.tensor import expand

Output = Callable[[Tensor, Tensor], Tensor]
"""What a network gives at ``(x, t)``: the network itself, or one that was told a class."""


class Parametrization(ABC, Generic[S]):
    """What the output of a network stands for.

    Attributes:
        kernel: empty where any SDE will do; else the words of what to use in its place where the SDE has no
            closed-form kernel.
        affine: whether the score is affine in what the network gives, entry by entry, as in all those of the table.
    """

    kernel = ""
    affine = False

    @abstractmethod
    def __call__(self, network: Output, sde: S, x: Tensor, t: Tensor) -> Tensor:
        """The score: ``(B, *)`` and ``()`` or ``(B,)`` to ``(B, *)``."""


class Raw(Parametrization[SDE]):
    """The network is the score, as the paper writes it. Any SDE will do."""

    affine = True

    def __call__(self, network: Output, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
        return network(x, t)


class Residual(Parametrization[SDE]):
    r"""The network estimates what the score has beyond that of the prior: :math:`s = \nabla \log \pi(x) + F`.

    For a nonlinear SDE far more than a start: where its drift is :math:`\tfrac12 g^2 \nabla \log \pi`, as in
    :class:`~sdegen.sde.nonlinear.DoubleWell`, the flow is then :math:`-\tfrac12 g^2 F`. With a network for the whole
    score, a cubic drift that it does not cancel to the last throws outlying samples to infinity. Any SDE will do.
    """

    affine = True

    def __call__(self, network: Output, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
        return sde.prior_score(x) + network(x, t)


class Noise(Parametrization[LinearSDE]):
    r"""The network estimates the noise :math:`z`: :math:`s = -F/\sigma_t` (Ho et al. 2020)."""

    kernel = "use parametrization=residual or parametrization=raw"
    affine = True

    def __call__(self, network: Output, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        return network(x, t) / -expand(sde.sigma(t), x)


class Data(Parametrization[LinearSDE]):
    r"""The network estimates the clean data: :math:`s = (\alpha_t F - x)/\sigma_t^2` (Tweedie's formula)."""

    kernel = "use parametrization=residual or parametrization=raw"
    affine = True

    def __call__(self, network: Output, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        return (alpha * network(x, t) - x) / sigma**2


class Velocity(Parametrization[LinearSDE]):
    r"""The network estimates :math:`\alpha_t z - \sigma_t x_0` (Salimans & Ho 2022, https://arxiv.org/abs/2202.00512)."""

    kernel = "use parametrization=residual or parametrization=raw"
    affine = True

    def __call__(self, network: Output, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = expand(sde.alpha(t), x), expand(sde.sigma(t), x)
        return -(sigma * x + alpha * network(x, t)) / (sigma * (alpha**2 + sigma**2))


class Karras(Parametrization[LinearSDE]):
    r"""The preconditioning of EDM: inputs and targets of unit variance at every t.

    .. math:: s = -\frac{x}{v} + \frac{\alpha \sigma_d}{\sigma \sqrt v} \,
              F\!\left(\frac{x}{\sqrt v}, \tfrac14 \log\frac{\sigma}{\alpha}\right), \qquad
              v = \sigma^2 + \alpha^2 \sigma_d^2

    A network that answers zero gives the exact score of Gaussian data. Reference: Karras et al. (2022), table 1,
    https://arxiv.org/abs/2206.00364

    Args:
        sigma_data: :math:`\sigma_d`, the standard deviation of the data as the network meets them; 1 where they
            are standardised.
    """

    kernel = "use parametrization=residual or parametrization=raw"
    affine = True

    def __init__(self, sigma_data: float = 1.0) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data:g} must be above 0")
        self.sigma_data = sigma_data

    def __call__(self, network: Output, sde: LinearSDE, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        v = sigma**2 + (self.sigma_data * alpha) ** 2
        output = network(x * expand(v.rsqrt(), x), 0.25 * (sigma / alpha).log())
        gain = self.sigma_data * alpha * v.rsqrt() / sigma
        return expand(gain, x) * output - x / expand(v, x)


class ScoreModel(nn.Module, FromRun):
    """A network read as a score: ``(x, t) -> (B, *)``.

    Args:
        network: the trainable function.
        parametrization: what its output stands for.
        sde: the process whose marginals it scores.
    """

    def __init__(self, network: Network, parametrization: Parametrization, sde: SDE) -> None:
        super().__init__()
        self.network, self.parametrization, self.sde = network, parametrization, sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.parametrization(self.network, self.sde, x, t)

    def given(self, y: Tensor) -> Score:
        r"""The score :math:`\nabla_x \log p_t(x \mid y)` of a class, where the network is told it; else the score.

        Args:
            y: the class, ``()`` or one for each row, ``(B,)`` int64; -1 stands for none.
        """
        if self.network.label_dropout is None:
            return self
        return partial(self.parametrization, partial(self.network, y=y), self.sde)
