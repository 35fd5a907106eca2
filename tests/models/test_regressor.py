"""Regressors of noisy data agree with textbook formulas for linear-Gaussian data, and with quadrature for mixtures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdegen.config import assembly
from sdegen.config.components import Components
from sdegen.config.compose import composed
from sdegen.core.randomness import generator, own_layers, randn_like
from sdegen.datasets.simulators import observed
from sdegen.guidance import Regressor
from sdegen.models import RegressorModel
from sdegen.networks import Network, RegressorConv
from sdegen.runs.likelihoods import conditional
from sdegen.sde import VE, VP
from sdegen.sde.base import LinearSDE
from sdegen.sde.mixture import GaussianMixture

MATRIX = torch.tensor([[1.0, 0.5], [0.0, 2.0], [0.3, -0.4]], dtype=torch.float64)
NOISE = 0.4
EYE = torch.eye(2, dtype=torch.float64)


def exact(sde: LinearSDE, t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns B and C with y | x_t ~ N(B x_t, C), for θ ~ N(0, I) and y = Aθ + noise, by conditioning θ on x_t."""
    alpha, variance = sde.alpha(t), sde.sigma(t) ** 2
    spread = variance / (alpha**2 + variance)
    b = MATRIX * alpha / (alpha**2 + variance)
    return b, spread * MATRIX @ MATRIX.T + NOISE**2 * torch.eye(3, dtype=torch.float64)


class Exact(Network):
    """Network that returns the numbers of the exact Gaussian, from the Cholesky factor of its covariance."""

    predicts = "condition"

    def __init__(self, sde: LinearSDE) -> None:
        super().__init__()
        self.sde = sde

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        b, covariance = exact(self.sde, t)
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
        scales = inverse.diagonal()
        lower = inverse / scales.unsqueeze(1)
        fixed = torch.cat([scales.log(), torch.stack([lower[1, 0], lower[2, 0], lower[2, 1]])])
        return torch.cat([torch.zeros(len(x), 1), x @ b.T, fixed.expand(len(x), -1)], dim=1).unsqueeze(1)


@pytest.mark.parametrize("t", [1e-5, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("sde", [VP(), VE(0.01, 10.0)], ids=["vp", "ve"])
def test_guided_by_the_exact_likelihood_is_the_score_of_the_posterior(sde: LinearSDE, t: float) -> None:
    x = torch.randn(20, 2, generator=generator("cpu", 0, "x"), dtype=torch.float64)
    y, time = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64), torch.tensor(t, dtype=torch.float64)
    alpha, variance = sde.alpha(time), sde.sigma(time) ** 2
    covariance = torch.linalg.inv(EYE + MATRIX.T @ MATRIX / NOISE**2)
    mean = covariance @ MATRIX.T @ y / NOISE**2
    posterior = -torch.linalg.solve(alpha**2 * covariance + variance * EYE, (x - alpha * mean).T).T
    guidance = Regressor(RegressorModel(Exact(sde), sde), y)
    guided = guidance(sde, lambda x, t: -x / (alpha**2 + variance))
    torch.testing.assert_close(guided(x, time), posterior, rtol=1e-7, atol=1e-7)


def test_log_density_and_ranks_are_those_of_the_mixture() -> None:
    """A mixture of two Gaussians in three dimensions, from torch's distributions."""
    source = generator("cpu", 0, "numbers")
    output = torch.randn(4, 2, 10, generator=source, dtype=torch.float64)
    y = torch.randn(4, 3, generator=source, dtype=torch.float64)

    class Fixed(Network):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return output

    model = RegressorModel(Fixed(), VP())
    lower = torch.eye(3, dtype=torch.float64).repeat(4, 2, 1, 1)
    for entry, (i, j) in enumerate([(1, 0), (2, 0), (2, 1)]):
        lower[:, :, i, j] = output[:, :, 7 + entry]
    root = torch.diag_embed(output[:, :, 4:7].exp()) @ lower
    parts = torch.distributions.MultivariateNormal(output[:, :, 1:4], precision_matrix=root.mT @ root)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=output[:, :, 0]), parts)
    torch.testing.assert_close(model.given(y)(y, torch.tensor(0.5)), mixture.log_prob(y))
    draws = mixture.sample((100_000,))
    assert float((model(y, y).ranks(y) - (draws < y).double().mean(0)).abs().max()) < 0.008


def test_the_exact_likelihood_of_a_joint_mixture_is_the_closed_form() -> None:
    prior, source = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1)), generator("cpu", 0, "points")
    x, c = (torch.randn(9, k, generator=source, dtype=torch.float64) for k in (2, 3))
    t = torch.tensor(0.4, dtype=torch.float64)
    b, covariance = exact(VP(), t)
    closed = torch.distributions.MultivariateNormal(x @ b.T, covariance).log_prob(c)
    torch.testing.assert_close(conditional(observed(prior, MATRIX, NOISE), VP(), x, t, c), closed)


