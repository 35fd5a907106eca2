"""Each λ(t) is the loss of its paper, which is computed here as the paper writes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.config.options import Faults
from sdegen.core.errors import UserError
from sdegen.core.randomness import randn_like
from sdegen.networks import MLP
from sdegen.sde import VP, LinearSDE
from sdegen.training.gradient import weighted_losses
from sdegen.training.loop import Training
from sdegen.training.objective import Denoising, Noised
from sdegen.training.weighting import EDM, Uncertainty, Velocity


def test_velocity_loss_is_the_distance_to_the_velocity_of_the_path(sde: LinearSDE) -> None:
    """The value and the gradient are those of ‖v_θ - (α' x₀ + σ' z)‖², with α' and σ' by autodiff of the kernel."""
    source = torch.Generator().manual_seed(0)
    network = MLP((3,), (16,), activation="tanh").double()
    x0 = torch.randn(50, 3, generator=source, dtype=torch.float64)
    t = torch.linspace(0.01, sde.T, 50, dtype=torch.float64)
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


def gaussian(*options: str) -> Training:
    """Returns a training on Gaussian points in the plane, in float64, whose weighting learns the uncertainty."""
    points = ("dataset=gaussian_mixture", "dataset.means=[[0,0]]", "dataset.variances=[1.0]", "dataset.weights=[1.0]")
    settings = ("weighting=uncertainty", "trainer.precision=float64", "network.hidden=[8]", "trainer.device=cpu")
    return assembly.build(composed("train", [*points, *settings, *options])).training()


def level() -> stats.rv_continuous:
    """Returns the distribution of log(σ/α) in the weighting, truncated to the noise levels of the default VP."""
    ends, weighting = torch.tensor([VP().eps, VP().T], dtype=torch.float64), Uncertainty()
    low, high = (((VP().sigma(ends) / VP().alpha(ends)).log() - weighting.p_mean) / weighting.p_std).tolist()
    return stats.truncnorm(low, high, weighting.p_mean, weighting.p_std)


@pytest.mark.parametrize("times", [["times=importance"], ["times=log_normal", "times.mean=0", "times.std=1.5"]])
def test_uncertainty_converges_to_the_exact_loss(times: list[str]) -> None:
    """The score stays exact, as the output of the network stays 0. The exact E σ²‖s - ∇log p_t|0‖² is d/(1 + σ²/α²).

    The moving average has a standard error of 2.2 % in each cell.
    """
    training = gaussian(*times, "optimizer.lr=1e-300", "trainer.batch_size=1024")
    training.vector.data.zero_()
    for chunks in training.stream.steps(0, 600):
        training.advance(chunks)
    sums = training.weighting(0)["sums"]
    levels = np.exp(level().ppf((np.arange(64 * 500) + 0.5) / (64 * 500)))
    exact = torch.from_numpy(2 / (1 + levels**2)).view(64, 500).mean(1)
    off = sums[0] / sums[1] / exact - 1
    assert float(off.abs().max()) < 0.1
    assert float(off.mean().abs()) < 0.012


def test_gradient_is_that_of_the_loss_divided_by_its_learned_mean() -> None:
    """The cells are computed by SciPy, and the gradient by autograd."""
    training = gaussian("trainer.clip=null", "times=importance", "trainer.gradient=autograd")
    for chunks in training.stream.steps(0, 30):
        training.advance(chunks)
    sums, (chunks,) = training.weighting(0)["sums"], training.stream.steps(30, 31)
    t = chunks[0].rows.t[0]
    cell = (64 * torch.from_numpy(level().cdf((VP().sigma(t) / VP().alpha(t)).log()))).long()
    losses = weighted_losses(training.models[0], training.gradient.objective, chunks[0])
    parameters = [p for p in training.models[0].parameters() if p.requires_grad]
    parts = torch.autograd.grad((losses / (sums[0] / sums[1])[cell]).mean(), parameters)
    expected = torch.cat([part.flatten() for part in parts]).norm()
    training.advance(chunks)
    assert float(training.history(0)["norms"][-1]) == pytest.approx(float(expected), rel=1e-9)


def test_losses_that_can_be_negative_have_no_uncertainty() -> None:
    options = ["dataset=smile", "weighting=uncertainty", "objective=sliced", "network.activation=silu"]
    with pytest.raises(Faults, match="^weighting=uncertainty divides by .*: use weighting=variance, or objective=deno"):
        assembly.build(composed("train", options))


def test_a_state_of_another_weighting_is_refused() -> None:
    learned = Uncertainty().learned(VP(), torch.zeros(1, 3))
    wrong: list[dict[str, Tensor]] = [{}, {"sums": torch.ones(2, 5).double()}, {"sums": torch.ones(2, 64)}]
    for state in wrong:
        with pytest.raises(UserError, match="^weighting: the checkpoint's state does not fit"):
            learned.restore([state])
