r"""A regressor of noisy data, :math:`p_t(y \mid x)` for numbers y, which guides a score towards a condition.

With :math:`\nabla_x \log p_t(x \mid y) = \nabla_x \log p_t(x) + \nabla_x \log p_t(y \mid x)`, a score that was trained
without conditions can sample the points with a condition (section 4 of the paper). The regressor is a mixture of K
Gaussians over the k numbers of y:

.. math:: p_t(y \mid x) = \sum_j w_j\, N(y; m_j, \Sigma_j), \qquad
          \Sigma_j^{-1} = (I + L_j)^\top D_j^2\, (I + L_j),

with diagonal :math:`D_j > 0` and strictly lower triangular :math:`L_j`. The Cholesky factor of the full covariance is
:math:`(D_j (I + L_j))^{-1}`. Row i of :math:`-L_j` holds the coefficients of the regression of :math:`y_i` on the
numbers before it, and :math:`1/D_{ii}` is the standard deviation of the residual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.models.likelihood import Likelihood


class Gaussians(NamedTuple):
    """Mixtures of K Gaussians over k numbers, one mixture for each of B rows.

    Attributes:
        log_weights: logarithms of the weights w, ``(B, K)``.
        means: means m, ``(B, K, k)``.
        log_scales: logarithms of the diagonals of D, ``(B, K, k)``.
        lower: matrices L, ``(B, K, k, k)``.
    """

    log_weights: Tensor
    means: Tensor
    log_scales: Tensor
    lower: Tensor

    def log_prob(self, y: Tensor) -> Tensor:
        """Returns the log-density ``(B,)`` of ``y``, ``(B, k)`` or ``(1, k)``, under the mixture of each row."""
        off = y.unsqueeze(1) - self.means
        # Sums of products, not a matrix product, which autocast would compute in bfloat16.
        white = self.log_scales.exp() * (off + (self.lower * off.unsqueeze(2)).sum(3))
        normal = self.log_scales - 0.5 * (white.square() + math.log(2 * math.pi))
        return (self.log_weights + normal.sum(2)).logsumexp(1)

    def covariances(self) -> Tensor:
        """Returns the covariances of the Gaussians, ``(B, K, k, k)``."""
        identity = torch.eye(self.means.shape[2]).to(self.means).expand_as(self.lower)
        root = torch.linalg.solve_triangular(self.lower + identity, identity, upper=False, unitriangular=True)
        root = root / self.log_scales.exp().unsqueeze(2)
        return root @ root.mT

    def ranks(self, y: Tensor) -> Tensor:
        """Returns the probability of a smaller value of each number of ``y`` ``(B, k)``, from 0 to 1, ``(B, k)``."""
        deviations = self.covariances().diagonal(dim1=2, dim2=3).sqrt()
        below = torch.special.ndtr((y.unsqueeze(1) - self.means) / deviations)
        return (self.log_weights.exp().unsqueeze(2) * below).sum(1)


class RegressorModel(Likelihood):
    """A network with mixtures of Gaussians over the condition as output: ``(x, t) -> Gaussians``.

    The output of the network is ``(B, K, F)``, with F = (k + 1)(k + 2) / 2 numbers for each Gaussian: the logit of the
    weight, the k means, the k logarithms of D, and the entries of L below the diagonal, row by row. The value y of a
    row is its condition in the network's units; an image or a signal is a vector of its entries.
    """

    def forward(self, x: Tensor, t: Tensor) -> Gaussians:
        output = self.output(x, t)
        # The root of F = (k + 1)(k + 2) / 2.
        k = (math.isqrt(8 * output.shape[2] + 1) - 3) // 2
        logits, means, log_scales, below = output.split([1, k, k, output.shape[2] - 2 * k - 1], dim=2)
        lower = below.new_zeros(*below.shape[:2], k, k)
        rows, columns = torch.tril_indices(k, k, -1, device=below.device)
        lower[:, :, rows, columns] = below
        return Gaussians(logits.squeeze(2).log_softmax(1), means, log_scales, lower)

    def given(self, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        def log_likelihood(x: Tensor, t: Tensor) -> Tensor:
            gaussians = self(x, t)
            # In the type of x: under autocast, the output of the network has fewer digits.
            return gaussians.log_prob(y.to(x).reshape(-1, gaussians.means.shape[2]))

        return log_likelihood
