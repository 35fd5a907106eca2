r"""The weight :math:`\lambda(t)` of the loss.

The weight decides which noise levels the network learns well. With the conditional score of the kernel as target,
:math:`E\|\nabla \log p_{t|0}\|^2 = d/\sigma_t^2`, so that only the smallest t have an effect if the weight is
constant. (The paper says that the weight damps "the beginning of training", which means small *t*, not early epochs.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.sde.base import SDE, LinearSDE, S
from sdegen.training.levels import NoiseLevels


class Weighting(ABC, Generic[S]):
    """Weight of the loss, a positive function of time.

    Attributes:
        process: type of process that the weighting works with.
        needs_positive_loss: True if the weighting works only with objectives whose losses are never negative.
    """

    process: type[SDE] = SDE
    needs_positive_loss = False

    @abstractmethod
    def __call__(self, sde: S, t: Tensor) -> Tensor:
        """Returns λ(t), shaped like ``t``."""

    def learned(self, sde: S, weights: Tensor) -> Learned | None:
        """Returns a factor of λ(t) that is learned with the weights ``(R, P)`` of R models; None if λ is fixed."""
        return None


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
    with :math:`p(t)` for the density of t, :math:`\lambda = (T - \varepsilon)\, p(t)\,
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


class Uncertainty(Weighting[LinearSDE]):
    r"""A weight that divides the loss of each noise level by its mean, which is learned during the training.

    .. math:: E_{\log \tilde\sigma} \left[ \frac{\sigma_t^2 L_t}{e^{u(\tilde\sigma)}} + u(\tilde\sigma) \right], \qquad
              \log \tilde\sigma = \log(\sigma_t/\alpha_t) \sim N(P_{mean}, P_{std}^2), \qquad
              e^{u(\tilde\sigma)} = E[\sigma_t^2 L_t \mid \tilde\sigma] \text{ at the minimum}

    Here :math:`L_t` is the unweighted loss, and :math:`\sigma_t^2 L_t` the squared error of the noise. All noise levels
    then have gradients of about equal size. EDM2 learns u with a small network; here u is constant in each of
    :attr:`CELLS` cells with equal probabilities, whose minimiser is known: a moving average of the losses of each cell.
    The steps of the optimiser use the weight :math:`\lambda(t) e^{-u}` with
    :math:`\lambda(t) = (T - \varepsilon)\, p(t)\, \sigma_t^2`. The losses that are logged, and those on held-out
    points, have λ alone, so that losses at different steps can be compared.

    Reference: Karras et al. (2024), Analyzing and improving the training dynamics of diffusion models,
    https://arxiv.org/abs/2312.02696, section 2.1; Kendall et al. (2018), https://arxiv.org/abs/1705.07115

    Args:
        p_mean: mean of :math:`\log \tilde\sigma`, before the distribution is truncated to the noise levels of
            :math:`[\varepsilon, T]`.
        p_std: standard deviation of :math:`\log \tilde\sigma` before the truncation. EDM2 uses 1 for images; 1.7 was
            better for points, whose details are finer.
    """

    CELLS = 64
    process = LinearSDE
    needs_positive_loss = True

    def __init__(self, p_mean: float = -0.4, p_std: float = 1.7) -> None:
        self.p_mean, self.p_std = p_mean, in_range("p_std", p_std, above=0)

    def __call__(self, sde: LinearSDE, t: Tensor) -> Tensor:
        return self._levels(sde).density(t) * sde.sigma(t) ** 2

    def learned(self, sde: LinearSDE, weights: Tensor) -> Learned:
        edges = self._levels(sde).time(torch.linspace(0, 1, self.CELLS + 1, dtype=torch.float64))
        return Learned(sde, edges, weights)

    def _levels(self, sde: LinearSDE) -> NoiseLevels:
        return NoiseLevels(sde, self.p_mean, self.p_std, prefix="p_")


class Learned:
    r"""Factor of the weight, for R models: one divided by the mean of :math:`\sigma_t^2 L_t` in each of C cells of t.

    The means are moving averages. In the first steps their decay is smaller, as that of the averaged weights is.

    Args:
        sde: forward process.
        edges: times between which the cells lie, ascending, ``(C + 1,)``.
        weights: weights of the models, ``(R, P)``.
    """

    DECAY = 0.999

    def __init__(self, sde: LinearSDE, edges: Tensor, weights: Tensor) -> None:
        self._sde, self._edges = sde, edges[1:-1].to(weights)
        # For each model and cell, the averages of the weighted loss, and of the weight divided by σ².
        self._sums = torch.ones(len(weights), 2, len(edges) - 1, dtype=torch.float64, device=weights.device)
        self._step = torch.zeros_like(self._sums)

    def factor(self, t: Tensor) -> Tensor:
        """Returns the factor at the times of the rows of each model, ``(R, N)``."""
        return (self._sums[:, 1] / self._sums[:, 0]).to(t).gather(1, self._cell(t))

    def add(self, t: Tensor, weight: Tensor, losses: Tensor, total: int) -> None:
        """Adds the rows of a step, or of a chunk of a step.

        Args:
            t: times of the rows, ``(R, N)``.
            weight: weights of the rows without the factor, ``(R, N)``.
            losses: weighted losses without the factor, ``(R, N)``.
            total: number of rows of the whole step.
        """
        pair = torch.stack([losses, weight / self._sde.sigma(t) ** 2], dim=1).double()
        # Use a product, because a sum by index is not reproducible on CUDA.
        self._step += pair @ torch.nn.functional.one_hot(self._cell(t), self._sums.shape[2]).double() / total

    def advance(self, step: int) -> None:
        """Updates the averages after the last chunk of a step."""
        self._sums.lerp_(self._step, 1 - min(self.DECAY, (1 + step) / (10 + step)))
        # The averages of a cell without rows would underflow.
        self._sums.clamp_min_(torch.finfo(torch.float32).tiny)
        self._step.zero_()

    def state(self, replica: int) -> dict[str, Tensor]:
        """Returns the averages of a model for a checkpoint."""
        return {"sums": self._sums[replica].cpu().clone()}

    def restore(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Restores the averages of all models. Raises UserError if they are not those of such a factor."""
        found = [state["sums"] for state in states if state.keys() == {"sums"}]
        like = self._sums[0]
        if len(found) < len(states) or any(x.shape != like.shape or x.dtype != like.dtype for x in found):
            raise UserError("weighting: the checkpoint's state does not fit this weighting: train a new run")
        self._sums.copy_(torch.stack(found))
        self._step.zero_()

    def _cell(self, t: Tensor) -> Tensor:
        return torch.bucketize(t.contiguous(), self._edges)
