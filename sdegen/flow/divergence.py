r"""Divergence of a field, exact or estimated with random directions (probes)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.errors import UserError
from sdegen.core.randomness import RandnLike


class Divergence(ABC):
    r"""Divergence of a field, as the exact value or as independent estimates.

    Attributes:
        estimates: number of estimates for each point.
    """

    estimates: int

    @abstractmethod
    def probes(self, x: Tensor, noise: RandnLike) -> Tensor:
        """Draws K random directions ``(B, K, *)`` for each of the points ``x`` ``(B, *)``.

        The directions stay the same along a trajectory. New directions at each evaluation would make the right-hand
        side a discontinuous function of time.
        """

    @abstractmethod
    def __call__(self, velocity: Tensor, x: Tensor, probes: Tensor) -> Tensor:
        """Returns the estimates of the divergence at each point, ``(B, estimates)``.

        Args:
            velocity: values of the field at ``x``, ``(B, *)``, with the autograd graph. Row i depends only on row i of
                ``x``.
            x: points ``(B, *)``, with ``requires_grad=True``.
            probes: directions, ``(B, K, *)``.
        """


class Exact(Divergence):
    r"""Exact divergence :math:`\sum_i \partial f_i / \partial x_i`, with one backward pass for each dimension."""

    estimates = 1

    def probes(self, x: Tensor, noise: RandnLike) -> Tensor:
        return x.new_zeros(len(x), 0, *x.shape[1:])

    def __call__(self, velocity: Tensor, x: Tensor, probes: Tensor) -> Tensor:
        columns = velocity.flatten(1).unbind(1)
        rows = (torch.autograd.grad(f.sum(), x, retain_graph=True)[0].flatten(1)[:, i] for i, f in enumerate(columns))
        return sum(rows, x.new_zeros(len(x))).unsqueeze(1)


class Hutchinson(Divergence):
    r"""Unbiased estimates :math:`v^\top J v` of the divergence, with :math:`J = \partial f / \partial x`.

    A probe v has random signs :math:`v_i = \pm 1`. It costs one backward pass, whatever the number of dimensions. The
    variance of an estimate is :math:`\tfrac12 \sum_{i \ne j} (J_{ij} + J_{ji})^2`.

    Reference: Hutchinson (1990), Communications in Statistics 19(2), 433–450.

    Args:
        probes: number of probes, from 1 to the number of dimensions. At the upper limit, :class:`Exact` costs the same.
    """

    def __init__(self, probes: int = 1) -> None:
        self.estimates = in_range("probes", probes, at_least=1, fix=": use Exact() for the exact divergence")

    def probes(self, x: Tensor, noise: RandnLike) -> Tensor:
        draws = torch.stack([noise(x) for _ in range(_affordable(self.estimates, x[0].numel()))], dim=1)
        return torch.where(draws < 0, -torch.ones_like(draws), 1.0)

    def __call__(self, velocity: Tensor, x: Tensor, probes: Tensor) -> Tensor:
        pulled = [torch.autograd.grad(velocity, x, v, retain_graph=True)[0] for v in probes.unbind(1)]
        return (torch.stack(pulled, dim=1) * probes).flatten(2).sum(2)


def by_probes(probes: int, dimensions: int) -> Divergence:
    """Returns the divergence with ``probes`` probes, 0 for the exact divergence; raises UserError for too many."""
    if probes < 0:
        raise UserError(f"probes={probes} must be at least 0: use probes=0 for the exact divergence")
    return Hutchinson(_affordable(probes, dimensions)) if probes else Exact()


def _affordable(probes: int, dimensions: int) -> int:
    """Returns ``probes``, or raises UserError if they cost more than the exact divergence."""
    if probes > dimensions:
        raise UserError(f"probes={probes} cost more than the exact divergence in {dimensions} dimensions: use probes=0")
    return probes
