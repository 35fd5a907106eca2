"""All time samplers except the grid estimate the same integral, and importance sampling has the least variance."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from conftest import standard_error
from scipy import stats

from sdegen.config import assembly
from sdegen.config.compose import composed
from sdegen.config.options import Faults
from sdegen.sde import VP, LinearSDE
from sdegen.training.times import Grid, Importance, LogitNormal, LogNormal, Mixed, Stratified, TimeSampler, Uniform
from sdegen.training.weighting import EDM, Likelihood, Variance, Velocity, Weighting
from sdegen.training.weighting import Uniform as Constant

MIXED = [LogNormal(), LogNormal(mean=1.0, std=0.5), LogitNormal(), LogitNormal(mean=-2.0, std=0.7)]
CONTINUOUS = [Uniform(), Stratified(), Importance(), *MIXED]
WEIGHTINGS = [Constant(), Variance(), Likelihood(), Velocity(), EDM()]


def name(value: object) -> str:
    return type(value).__name__


def numbers(steps: int, draws: int, batch: int) -> torch.Tensor:
    return torch.rand(steps, draws, batch, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def loss_at(sde: LinearSDE, t: torch.Tensor) -> torch.Tensor:
    """Returns a loss of order 1/σ² that depends on t, as in denoising."""
    return (1 + torch.sin(3 * t)) / sde.sigma(t) ** 2


@pytest.mark.parametrize("times", CONTINUOUS, ids=name)
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=name)
def test_continuous_samplers_estimate_the_integral(sde: LinearSDE, times: TimeSampler, weighting: Weighting) -> None:
    # Use quadrature in log t, where the integrand is smooth. The interval starts at 0.01, so that uniform
    # times have a finite variance.
    sde = copy.copy(sde)
    sde.eps = 0.01
    nodes = torch.linspace(math.log(sde.eps), math.log(sde.T), 200_001, dtype=torch.float64).exp()
    integrand = weighting(sde, nodes) * loss_at(sde, nodes) * nodes
    exact = float(torch.trapezoid(integrand, nodes.log())) / (sde.T - sde.eps)
    t, ratio = times(sde, weighting, numbers(4000, 2, 16))
    step_means = (ratio * weighting(sde, t) * loss_at(sde, t)).mean((1, 2))
    assert float(step_means.mean()) == pytest.approx(exact, abs=4.5 * standard_error(step_means) + 1e-4 * exact)
    assert float(t.min()) >= sde.eps
    assert float(t.max()) <= sde.T


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=name)
def test_importance_gives_every_row_the_same_weight(sde: LinearSDE, weighting: Weighting) -> None:
    """The product of λ/σ² and the ratio is constant, up to the width of the table's cells."""
    t, ratio = Importance()(sde, weighting, numbers(50, 1, 64))
    weight = ratio * weighting(sde, t) / sde.sigma(t) ** 2
    exact = isinstance(weighting, Likelihood)
    torch.testing.assert_close(weight, weight.mean().expand_as(weight), rtol=1e-9 if exact else 0.03, atol=0)


@pytest.mark.parametrize("times", MIXED, ids=name)
def test_mixed_times_have_the_distribution_of_scipy(sde: LinearSDE, times: Mixed) -> None:
    """A tenth of the draws is uniform. Stratified draws follow a distribution function to within two slices."""
    t, ratio = times(sde, Constant(), numbers(1, 1, 20_000))
    t, uniform = t.flatten().sort().values, stats.uniform(sde.eps, sde.T - sde.eps)
    if isinstance(times, LogNormal):
        levels = [(sde.sigma(end) / sde.alpha(end)).log() for end in torch.tensor([sde.eps, sde.T]).double()]
        low, high = ((float(level) - times.mean) / times.std for level in levels)
        own = stats.truncnorm(low, high, times.mean, times.std).cdf((sde.sigma(t) / sde.alpha(t)).log())
    else:
        own = stats.norm(times.mean, times.std).cdf(torch.logit(torch.from_numpy(uniform.cdf(t))))
    expected = 0.9 * torch.from_numpy(own) + 0.1 * torch.from_numpy(uniform.cdf(t))
    empirical = (torch.arange(len(t)) + 0.5) / len(t)
    assert float((expected - empirical).abs().max()) < 2 / len(t)
    assert float(ratio.max()) <= 10
    # The mean of the ratio is the integral of the uniform density.
    assert float(ratio.mean()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["weighting=edm", "weighting.p_mean=30"],
            "weighting.p_mean=30 with p_std=1.2 is outside of the noise levels",
        ),
        (["times=log_normal", "times.mean=-40"], "times.mean=-40 with std=1.2 is outside of the noise levels"),
        (["times=logit_normal", "times.std=0"], "times.std=0 must be above 0"),
    ],
)
def test_noise_levels_that_the_process_does_not_have_are_refused(options: list[str], message: str) -> None:
    with pytest.raises(Faults, match=f"^{message}"):
        assembly.build(composed("train", ["dataset=smile", *options]))


def test_stratified_draws_one_in_each_slice() -> None:
    sde, n = VP(), 3 * 8
    t, ratio = Stratified(draws=3)(sde, Constant(), numbers(20, 3, 8))
    slices = ((t - sde.eps) / (sde.T - sde.eps) * n).long().flatten(1).sort().values
    assert torch.equal(slices, torch.arange(n).expand(20, n))
    assert torch.equal(ratio, torch.ones_like(t))


def test_float32_never_leaves_the_interval(sde: LinearSDE) -> None:
    u = torch.tensor([0.0, 1 - 2**-24]).expand(1, 4096, 2)
    for times in CONTINUOUS:
        t, ratio = times(sde, Likelihood(), u)
        assert float(t.min()) >= sde.eps * (1 - 1e-5)
        assert float(t.max()) <= sde.T
        assert bool((ratio > 0).all())


def test_grid_meets_every_point_as_often_as_asked() -> None:
    sde = VP()
    t, ratio = Grid(points=5, simulations=3)(sde, Variance(), numbers(2, 15, 4))
    points, counts = t[0, :, 0].unique(return_counts=True)
    torch.testing.assert_close(points, torch.linspace(sde.eps, 1, 5, dtype=torch.float64))
    assert counts.tolist() == [3] * 5
    assert torch.equal(t, t[:1, :, :1].expand_as(t))
    assert torch.equal(ratio, torch.ones_like(t))


def test_grid_overweights_its_smallest_time_under_constant_weight() -> None:
    """The mean of 1/σ² is about 10,000 on the paper's grid of 100 points, and about 70 for uniform times."""
    sde = VP()
    t, _ = Grid(points=100, simulations=1)(sde, Constant(), numbers(1, 100, 1))
    on_grid = (1 / sde.sigma(t) ** 2).mean()
    nodes = torch.linspace(math.log(sde.eps), 0, 100_001, dtype=torch.float64).exp()
    continuum = torch.trapezoid(nodes / sde.sigma(nodes) ** 2, nodes.log())
    assert float(on_grid) == pytest.approx(10_000, rel=0.01)
    assert float(continuum) == pytest.approx(70, rel=0.05)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Uniform(draws=0), "draws=0 must be at least 1"),
        (lambda: Uniform(chunk=0), "chunk=0 must be at least 1"),
        (lambda: Grid(points=1), "points=1 must be at least 2"),
        (lambda: Grid(simulations=0), "simulations=0 must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(build, words: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=words):
        build()
