r"""The weight :math:`\lambda(t)` of the loss.

The weight decides which noise levels the network learns well. With the conditional score of the kernel as target,
:math:`E\|\nabla \log p_{t|0}\|^2 = d/\sigma_t^2`, so that only the smallest t have an effect if the weight is
constant. (The paper says that the weight damps "the beginning of training", which means small *t*, not early epochs.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.sde.base import SDE, LinearSDE, S
from sdegen.training.levels import NoiseLevels


class Weighting(ABC, Generic[S]):
    """Weight of the loss, a positive function of time.

    Attributes:
        process: type of process that the weighting works with.
    """

    process: type[SDE] = SDE

    @abstractmethod
    def __call__(self, sde: S, t: Tensor) -> Tensor:
        """Returns λ(t), shaped like ``t``."""


class Uniform(Weighting[SDE]):
    r"""The weight :math:`\lambda = 1`; according to the paper, training with this weight does not work."""

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class Variance(Weighting[LinearSDE]):
    r"""The paper's weight :math:`\lambda = \sigma_t^2 \propto 1 / E\|\nabla \log p_{t|0}\|^2`: all t count equally."""

    process = LinearSDE

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return sde.sigma(t) ** 2


class Likelihood(Weighting[SDE]):
    r"""The weight :math:`\lambda = g(t)^2`, for which the loss bounds the negative log-likelihood.

    Reference: Song et al. (2021), Maximum likelihood training of score-based diffusion models,
    https://arxiv.org/abs/2101.09258
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.diffusion(t) ** 2


class Velocity(Weighting[SDE]):
    r"""The weight :math:`\lambda = g^4/4`, which is the loss of flow matching.

    The velocity of the flow is :math:`v = f - \tfrac12 g^2 s`, so an error :math:`\delta s` of the score is an error
    :math:`-\tfrac12 g^2\, \delta s` of the velocity. For denoising, the weighted loss is therefore the squared distance
    to the velocity :math:`\dot\alpha_t x_0 + \dot\sigma_t z` of the path.

    Reference: Lipman et al. (2023), Flow matching for generative modeling, https://arxiv.org/abs/2210.02747
    """

    def __call__(self, sde: SDE, t: Tensor) -> Tensor:
        return sde.diffusion(t) ** 4 / 4


class EDM(Weighting[LinearSDE]):
    r"""The weight of EDM, with its log-normal density of the noise level :math:`\tilde\sigma = \sigma_t/\alpha_t`.

    .. math:: E_{\log \tilde\sigma}\, \frac{\tilde\sigma^2 + \sigma_d^2}{(\tilde\sigma \sigma_d)^2}
              \left\| D_\theta - x_0 \right\|^2, \qquad
              D_\theta - x_0 = \frac{\sigma_t^2}{\alpha_t} (s_\theta - \nabla \log p_{0t}), \quad
              \log \tilde\sigma \sim N(P_{mean}, P_{std}^2)

    The density is truncated to the noise levels of :math:`[\varepsilon, T]`, and is a part of λ(t) for uniform times:
    with :math:`p(t)` as its density of t, :math:`\lambda = (T - \varepsilon)\, p(t)\,
    (\tilde\sigma^2 + \sigma_d^2) \sigma_t^2 / \sigma_d^2`. With ``times=log_normal``, which draws the times from this
    density, the steps are those of EDM.

    Reference: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1

    Args:
        p_mean: mean of :math:`\log \tilde\sigma`.
        p_std: standard deviation of :math:`\log \tilde\sigma`.
        sigma_data: standard deviation :math:`\sigma_d` of the data, in the network's units.
    """

    process = LinearSDE

    def __init__(self, p_mean: float = -1.2, p_std: float = 1.2, sigma_data: float = 1.0) -> None:
        self.p_mean, self.p_std = p_mean, in_range("p_std", p_std, above=0)
        self.sigma_data = in_range("sigma_data", sigma_data, above=0)

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        level = sde.sigma(t) / sde.alpha(t)
        factor = (1 + (level / self.sigma_data) ** 2) * sde.sigma(t) ** 2
        return NoiseLevels(sde, self.p_mean, self.p_std, prefix="p_").density(t) * factor
