"""Gaussian mixtures agree with SciPy, quadrature and automatic differentiation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import plane
from scipy.stats import multivariate_normal

from sdegen.sde import VP, LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals

X = torch.tensor([[0.3, -0.2], [-2.0, 1.0], [4.0, 4.0]], dtype=torch.float64)


def test_density_is_scipys() -> None:
    law = plane()
    parts = zip(law.weights, law.means, law.covariances, strict=True)
    expected = sum(float(w) * multivariate_normal(m, c).pdf(X.numpy()) for w, m, c in parts)
    torch.testing.assert_close(law.log_prob(X).exp(), torch.from_numpy(np.asarray(expected)))


def test_perturbed_density_is_the_convolution() -> None:
    law, alpha, sigma = plane(), 0.7, 0.4
    parts = zip(law.weights, law.means, law.covariances, strict=True)
    expected = sum(
        float(w) * multivariate_normal(alpha * m, alpha**2 * c.numpy() + sigma**2 * np.eye(2)).pdf(X.numpy())
        for w, m, c in parts
    )
    torch.testing.assert_close(law.log_prob(X, alpha, sigma).exp(), torch.from_numpy(np.asarray(expected)))


@pytest.mark.parametrize("covariances", [torch.tensor([0.5, 2.0]), torch.tensor([[0.5, 1.0], [2.0, 0.1]])])
def test_scalar_and_diagonal_covariances_are_full_ones(covariances: torch.Tensor) -> None:
    weights, means = torch.tensor([0.3, 0.7]), torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    full = torch.diag_embed(covariances.reshape(2, -1).expand(2, 2))
    short, long = GaussianMixture(weights, means, covariances), GaussianMixture(weights, means, full)
    torch.testing.assert_close(short.log_prob(X, 0.9, 0.2), long.log_prob(X, 0.9, 0.2))
    torch.testing.assert_close(short.score(X, 0.9, 0.2), long.score(X, 0.9, 0.2))


def test_score_is_the_gradient_of_the_log_density(sde: LinearSDE) -> None:
    marginals = Marginals(plane(), sde)
    x = X.clone().requires_grad_()
    t = torch.tensor([1e-3, 0.2, 0.9], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(marginals.log_prob(x, t).sum(), x)
    torch.testing.assert_close(marginals(X, t), gradient)
    torch.testing.assert_close(marginals(X[:1], t[1]), marginals(X[:1], t[1:2]))


def test_score_of_images_is_that_of_flat_vectors() -> None:
    means = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = GaussianMixture(torch.ones(4), means, torch.full((4,), 0.1))
    flat = GaussianMixture(torch.ones(4), means.flatten(1), torch.full((4,), 0.1))
    x = means.double() + 0.3
    assert torch.equal(images.score(x, 0.5, 0.5).flatten(1), flat.score(x.flatten(1), 0.5, 0.5))


def test_large_mixtures_are_computed_in_pieces_with_the_same_result() -> None:
    source = torch.Generator().manual_seed(0)
    means = torch.randn(20_000, 64, generator=source)
    law = GaussianMixture(torch.ones(20_000), means, torch.zeros(20_000))
    x = torch.randn(30, 64, generator=source, dtype=torch.float64)
    sigma = torch.linspace(0.5, 2, 30, dtype=torch.float64)
    alone = torch.cat([law.score(x[i : i + 1], 0.5, sigma[i]) for i in range(30)])
    torch.testing.assert_close(law.score(x, 0.5, sigma), alone)


def test_draws_follow_the_density() -> None:
    law = plane()
    x = law.sample(200_000, torch.Generator().manual_seed(0))
    mean = (law.weights[:, None] * law.means).sum(0)
    torch.testing.assert_close(x.mean(0), mean, atol=0.02, rtol=0)
    centred = law.means - mean
    second = law.covariances + centred[:, :, None] * centred[:, None, :]
    torch.testing.assert_close(x.T.cov(), (law.weights[:, None, None] * second).sum(0), atol=0.05, rtol=0)


@pytest.mark.parametrize("scale", [torch.tensor(2.0), torch.tensor([2.0, 0.5])])
def test_affine_map_changes_the_density_by_its_determinant(scale: torch.Tensor) -> None:
    shift = torch.tensor([1.0, -3.0])
    for law in (
        plane(),
        GaussianMixture(torch.ones(2), torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.tensor([1.0, 0.2])),
    ):
        jacobian = scale.double().expand(2).log().sum()
        expected = law.log_prob(X) + jacobian
        torch.testing.assert_close(law.affine(shift, scale).log_prob((X - shift) / scale), expected)


def test_component_is_the_most_probable_one(line: GaussianMixture) -> None:
    assert line.component(torch.tensor([[-3.0], [2.5], [-1.1], [-0.9]])).tolist() == [0, 1, 0, 1]


def test_score_near_a_mode_is_exact_in_float32(line: GaussianMixture) -> None:
    marginals = Marginals(line, VP())
    t = torch.full((5,), 1e-5)
    x = torch.linspace(2, 4, 5)[:, None]
    torch.testing.assert_close(marginals(x, t).double(), marginals(x.double(), t.double()), rtol=1e-4, atol=1e-4)


def test_invalid_mixtures_are_refused() -> None:
    with pytest.raises(ValueError, match="one weight, mean and covariance for each component"):
        GaussianMixture(torch.ones(2), torch.zeros(3, 1), torch.ones(3))
    with pytest.raises(ValueError, match="weights must be above 0"):
        GaussianMixture(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        GaussianMixture(torch.ones(1), torch.zeros(1, 1), -torch.ones(1))
