r"""Gaussian mixtures. Their scores under linear SDEs have a closed form, which tests and figures compare with.

If :math:`x_0 \sim \sum_m w_m N(\mu_m, \Sigma_m)` and :math:`x_t = \alpha x_0 + \sigma z`, then

.. math:: x_t \sim \sum_m w_m N(\alpha \mu_m, \alpha^2 \Sigma_m + \sigma^2 I), \qquad
          \nabla \log p_t(x) = -\sum_m r_m(x) (\alpha^2 \Sigma_m + \sigma^2 I)^{-1} (x - \alpha \mu_m),

with :math:`r_m(x)` the posterior probability of component m. With all :math:`\Sigma_m = 0` the mixture is a
finite data set.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdegen.core.tensors import expand
from sdegen.sde.base import SDE, LinearSDE


class GaussianMixture:
    """A mixture of M Gaussians on arrays of any shape.

    Args:
        weights: weights of the components, ``(M,)``, above 0; they are normalised.
        means: means of the components, ``(M, *)``.
        covariances: ``(M,)`` for multiples of the identity, ``(M, d)`` for diagonals, ``(M, d, d)`` for full
            matrices, where d is the number of entries of one point; zeros are allowed.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        if not len(weights) == len(means) == len(covariances):
            raise ValueError(
                f"a mixture needs one weight, mean and covariance for each component, "
                f"not {len(weights)}, {len(means)} and {len(covariances)}"
            )
        if (weights <= 0).any():
            raise ValueError("weights must be above 0")
        self.weights = weights.double() / weights.double().sum()
        self.means, self.covariances = means.double(), covariances.double()
        self.shape = tuple(means.shape[1:])
        self._flat = self.means.flatten(1)
        if covariances.ndim == 3:
            self._variances, self._axes = torch.linalg.eigh(self.covariances)
        else:
            self._variances, self._axes = self.covariances.reshape(len(weights), -1), None
        if (self._variances < -1e-12).any():
            raise ValueError("covariances must have no negative eigenvalue")
        self._variances = self._variances.clamp(min=0)

    @property
    def singular(self) -> bool:
        """True if a component lies on a point, a line or a plane: the mixture then has no density."""
        return bool((self._variances == 0).any())

    def affine(self, shift: Tensor, scale: Tensor) -> GaussianMixture:
        """Returns the distribution of ``(x - shift) / scale``; both arguments have the shape of a point, or ``()``."""
        shift, scale = shift.double().broadcast_to(self.shape), scale.double().broadcast_to(self.shape).flatten()
        means = (self.means - shift) / scale.reshape(self.shape)
        if self.covariances.ndim == 3:
            covariances = self.covariances / (scale[:, None] * scale)
        elif self.covariances.ndim == 1 and (scale == scale[0]).all():
            covariances = self.covariances / scale[0] ** 2
        else:
            covariances = self.covariances.reshape(len(self.means), -1) / scale**2
        return GaussianMixture(self.weights, means, covariances)

    def given(self, matrix: Tensor, y: Tensor, noise: float) -> GaussianMixture:
        r"""Returns the distribution of x given :math:`A x + \sigma_y n = y`, which is a mixture too.

        Each component is conditioned by Kalman's formulas and weighted by its evidence,
        :math:`w_m N(y; A \mu_m, S_m)` with :math:`S_m = A \Sigma_m A^\top + \sigma_y^2 I`.

        Args:
            matrix: A, ``(m, d)``.
            y: the measurement, ``(m,)``.
            noise: :math:`\sigma_y`, above 0.
        """
        a, identity = matrix.double(), torch.eye(self._flat.shape[1], dtype=torch.float64)
        full = self.covariances
        if full.ndim < 3:
            full = torch.diag_embed(full.reshape(len(full), -1).expand(self._flat.shape))
        root = torch.linalg.cholesky(a @ full @ a.T + noise**2 * torch.eye(len(a), dtype=torch.float64))
        gain = torch.cholesky_solve(a @ full, root).mT
        off = (y.double() - self._flat @ a.T).unsqueeze(2)
        evidence = -0.5 * torch.linalg.solve_triangular(root, off, upper=False).square().sum((1, 2))
        evidence = self.weights.log() + evidence - root.diagonal(dim1=1, dim2=2).log().sum(1)
        # Joseph's form keeps the matrix symmetric and positive.
        rest = identity - gain @ a
        covariances = rest @ full @ rest.mT + noise**2 * gain @ gain.mT
        means = self._flat + (gain @ off).squeeze(2)
        return GaussianMixture(evidence.softmax(0), means.reshape(self.means.shape), covariances)

    def sample(self, n: int, source: torch.Generator) -> Tensor:
        """Draws ``n`` independent points, float64, ``(n, *)``."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=source)
        z = torch.randn(n, self._flat.shape[1], generator=source, dtype=torch.float64)
        z = self._variances[component].sqrt() * z
        if self._axes is not None:
            z = torch.einsum("nij,nj->ni", self._axes[component], z)
        return (self._flat[component] + z).reshape(n, *self.shape)

    def log_prob(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """Returns the log-density of αX + σz at ``x`` in nats: ``(B, *)`` to ``(B,)``, α and σ ``()`` or ``(B,)``."""
        return torch.cat([self._log_joint(*rows)[0].logsumexp(1) for rows in self._rows(x, alpha, sigma)])

    def score(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """Returns the gradient of :meth:`log_prob` in ``x``: ``(B, *)`` to ``(B, *)``."""
        parts = []
        for rows in self._rows(x, alpha, sigma):
            joint, residual, variance = self._log_joint(*rows)
            whitened = joint.softmax(1).unsqueeze(2) * residual / variance
            if self._axes is not None:
                whitened = torch.einsum("mij,bmj->bmi", self._axes.to(x), whitened)
            parts.append(-whitened.sum(1))
        return torch.cat(parts).reshape(x.shape)

    def component(self, x: Tensor) -> Tensor:
        """Returns the most probable component of each point: ``(B, *)`` to ``(B,)``, integers."""
        return torch.cat([self._log_joint(*rows)[0].argmax(1) for rows in self._rows(x, 1.0, 0.0)])

    def _rows(self, x: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Splits a batch into pieces whose intermediate arrays ``(B, M, d)`` fit into the cache: 1 MiB in float32."""
        x = x.flatten(1)
        a, s = (expand(torch.as_tensor(c), x).reshape(-1, 1) for c in (alpha, sigma))
        size = max(1, 2**18 // self._flat.numel())
        pieces = x.split(size)
        # A time that all rows share stays one row, so that the variances are computed once.
        a_pieces, s_pieces = (c.split(size) if len(c) > 1 else [c] * len(pieces) for c in (a, s))
        return list(zip(pieces, a_pieces, s_pieces, strict=True))

    def _log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log w_m p_m(x) ``(B, M)``, the residuals along the axes ``(B, M, d)`` and their variances."""
        residual = x.unsqueeze(1) - alpha.unsqueeze(2) * self._flat.to(x)
        if self._axes is not None:
            residual = torch.einsum("mji,bmj->bmi", self._axes.to(x), residual)
        variance = alpha.unsqueeze(2) ** 2 * self._variances.to(x) + sigma.unsqueeze(2) ** 2
        d = self._flat.shape[1]
        # A multiple of the identity has one variance for all d axes.
        log_det = variance.log().sum(2) * (d / variance.shape[2])
        quadratic = (residual.square() / variance).sum(2)
        joint = self.weights.to(x).log() - 0.5 * (quadratic + log_det + d * math.log(2 * math.pi))
        return joint, residual, variance


class Marginals:
    """Marginals p_t of a linear SDE started from a mixture. An instance is a score: ``(x, t) -> ∇ log p_t(x)``.

    Args:
        law: distribution of the data.
        sde: forward process.
    """

    def __init__(self, law: GaussianMixture, sde: LinearSDE) -> None:
        self.law, self.sde = law, sde

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.law.score(x, self.sde.alpha(t), self.sde.sigma(t))

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns log p_t(x) in nats: ``(B, *)`` to ``(B,)``."""
        return self.law.log_prob(x, self.sde.alpha(t), self.sde.sigma(t))


def marginals(law: GaussianMixture | None, sde: SDE) -> Marginals | None:
    """Returns the exact marginals of data, or None if the data's distribution or the SDE's kernel is not known."""
    return None if law is None or sde.linear is None else Marginals(law, sde.linear)