def trained(*overrides: str, **nodes: dict) -> tuple[RegressorModel, Components]:
    options = ["experiment=regressor", "network.hidden=[64,64]", "trainer.steps=1500", "trainer.threads=1", *overrides]
    parts = assembly.build({**composed("train", options), **nodes})
    training = parts.training()
    training.run(lambda *_: None, lambda: None, lambda: None)
    return training.averages[0].double().requires_grad_(False), parts


def test_a_trained_regressor_has_the_mean_and_the_covariance_of_the_condition() -> None:
    """The comparison is in the network's units, which are the standard deviations of the conditions."""
    model, parts = trained("dataset.size=null")
    data, points = parts.dataset, parts.dataset.units.affine
    assert points is not None
    assert data.conditions is not None
    x = torch.randn(500, 2, generator=generator("cpu", 1, "x"), dtype=torch.float64)
    scale, shift = data.conditions.units.scale, data.conditions.units.shift
    for t in (0.01, 0.2, 0.5, 1.0):
        time = torch.tensor(t, dtype=torch.float64)
        alpha, variance = VP().alpha(time), VP().sigma(time) ** 2
        noisy = alpha * x + variance.sqrt() * x.flip(0)
        # In the user's units, θ ~ N(0, I), and x_t is that of (θ - shift) / scale.
        prior = alpha**2 / points.scale**2
        mean = (noisy + alpha * points.shift / points.scale) * (alpha / points.scale) / (prior + variance)
        spread = torch.diag(variance / (prior + variance))
        expected = (mean @ data.matrix.T - shift) / scale
        covariance = data.matrix @ spread @ data.matrix.T + data.noise**2 * EYE
        found = model(noisy, time)
        assert float((found.means[:, 0] - expected).square().mean().sqrt()) < 0.06
        relative = (found.covariances()[:, 0] - covariance / scale / scale[:, None]).abs().mean(0)
        assert float(relative.max()) < 0.05


def test_a_convolutional_regressor_has_the_likelihood_of_a_linear_functional_of_independent_pixels() -> None:
    """Each pixel has a weight of its own, so that the place and the brightness of the features count."""
    source, sde, noise = generator("cpu", 0, "images"), VP(), 0.4
    draw = lambda *shape: torch.randn(*shape, generator=source)  # noqa: E731
    weights = 0.4 * draw(16)
    with own_layers("cpu", 0, "network"):
        model = RegressorModel(RegressorConv((1, 4, 4), (1,), sde, channels=(8, 16), fourier_features=16), sde)

    def triples(n: int) -> tuple[Tensor, Tensor, Tensor]:
        x, t = draw(n, 1, 4, 4), sde.eps + (sde.T - sde.eps) * torch.rand(n, generator=source)
        return sde.perturb(x, t, randn_like(source)), t, (x.flatten(1) @ weights + noise * draw(n)).unsqueeze(1)

    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, 200)
    for _ in range(200):
        x, t, y = triples(256)
        loss = -model.given(y)(x, t).mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step(), schedule.step()
    with torch.no_grad():
        x, t, y = triples(10_000)
        found = model.given(y)(x, t)
    alpha, variance = sde.alpha(t), sde.sigma(t) ** 2
    mean = alpha / (alpha**2 + variance) * (x.flatten(1) @ weights)
    spread = (variance / (alpha**2 + variance) * weights.square().sum() + noise**2).sqrt()
    excess = torch.distributions.Normal(mean, spread).log_prob(y[:, 0]) - found
    assert abs(float(excess.mean())) < 0.01
    # A regressor that ignores the image has a much larger excess.
    blind = torch.distributions.Normal(0.0, math.hypot(float(weights.norm()), noise)).log_prob(y[:, 0])
    assert float((found - blind).mean()) > 0.1


def test_several_gaussians_come_closer_to_the_likelihood_under_a_prior_of_two_modes() -> None:
    """The smallest loss is the entropy of y given x_t, by quadrature over θ."""
    losses, t = {}, torch.tensor(0.35, dtype=torch.float64)
    alpha, sigma = VP().alpha(t), VP().sigma(t)
    for components in (1, 3):
        model, parts = trained(f"network.components={components}", dataset={"_target_": "users.TwoModes"})
        points, told = parts.dataset.units.affine, parts.dataset.conditions
        assert points is not None
        assert told is not None
        theta, y = parts.dataset.pairs(4000, generator("cpu", 3, "unseen"))
        noise = torch.randn(theta.shape, generator=generator("cpu", 4, "noise"), dtype=torch.float64)
        x = alpha * points.encode(theta) + sigma * noise
        losses[components] = -float(model.given(told.encode(y))(x, t).mean() - told.units.scale.log().sum())
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    prior = 0.5 * sum(torch.distributions.Normal(m, 0.3).log_prob(grid).exp() for m in (-1.5, 1.5))
    kernel = torch.distributions.Normal(alpha * points.encode(grid[:, None])[:, 0], sigma).log_prob(x).exp()
    weights = prior * kernel
    density = (weights * torch.distributions.Normal(grid, 0.3).log_prob(y).exp()).sum(1) / weights.sum(1)
    best = -float(density.log().mean())
    assert best - 0.01 < losses[3] < best + 0.05
    assert losses[1] > best + 0.2
