"""Each λ(t) is the loss of its paper, which is computed here as the paper writes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sdegen.core.randomness import randn_like
from sdegen.networks import MLP
from sdegen.sde import LinearSDE
from sdegen.training.objective import Denoising, Noised
from sdegen.training.weighting import EDM, Velocity


def test_velocity_loss_is_the_distance_to_the_velocity_of_the_path(sde: LinearSDE) -> None:
    """The value and the gradient are those of ‖v_θ - (α' x₀ + σ' z)‖², with α' and σ' by autodiff of the kernel."""
    source = torch.Generator().manual_seed(0)
    network = MLP((3,), (16,), activation="tanh").double()
    x0 = torch.randn(50, 3, generator=source, dtype=torch.float64)
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    rows = Denoising().prepare(sde, x0, t, randn_like(source))
    alpha, sigma = (function(t)[:, None] for function in (sde.alpha, sde.sigma))
    time = t.clone().requires_grad_()
    slopes = (torch.autograd.grad(f(time).sum() + 0 * time.sum(), time)[0] for f in (sde.alpha, sde.sigma))
    alpha_slope, sigma_slope = (slope[:, None] for slope in slopes)
    score = network(rows.x, t)
    data, noise = (rows.x + sigma**2 * score) / alpha, -sigma * score
    error = alpha_slope * (data - x0) + sigma_slope * (noise - rows.noise)
    weighted = Velocity()(sde, t) * Denoising().loss(network, rows)
    torch.testing.assert_close(weighted, error.square().sum(1), rtol=1e-8, atol=1e-10)
    gradients = [torch.autograd.grad(loss.sum(), list(network.parameters())) for loss in (weighted, error.square())]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", [(-1.2, 1.2, 1.0), (0.3, 0.8, 0.5)])
def test_edm_loss_has_the_expectation_of_its_paper(sde: LinearSDE, options: tuple[float, float, float]) -> None:
    """For data of two points, E λ(σ)‖D(y + σn; σ) - y‖² over log-normal σ is the loss over uniform t.

    The network F is arbitrary. The means over σ, t and n are quadratures.
    """
    p_mean, p_std, sigma_data = options
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    n, weights = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    y, n = torch.tensor([-0.7, 1.1]).double().repeat(30), n.repeat_interleave(2)
    share = weights.repeat_interleave(2) / 2

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        out, into = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt(), 1 / (sigma**2 + sigma_data**2).sqrt()
        return skip * x + out * torch.sin(into * x + 0.25 * sigma.log())

    def paper(sigma: Tensor) -> Tensor:
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        squares = (denoiser(y + sigma[:, None] * n, sigma[:, None]) - y).square()
        return weight * (share * squares).sum(1)

    def ours(t: Tensor) -> Tensor:
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        x = alpha * y + sigma * n
        score = (alpha * denoiser(x / alpha, sigma / alpha) - x) / sigma**2
        flat = [part.expand(x.shape).reshape(-1, 1) for part in (x, t[:, None], n, sigma)]
        rows = Noised(flat[0], flat[1][:, 0], flat[2], flat[3][:, 0])
        losses = Denoising().loss(lambda *_: score.reshape(-1, 1), rows).view(x.shape)
        return EDM(*options)(sde, t) * (share * losses).sum(1)

    ends = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
    low, high = (((sde.sigma(ends) / sde.alpha(ends)).log() - p_mean) / p_std).tolist()
    quantiles = (np.arange(5_000) + 0.5) / 5_000
    levels = torch.from_numpy(stats.truncnorm(low, high, p_mean, p_std).ppf(quantiles)).exp()
    expected = float(paper(levels).mean())
    t = torch.linspace(np.log(sde.eps), 0, 5_001, dtype=torch.float64).exp().clamp(sde.eps, sde.T)
    found = float(torch.trapezoid(ours(t) * t, t.log())) / (sde.T - sde.eps)
    assert found == pytest.approx(expected, rel=1e-4)
