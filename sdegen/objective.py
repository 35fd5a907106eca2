"""What training minimises: the loss of a score at one noisy point, before any weight.

An objective works in two halves, because the first needs no gradient and is done for many steps at once:
:meth:`Objective.prepare` draws the noisy points, :meth:`Objective.loss` is the hot path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from sdegen.rng import RandnLike
from sdegen.sde.base import LinearSDE, Score
from sdegen.tensor import expand, squared_norm


class Prepared(NamedTuple):
    """Rows ready for the network: ``x`` and ``noise`` are ``(N, *)``, ``t`` and ``sigma`` are ``(N,)``."""

    x: Tensor
    t: Tensor
    noise: Tensor
    sigma: Tensor


class Objective(ABC):
    """A loss whose minimiser over functions is the score of the marginals."""

    @abstractmethod
    def prepare(self, sde: LinearSDE, x0: Tensor, t: Tensor, randn_like: RandnLike) -> Prepared:
        """Noisy points for data ``x0`` ``(N, *)`` at the times ``t`` ``(N,)``."""

    @abstractmethod
    def loss(self, score: Score, rows: Prepared) -> Tensor:
        """The unweighted loss of each row, ``(N,)``."""


class Denoising(Objective):
    r"""Denoising score matching (eq. 5 of the paper), whose target is the score of the kernel.

    .. math:: \left\| s_\theta(x_t, t) - \nabla \log p_{0t}(x_t \mid x_0) \right\|^2
              = \sigma_t^{-2} \left\| \sigma_t s_\theta(x_t, t) + z \right\|^2, \qquad x_t = \alpha_t x_0 + \sigma_t z

    The right-hand side subtracts numbers of order one; the left one, two scores of order 10³.

    Reference: Vincent (2011), A connection between score matching and denoising autoencoders.
    """

    def prepare(self, sde: LinearSDE, x0: Tensor, t: Tensor, randn_like: RandnLike) -> Prepared:
        noise = randn_like(x0)
        return Prepared(sde.perturb(x0, t, lambda _: noise), t, noise, sde.sigma(t))

    def loss(self, score: Score, rows: Prepared) -> Tensor:
        residual = rows.noise + expand(rows.sigma, rows.x) * score(rows.x, rows.t)
        return squared_norm(residual) / rows.sigma**2
