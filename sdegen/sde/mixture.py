r"""Gaussian mixtures. Their scores under linear SDEs have a closed form: tests and figures use them as a reference.

If :math:`x_0 \sim \sum_m w_m N(\mu_m, \Sigma_m)` and :math:`x_t = \alpha x_0 + \sigma z`, then

.. math:: x_t \sim \sum_m w_m N(\alpha \mu_m, \alpha^2 \Sigma_m + \sigma^2 I), \qquad
          \nabla \log p_t(x) = -\sum_m r_m(x) (\alpha^2 \Sigma_m + \sigma^2 I)^{-1} (x - \alpha \mu_m),

where :math:`r_m(x)` is the posterior probability of component m. If all :math:`\Sigma_m` are 0, the mixture is the
distribution of a finite data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdegen.core.tensors import expand
from sdegen.sde.arc import Arc
from sdegen.sde.base import SDE, LinearSDE

FEW = 3
"""Largest number of coordinates for which each coordinate of all components is contiguous in memory."""


class GaussianMixture:
    """A mixture of M Gaussians on arrays of any shape.

    Args:
        weights: weights of the components, ``(M,)``, above 0. The class normalises them.
        means: means of the components, ``(M, *)``.
        covariances: covariances of the components, where d is the number of entries of one point: ``(M,)`` for
            multiples of the identity, ``(M, d)`` for diagonals, ``(M, d, d)`` for full matrices. Zeros are allowed.
        labels: class of each component, ``(M,)``, numbered from 0; None if there are no classes.
        arc: curve in the plane whose points are the components without variance; None if there is no curve. Where the
            noise is small, the curve replaces its points.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        labels: Tensor | None = None,
        arc: Arc | None = None,
    ) -> None:
        if not len(weights) == len(means) == len(covariances):
            raise ValueError(
                f"a mixture needs one weight, mean and covariance for each component, "
                f"not {len(weights)}, {len(means)} and {len(covariances)}: give three tensors of one length"
            )
        if (weights <= 0).any():
            raise ValueError("weights must be above 0: leave out components without weight")
        if labels is not None and len(labels) != len(weights):
            raise ValueError(f"labels are {len(labels)} and components {len(weights)}: give a class for each component")
        self.weights = weights.double() / weights.double().sum()
        self.means, self.covariances = means.double(), covariances.double()
        self.shape, self.labels, self.arc = tuple(means.shape[1:]), labels, arc
        self._flat = self.means.flatten(1)
        if covariances.ndim == 3:
            self._variances, self._axes = torch.linalg.eigh(self.covariances)
        else:
            self._variances, self._axes = self.covariances.reshape(len(weights), -1), None
        if (self._variances < -1e-12).any():
            raise ValueError("covariances must have no negative eigenvalue: give variances of at least 0")
        self._variances = self._variances.clamp(min=0)
        # With few coordinates, loops over the components must be the inner ones: loops over 2 numbers are slow.
        few = self._flat.shape[1] <= FEW and self._axes is None
        self._points = self._flat.T.contiguous().T if few else self._flat

    @property
    def singular(self) -> bool:
        """True if a component has a singular covariance. The mixture then has no density."""
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
        arc = None if self.arc is None else self.arc.affine(shift, scale)
        return GaussianMixture(self.weights, means, covariances, self.labels, arc)

    def of_class(self, label: int) -> GaussianMixture:
        """Returns the distribution of the points of a class, which are the components with this label."""
        assert self.labels is not None
        own = self.labels == label
        return GaussianMixture(self.weights[own], self.means[own], self.covariances[own], self.labels[own])

    def given(self, matrix: Tensor, y: Tensor, noise: float) -> GaussianMixture:
        r"""Returns the distribution of x given :math:`A x + \sigma_y n = y`, with standard normal n: a mixture.

        Kalman's formulas give the new mean and covariance of each component. The new weights are proportional to the
        evidence :math:`w_m N(y; A \mu_m, S_m)`, with :math:`S_m = A \Sigma_m A^\top + \sigma_y^2 I`.

        Args:
            matrix: matrix A, ``(m, d)``.
            y: measurement, ``(m,)``.
            noise: standard deviation :math:`\sigma_y`, above 0.
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
        # Joseph's form keeps the covariances symmetric and positive definite.
        rest = identity - gain @ a
        covariances = rest @ full @ rest.mT + noise**2 * gain @ gain.mT
        means = self._flat + (gain @ off).squeeze(2)
        return GaussianMixture(evidence.softmax(0), means.reshape(self.means.shape), covariances)

    def sample(self, n: int, source: torch.Generator) -> Tensor:
        """Draws ``n`` independent points, float64, ``(n, *)``."""
        return self.sample_labelled(n, source)[0]

    def sample_labelled(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws the points of :meth:`sample`; returns them and their classes, ``(n,)``, or their components."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=source)
        z = torch.randn(n, self._flat.shape[1], generator=source, dtype=torch.float64)
        z = self._variances[component].sqrt() * z
        if self._axes is not None:
            z = torch.einsum("nij,nj->ni", self._axes[component], z)
        y = component if self.labels is None else self.labels[component]
        return (self._flat[component] + z).reshape(n, *self.shape), y

    def log_prob(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """Returns the log-density ``(B,)`` of α x_0 + σ z at ``x`` ``(B, *)``, in nats.

        ``alpha`` and ``sigma`` are ``()`` or ``(B,)``.
        """
        return self._each(lambda joint, *_: joint.logsumexp(1), x, alpha, sigma)

    def score(self, x: Tensor, alpha: Tensor | float = 1.0, sigma: Tensor | float = 0.0) -> Tensor:
        """Returns the gradient ``(B, *)`` of :meth:`log_prob` in ``x`` ``(B, *)``."""

        def gradient(joint: Tensor, residual: Tensor, variance: Tensor) -> Tensor:
            whitened = joint.softmax(1).unsqueeze(2) * residual / variance
            if self._axes is not None:
                whitened = torch.einsum("mij,bmj->bmi", self._axes.to(x), whitened)
            return -whitened.contiguous().sum(1)

        return self._each(gradient, x, alpha, sigma).reshape(x.shape)

    def component(self, x: Tensor) -> Tensor:
        """Returns the indices ``(B,)`` of the most probable components of points ``x`` ``(B, *)``."""
        return self._each(lambda joint, *_: joint.argmax(1), x, 1.0, 0.0)

    def _each(
        self,
        result: Callable[[Tensor, Tensor, Tensor], Tensor],
        x: Tensor,
        alpha: Tensor | float,
        sigma: Tensor | float,
    ) -> Tensor:
        """Returns the results of all rows of ``x``, from log w_m p_m(x), the residuals and the variances.

        The batch is split into pieces whose arrays ``(B, M, d)`` have 1 MiB in float32 and fit into the cache.
        """
        x = x.flatten(1)
        a, s = (expand(torch.as_tensor(c, dtype=x.dtype), x).reshape(-1, 1) for c in (alpha, sigma))
        if self.arc is not None and bool((near := self.arc.shows(a, s)).any()):
            return self._near_arc(result, x, a, s, near)
        size = max(1, 2**18 // self._flat.numel())
        pieces = x.split(size)
        # If all rows share one time, keep one row, so that the variances are computed once.
        a_pieces, s_pieces = (c.split(size) if len(c) > 1 else [c] * len(pieces) for c in (a, s))
        rows = zip(pieces, a_pieces, s_pieces, strict=True)
        own = self.weights, self._points, self._variances
        return torch.cat([result(*self._log_joint(x, a, s, *own)) for x, a, s in rows])

    def _near_arc(
        self, result: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, a: Tensor, s: Tensor, near: Tensor
    ) -> Tensor:
        """Returns the results of :meth:`_each`, with the arc in place of its points in the rows ``near``."""
        assert self.arc is not None
        a, s, near = a.expand(len(x), 1), s.expand(len(x), 1), near.expand(len(x), 1).flatten()
        # A time in float32 is exact enough, but an angle is not.
        own, alpha, sigma = (part[near].double() for part in (x, a, s))
        weights, points = self.arc.nodes(own, alpha, sigma)
        wide = self._variances[:, 0] > 0
        rest, shape = self.weights[wide].to(points), (len(points), -1)
        weights = torch.cat([rest.expand(*shape), (1 - rest.sum()) * weights], dim=1)
        points = torch.cat([self._flat[wide].to(points).expand(*shape, -1), points], dim=1)
        none = self._variances.new_zeros(points.shape[1] - len(rest), self._variances.shape[1])
        variances = torch.cat([self._variances[wide], none])
        found = result(*self._log_joint(own, alpha, sigma, weights, points, variances)).to(x.dtype)
        if bool(near.all()):
            return found
        others = self._each(result, x[~near], a[~near], s[~near])
        return torch.cat([found, others])[torch.cat([near.nonzero(), (~near).nonzero()]).flatten().argsort()]

    def _log_joint(
        self, x: Tensor, alpha: Tensor, sigma: Tensor, weights: Tensor, points: Tensor, variances: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log w_m p_m(x), ``(B, M)``, and the residuals, ``(B, M, d)``, and variances along the axes.

        The components are the same for all rows, or, with one more axis in front, those of each row.
        """
        residual = x.unsqueeze(1) - alpha.unsqueeze(2) * points.to(x)
        if self._axes is not None:
            residual = torch.einsum("mji,bmj->bmi", self._axes.to(x), residual)
        variance = alpha.unsqueeze(2) ** 2 * variances.to(x) + sigma.unsqueeze(2) ** 2
        d = self._flat.shape[1]
        # A multiple of the identity has one variance for all d axes.
        log_det = variance.log().sum(2) * (d / variance.shape[2])
        quadratic = (residual.square() / variance).sum(2)
        joint = weights.to(x).log() - 0.5 * (quadratic + log_det + d * math.log(2 * math.pi))
        return joint, residual, variance


class Marginals:
    """Marginals p_t of a linear SDE for data from a mixture. An instance is a score: ``(x, t) -> ∇ log p_t(x)``.

    Args:
        law: distribution of the data.
        sde: forward process.
    """

    def __init__(self, law: GaussianMixture, sde: LinearSDE) -> None:
        self.law, self.sde = law, sde

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.law.score(x, self.sde.alpha(t), self.sde.sigma(t))

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns log p_t(x), ``(B,)``, at ``x`` ``(B, *)``, in nats."""
        return self.law.log_prob(x, self.sde.alpha(t), self.sde.sigma(t))


def marginals(law: GaussianMixture | None, sde: SDE) -> Marginals | None:
    """Returns the exact marginals, or None if the distribution of the data or the kernel of the SDE is unknown."""
    return None if law is None or sde.linear is None else Marginals(law, sde.linear)
