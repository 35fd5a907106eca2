r"""Objectives: the unweighted loss of a score at a noisy point.

An objective has two parts. :meth:`Objective.prepare` draws the noisy points. It needs no gradient and is called for
many steps at once. :meth:`Objective.loss` is called in every step.

The mean loss of a score is :math:`E\|s_\theta - \nabla \log p_t\|^2` plus a constant that does not depend on the score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand, squared_norm
from sdegen.sde.base import SDE, LinearSDE, S, Score
from sdegen.training.teacher import Teacher


@dataclass(frozen=True)
class Prepared:
    """Rows ready for the network: points ``x`` ``(N, *)`` at the times ``t`` ``(N,)``.

    A subclass adds a field for each tensor of N rows that its objective needs.
    """

    x: Tensor
    t: Tensor

    def conditions(self, y: Tensor) -> Tensor:
        """Returns the conditions of the rows, from those of the data points, ``y``."""
        return y


Rows = TypeVar("Rows", bound=Prepared)


class Objective(ABC, Generic[S, Rows]):
    """A loss whose minimiser over functions is the score of the marginals.

    Attributes:
        process: type of process that the objective works with.
        differentiates: True if the loss has derivatives of the score in x. ReLU networks are then not smooth enough.
        predicts: what the objective trains a network to predict: see :class:`sdegen.networks.Network`.
        positive: True if no loss is below 0.
        maps: True if the objective trains a flow map, and so a network of two times.
        teacher: trained score from which the network learns; None if it learns from the data.
        against: model whose expected loss is the unit of the logged loss: ``gaussian`` for the score of a Gaussian with
            the mean and covariance of the data, ``chance`` for equal probabilities of all classes; None for no unit.
    """

    process: type[SDE] = SDE
    differentiates = False
    predicts: Literal["score", "class", "condition"] = "score"
    positive = True
    against: Literal["gaussian", "chance"] | None = None
    maps = False
    teacher: Teacher | None = None

    @abstractmethod
    def prepare(self, sde: S, x0: Tensor, t: Tensor, randn_like: RandnLike, y: Tensor | None = None) -> Rows:
        """Draws noisy points for data ``x0`` ``(N, *)`` at the times ``t`` ``(N,)``.

        ``y`` has the conditions of the data, ``(N, *)``. Only an objective with a teacher needs them.
        """

    def prepared(self, sde: S, x0: Tensor, t: Tensor, randn_like: RandnLike, weight: Tensor, y: Tensor) -> Rows:
        """Returns the result of :meth:`prepare`; the ``weight`` of the loss is not needed."""
        return self.prepare(sde, x0, t, randn_like, y)

    @abstractmethod
    def loss(self, score: Score, rows: Rows) -> Tensor:
        """Returns the unweighted loss of each row, ``(N,)``."""


@dataclass(frozen=True)
class Noised(Prepared):
    """Noisy points, with the standard normal ``noise`` ``(N, *)`` and its factor ``sigma`` ``(N,)`` in the points."""

    noise: Tensor
    sigma: Tensor


class Denoising(Objective[LinearSDE, Noised]):
    r"""Denoising score matching (eq. 5 of the paper), whose target is the score of the kernel.

    .. math:: \left\| s_\theta(x_t, t) - \nabla \log p_{0t}(x_t \mid x_0) \right\|^2
              = \sigma_t^{-2} \left\| \sigma_t s_\theta(x_t, t) + z \right\|^2, \qquad x_t = \alpha_t x_0 + \sigma_t z

    The right-hand side is computed. Its terms are of order one, but the scores on the left can be of order 10³.

    Reference: Vincent (2011), A connection between score matching and denoising autoencoders.
    """

    process = LinearSDE
    against = "gaussian"

    def prepare(self, sde: LinearSDE, x0: Tensor, t: Tensor, randn_like: RandnLike, y: Tensor | None = None) -> Noised:
        noise = randn_like(x0)
        return Noised(sde.perturb(x0, t, lambda _: noise), t, noise, sde.sigma(t))

    def loss(self, score: Score, rows: Noised) -> Tensor:
        residual = rows.noise + expand(rows.sigma, rows.x) * score(rows.x, rows.t)
        return squared_norm(residual) / rows.sigma**2


class Implicit(Objective[SDE, Prepared]):
    r"""Implicit score matching (eq. 3 of the paper), with the exact divergence of the score.

    .. math:: \|s_\theta(x_t, t)\|^2 + 2 \nabla \cdot s_\theta(x_t, t)

    This loss needs no kernel, only samples of :math:`x_t`. The divergence costs one backward pass for each of the d
    entries of a point. At small t, the two terms are of order :math:`d/\sigma_t^2` and cancel, so that the variance is
    far larger than with denoising.

    Reference: Hyvärinen (2005), Estimation of non-normalized statistical models by score matching.
    """

    differentiates = True
    positive = False

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, y: Tensor | None = None) -> Prepared:
        return Prepared(sde.perturb(x0, t, randn_like), t)

    def loss(self, score: Score, rows: Prepared) -> Tensor:
        x = rows.x.detach().requires_grad_()
        output = score(x, rows.t)
        columns = output.flatten(1).sum(0)
        gradients = (torch.autograd.grad(column, x, create_graph=True)[0].flatten(1) for column in columns)
        divergence = torch.stack([gradient[:, i] for i, gradient in enumerate(gradients)], dim=1).sum(1)
        return squared_norm(output) + 2 * divergence


@dataclass(frozen=True)
class Probed(Prepared):
    """Noisy points, each with a direction ``probe`` ``(N, *)``."""

    probe: Tensor


class Sliced(Objective[SDE, Probed]):
    r"""Sliced score matching, which estimates the divergence along one random direction with one backward pass.

    .. math:: \|s_\theta(x_t, t)\|^2 + 2 v^\top \nabla_x \left( v^\top s_\theta(x_t, t) \right), \qquad v_i = \pm 1

    The mean over the Rademacher probe v is the loss of :class:`Implicit`; in one dimension the two losses are equal.
    Rademacher probes have the least variance among probes with independent entries. Increase ``times.draws`` for more
    probes.

    Reference: Song, Garg, Shi & Ermon (2019), Sliced score matching, https://arxiv.org/abs/1905.07088, in the
    form with reduced variance, which keeps the full norm.
    """

    differentiates = True
    positive = False

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, y: Tensor | None = None) -> Probed:
        x = sde.perturb(x0, t, randn_like)
        return Probed(x, t, torch.copysign(torch.ones_like(x), randn_like(x)))

    def loss(self, score: Score, rows: Probed) -> Tensor:
        x = rows.x.detach().requires_grad_()
        output = score(x, rows.t)
        (gradient,) = torch.autograd.grad((output * rows.probe).sum(), x, create_graph=True)
        return squared_norm(output) + 2 * (gradient * rows.probe).flatten(1).sum(1)


class Prediction(Objective[SDE, Prepared]):
    r"""Negative log-likelihood of what is known about a clean point, given the noisy point.

    In place of the score, :meth:`loss` takes the log-likelihood of the class or condition of each row,
    ``(x, t) -> (B,)``.
    """

    def prepare(self, sde: SDE, x0: Tensor, t: Tensor, randn_like: RandnLike, y: Tensor | None = None) -> Prepared:
        return Prepared(sde.perturb(x0, t, randn_like), t)

    def loss(self, score: Score, rows: Prepared) -> Tensor:
        return -score(rows.x, rows.t)


class Classification(Prediction):
    r"""Cross entropy of a classifier of noisy data: :math:`-\log p_\theta(y \mid x_t, t)` for the class y.

    The minimiser over functions is :math:`p_t(y \mid x)`.

    Reference: section 4 of the paper; Dhariwal & Nichol (2021), https://arxiv.org/abs/2105.05233
    """

    predicts = "class"
    against = "chance"


class Regression(Prediction):
    r"""Negative log-likelihood :math:`-\log p_\theta(y \mid x_t, t)` of the condition y of the data.

    The minimiser over densities is :math:`p_t(y \mid x)`; over Gaussians, it has the mean and covariance of
    :math:`p_t(y \mid x)`. The condition is in the network's units, in which it has mean 0 and standard deviation 1.

    Reference: section 4 of the paper, for a condition y that is not a class
    """

    predicts = "condition"
    positive = False
