"""Correctors leave distributions unchanged, and the adaptive SDE solver follows one Brownian path."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import SampleNoise, generator, randn_like
from sdegen.datasets import Affine
from sdegen.metrics.verification import gaussian, marginal, output
from sdegen.models import Raw, ScoreModel
from sdegen.networks.oracle import Oracle
from sdegen.runs.sampling import draw
from sdegen.samplers import (
    HMC,
    AdaptiveSDE,
    AnnealedLangevin,
    Corrector,
    Langevin,
    MetropolisHMC,
    Moved,
    ReverseDiffusion,
    StepSampler,
)
from sdegen.samplers.adaptive import Brownian, StochasticHeunSteps
from sdegen.sde import EDM, VE, VP, Cosine, Linear, LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals

T = 0.3
SPREAD = 0.8
"""Standard deviation of the Gaussian distribution on which a corrector is tried, in units of σ_t."""


def move(corrector: Corrector, sde: LinearSDE, score: Callable, x: Tensor, noise: Callable, times: int = 1) -> Tensor:  # type: ignore[type-arg]
    t = torch.tensor(T, dtype=torch.float64)
    size = float(corrector.sizes(sde, torch.stack([t, t])))
    for _ in range(times):
        x = corrector(score, x, t, size, noise).x
    return x


def sigma(sde: LinearSDE) -> float:
    return float(sde.sigma(torch.tensor(T, dtype=torch.float64)))


def stationary(corrector: Corrector, sde: LinearSDE, std: float, draws: int) -> float:
    """Returns the stationary variance of a corrector on N(0, std²), from the coefficients of its affine move."""
    x = torch.zeros(draws + 1, 1, dtype=torch.float64)
    x[0] = 1
    calls = iter(range(draws))

    def impulse(like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        z[1 + next(calls)] = 1
        return z

    out = move(corrector, sde, lambda x, t: -x / std**2, x, impulse).flatten()
    return float(out[1:].square().sum() / (1 - out[0] ** 2))


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.4])
def test_langevin_settles_where_its_step_size_says(sde: LinearSDE, snr: float) -> None:
    """The move x ← (1 - ε/v) x + sqrt(2ε) z has the stationary variance v / (1 - ε/2v), with ε = 2 r² σ²."""
    s = sigma(sde)
    size, v = 2 * snr**2 * s**2, (SPREAD * s) ** 2
    found = stationary(Langevin(snr, moves=3), sde, SPREAD * s, 3)
    assert found == pytest.approx(v / (1 - size / (2 * v)), rel=1e-9)


def test_langevin_step_has_the_factor_of_the_step_that_led_to_it() -> None:
    """The step size is ε = 2 α_i (r ‖z‖/‖s‖)² (Song et al. 2021, algorithm 5), with α_i = 1 - β_i and ‖z‖/‖s‖ = σ."""
    times = torch.tensor([0.6, 0.5], dtype=torch.float64)
    size = Langevin(0.2).sizes(VP(), times)
    kept = math.exp(-(0.1 * 0.1 + 9.95 * (0.36 - 0.25)))
    variance = 1 - math.exp(-(0.05 + 9.95 * 0.25))
    assert float(size) == pytest.approx(2 * kept * 0.04 * variance, rel=1e-12)


def test_annealed_langevin_steps_are_those_of_appendix_a() -> None:
    """The step size is ε_i = ε σ_i² / σ_1²."""
    sde = VE(sigma_max=10.0)
    times = torch.tensor([1.0, 0.7, 0.4, 0.1], dtype=torch.float64)
    sizes = AnnealedLangevin(0.07).sizes(sde, times)
    variances = 1e-4 * (1e6 ** times[1:] - 1)
    torch.testing.assert_close(sizes / sizes[-1], variances / variances[-1])
    assert float(sizes[-1]) == pytest.approx(0.07 * float(variances[-1]))


@pytest.mark.parametrize("path", [VE(0.01, 50.0), VP(), Linear(), Cosine(), EDM(80.0)], ids=lambda p: type(p).__name__)
def test_annealed_langevin_follows_the_signal_of_every_path(path: LinearSDE) -> None:
    """The chain was made for α = 1. Along other paths, it must not lag behind the growing signal.

    The chain stops where the noise is smaller than the spread of the data, which leaves the same small excess of the
    standard deviation along every path.
    """
    mean, variance = output(StepSampler(None, AnnealedLangevin(0.1, 10), 100, "log_snr"), path)
    exact, expected = marginal(path, path.eps)
    assert mean == pytest.approx(exact, abs=1e-3)
    assert 0 < math.sqrt(variance) - math.sqrt(expected) < 0.05


@pytest.mark.parametrize("leaps", [1, 4])
@pytest.mark.parametrize("mass", [1.0, 3.0])
def test_untested_hmc_settles_where_leapfrog_says(sde: LinearSDE, leaps: int, mass: float) -> None:
    """Leapfrog conserves p²/2m + (1 - h²/4mv) x²/2v, so the variance of x is v / (1 - h²/4mv)."""
    s, size = sigma(sde), 0.9
    v = (SPREAD * s) ** 2
    found = stationary(HMC(leaps, size, mass), sde, SPREAD * s, 1)
    assert found == pytest.approx(v / (1 - size**2 * s**2 / (4 * v)), rel=1e-9)


def test_mass_changes_the_momenta_and_nothing_else(sde: LinearSDE) -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    moved = [
        move(MetropolisHMC(3, 0.5, m), sde, lambda x, t: -(x**3), x, randn_like(generator("cpu", 0)))
        for m in (1.0, 4.0)
    ]
    torch.testing.assert_close(moved[0], moved[1])


@pytest.mark.parametrize("dimensions", [1, 2, 64])
@pytest.mark.parametrize(
    "corrector",
    [Langevin(0.3), AnnealedLangevin(0.1, moves=2), HMC(3, 0.4), MetropolisHMC(3, 0.8)],
    ids=["langevin", "annealed_langevin", "hmc", "metropolis_hmc"],
)
def test_corrector_alone_keeps_a_standard_gaussian_in_any_dimension(corrector: Corrector, dimensions: int) -> None:
    """At T of VP, 200 moves keep the distribution.

    Step sizes from the ratio ‖z‖/‖s‖ of each sample would diverge in one dimension.
    """
    sde, rows = VP(), 6000 // dimensions + 200
    source = randn_like(generator("cpu", 0, dimensions))
    x = source(torch.empty(rows, dimensions, dtype=torch.float64))
    t = torch.tensor(1.0, dtype=torch.float64)
    size = float(corrector.sizes(sde, torch.stack([t, t])))
    for _ in range(200):
        x = corrector(lambda x, t: -x, x, t, size, source).x
    # Without a Metropolis test, the step size makes the variance larger, by at most 10 %.
    numbers = x.numel()
    assert abs(float(x.mean())) < 5 / math.sqrt(numbers)
    assert 1 - 5 / math.sqrt(2 * numbers) < float(x.std()) < 1.05 + 5 / math.sqrt(2 * numbers)


def two_modes() -> GaussianMixture:
    return GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.6], [1.2]]), torch.tensor([0.16, 0.36]))


def test_metropolis_test_restores_the_weights_of_two_modes() -> None:
    """Long trajectories with coarse steps keep a fixed distribution if the test is applied.

    Without the test they are biased.
    """
    law, sde = two_modes(), VE(sigma_min=0.1, sigma_max=10.0)
    source = randn_like(generator("cpu", 3))
    start = law.sample(8000, generator("cpu", 1))

    def score(x: Tensor, t: Tensor) -> Tensor:
        return law.score(x)

    size = 0.6 / sigma(sde)
    exact = law.sample(1_000_000, generator("cpu", 2))
    share = float((exact < 0).double().mean())
    found = {}
    for corrector in (HMC(4, size), MetropolisHMC(4, size)):
        x = move(corrector, sde, score, start, source, times=60)
        found[type(corrector)] = float((x < 0).double().mean()), float(x.var())
    error = 5 * 0.5 / math.sqrt(8000)
    assert abs(found[MetropolisHMC][0] - share) < error
    assert found[MetropolisHMC][1] == pytest.approx(float(exact.var()), rel=0.05)
    assert abs(found[HMC][0] - share) + abs(found[HMC][1] / float(exact.var()) - 1) > 2 * error


def test_acceptance_is_that_of_the_exact_density() -> None:
    """The accepted share is the mean of min(1, e^{-ΔH}), with ΔH from the exact log-density of the mixture."""
    law, sde = two_modes(), VE(sigma_min=0.1, sigma_max=10.0)
    x = law.sample(20_000, generator("cpu", 1))
    t = torch.tensor(T, dtype=torch.float64)
    size, leaps = 0.6 / sigma(sde), 3
    corrector = MetropolisHMC(leaps, size)
    source = randn_like(generator("cpu", 4))
    got = corrector(lambda x, t: law.score(x), x, t, float(corrector.sizes(sde, torch.stack([t, t]))), source)
    p = randn_like(generator("cpu", 4))(x)
    h, q, q_p = 0.6, x.clone(), p.clone()
    for _ in range(leaps):
        q_p = q_p + 0.5 * h * law.score(q)
        q = q + h * q_p
        q_p = q_p + 0.5 * h * law.score(q)
    change = law.log_prob(q) - law.log_prob(x) - 0.5 * (q_p**2 - p**2).flatten()
    assert got.acceptance is not None
    assert float(got.acceptance) == pytest.approx(float(change.exp().clamp(max=1).mean()), abs=5 * 0.5 / 141)
    assert 0.5 < float(got.acceptance) < 0.999


def test_hmc_step_is_in_units_of_the_noise_at_its_own_time(sde: LinearSDE) -> None:
    times = torch.tensor([0.6, 0.5], dtype=torch.float64)
    sizes = HMC(2, 0.7, mass=4.0).sizes(sde, times)
    assert float(sizes) == pytest.approx(0.7 * 2 * float(sde.sigma(times[1])))


def test_change_of_density_is_exact_for_a_score_of_degree_five() -> None:
    """For log p = -x⁶/6 - x²/2, the test accepts a trajectory exactly if the true density accepts it."""
    sde = VE(sigma_min=0.1, sigma_max=10.0)
    x = torch.linspace(-1.5, 1.5, 4001, dtype=torch.float64)[:, None]
    size = 0.3 / sigma(sde)
    source = randn_like(generator("cpu", 5))
    p, luck = source(x), source(x)
    calls = iter((p, luck))
    moved = move(MetropolisHMC(1, size), sde, lambda x, t: -(x**5) - x, x, lambda like: next(calls))
    p_half = p + 0.15 * (-(x**5) - x)
    new = x + 0.3 * p_half
    p_new = p_half + 0.15 * (-(new**5) - new)
    change = (-(new**6) / 6 - new**2 / 2) - (-(x**6) / 6 - x**2 / 2) - 0.5 * (p_new**2 - p**2)
    accept = torch.special.ndtr(luck).log() < change
    clear = (torch.special.ndtr(luck).log() - change).abs() > 1e-9
    assert bool(((moved != x) == accept)[clear].all())
    assert 20 < int((~accept).sum())
    # Some decisions are so close that a wrong rule would change them.
    assert int(((torch.special.ndtr(luck).log() - change).abs() < 1e-3).sum()) >= 1


def test_two_moves_are_one_move_twice() -> None:
    law, sde = two_modes(), VE(sigma_min=0.1, sigma_max=10.0)
    x = law.sample(400, generator("cpu", 1))
    t = torch.tensor(T, dtype=torch.float64)
    size = 0.7 / sigma(sde)

    def run(corrector: MetropolisHMC, x: Tensor, noise: Callable) -> tuple[Tensor, float]:  # type: ignore[type-arg]
        out = corrector(lambda x, t: law.score(x), x, t, float(corrector.sizes(sde, torch.stack([t, t]))), noise)
        assert out.acceptance is not None
        return out.x, float(out.acceptance)

    source, again = randn_like(generator("cpu", 2)), randn_like(generator("cpu", 2))
    once, first = run(MetropolisHMC(3, size), x, source)
    twice, second = run(MetropolisHMC(3, size), once, source)
    both, rate = run(MetropolisHMC(3, size, moves=2), x, again)
    assert first < 1
    assert first != second
    torch.testing.assert_close(both, twice)
    assert rate == pytest.approx((first + second) / 2)


def test_acceptance_is_the_mean_over_times_and_batches() -> None:
    class Fake(Langevin):
        def sizes(self, sde, times) -> Tensor:  # noqa: ANN001
            return torch.tensor([0.2, 0.6, 1.0][: len(times) - 1])

        def __call__(self, score, x, t, size, noise) -> Moved:  # noqa: ANN001
            return Moved(x, torch.tensor(size) * len(x) / 66)

    sde = VP()
    model = ScoreModel(Oracle(two_modes(), sde), Raw(), sde)
    units = Affine(torch.zeros(1).double(), torch.ones(1).double())
    model.train()
    samples = draw(sde, model, StepSampler(ReverseDiffusion(), Fake(), steps=2), units, 130, batch_size=66)
    # There are 66 rows with the rate 0.8, and 64 rows with the rate 0.8 · 64/66.
    assert samples.acceptance == pytest.approx(0.8 * (66 + 64 * 64 / 66) / 130)
    assert model.training


def test_acceptance_is_reported_by_the_sampler() -> None:
    sde = VP()
    score = Marginals(two_modes(), sde)
    x = randn_like(generator("cpu", 0))(torch.empty(500, 1, dtype=torch.float64))
    rates = [
        StepSampler(ReverseDiffusion(), corrector, steps=10)(
            sde, score, x, noise=randn_like(generator("cpu", 1))
        ).acceptance
        for corrector in (MetropolisHMC(2, 0.05), MetropolisHMC(2, 1.8), HMC(2, 0.5))
    ]
    assert rates[0] is not None and rates[1] is not None
    assert rates[0] > 0.99 > rates[1]
    assert rates[2] is None


# The Brownian path of the adaptive solver


def test_brownian_increments_add_up_and_have_their_variance() -> None:
    """In several rows, a step is taken, rejected, and taken again in three parts."""
    rows = torch.arange(40_000)
    source = randn_like(generator("cpu", 0))
    like = torch.empty(len(rows), 2, dtype=torch.float64)
    path = Brownian(like)
    span, whole = path.take(rows, torch.full((len(rows),), 0.5, dtype=torch.float64), source(like))
    path.push(rows, span, whole)
    parts, left = [], 0.5
    for ask in (0.2, 0.1, 0.4):
        got, part = path.take(rows, torch.full((len(rows),), ask, dtype=torch.float64), source(like))
        expected = min(ask, left)
        assert torch.allclose(got, torch.full_like(got, expected))
        left -= expected
        parts.append(part)
    torch.testing.assert_close(sum(parts), whole)
    for part, length in zip(parts, (0.2, 0.1, 0.2), strict=True):
        assert float(part.var()) == pytest.approx(length, rel=0.03)
    joint = torch.stack([part.flatten() for part in parts])
    assert float((torch.corrcoef(joint) - torch.eye(3)).abs().max()) < 0.03
    assert int(path.top.max()) == 0


def test_adaptive_steps_leave_the_law_of_linear_data_right(sde: LinearSDE) -> None:
    """At a tolerance that rejects steps, mean and variance of Gaussian data are right within five standard errors."""
    rows = 5000
    source = randn_like(generator("cpu", 0))
    mean, variance = marginal(sde, sde.T)
    x = mean + math.sqrt(variance) * source(torch.empty(rows, 1, dtype=torch.float64))
    out = AdaptiveSDE(4e-3, 4e-3)(sde, gaussian(sde), x, noise=source).x
    mean, variance = marginal(sde, sde.eps)
    assert abs(float(out.mean()) - mean) < 5 * math.sqrt(variance / rows)
    assert abs(float(out.var()) / variance - 1) < 5 * math.sqrt(2 / rows)


def test_adaptive_step_and_its_error_are_their_formulas() -> None:
    """The step is stochastic Heun.

    Its error is the distance from Euler–Maruyama, divided by atol + rtol max(|x|, |x_new|).

    Algorithm 1 of the source uses the same difference, x' − x'': x'' is the mean of two steps,
    and the first of these steps is x'.
    """
    sde, solver = VP(), AdaptiveSDE(0.1, 0.01)
    x, dw = torch.tensor([[0.2, -3.0]], dtype=torch.float64), torch.tensor([[0.1, 0.2]], dtype=torch.float64)
    t, s = (torch.tensor([value], dtype=torch.float64) for value in (0.5, 0.4))
    drift = sde.reverse(lambda x, t: -x).drift
    scheme = StochasticHeunSteps(sde, lambda x, t, row: drift(x, t), solver.control(sde), x, torch.zeros_like)
    got, error = scheme.step(x, drift(x, t), t, s, t - s, dw, torch.arange(len(x)))
    # The drift is βx/2 with β = 0.1 + 19.9 t, which is 10.05 and 8.06 at the ends.
    euler = [x - 0.1 * 5.025 * x + math.sqrt(10.05) * dw for x, dw in ((0.2, 0.1), (-3.0, 0.2))]
    heun = [
        x - 0.1 * (5.025 * x + 4.03 * e) / 2 + math.sqrt((10.05 + 8.06) / 2) * dw
        for x, e, dw in ((0.2, euler[0], 0.1), (-3.0, euler[1], 0.2))
    ]
    torch.testing.assert_close(got, torch.tensor([heun], dtype=torch.float64))
    off = [(h - e) / (0.01 + 0.1 * max(abs(x), abs(h))) for x, e, h in zip((0.2, -3.0), euler, heun, strict=True)]
    assert float(error) == pytest.approx(math.sqrt((off[0] ** 2 + off[1] ** 2) / 2), rel=1e-12)


def test_rejected_step_at_least_halves_and_an_accepted_one_grows() -> None:
    resized = AdaptiveSDE().control(VP()).resized
    h = torch.tensor([0.25, 0.25, 0.25], dtype=torch.float64)
    proposed = resized(h, h, torch.tensor([1.01, 1e-4, math.nan], dtype=torch.float64))
    assert float(proposed[0]) <= 0.125
    assert float(proposed[1]) > 1.0
    assert float(proposed[2]) <= 0.025
    # A step that was cut at the end of the interval does not shorten the next step.
    short = resized(torch.tensor([0.25]).double(), torch.tensor([0.06]).double(), torch.tensor([0.9]).double())
    assert float(short) >= 0.2


def test_adaptive_path_follows_the_flow_where_there_is_no_noise() -> None:
    """Frames are interpolated between the ends of a step. At a tight tolerance, they are near the solution."""
    sde = VP()
    x = torch.tensor([[1.0], [-0.5]], dtype=torch.float64)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x

    samples = AdaptiveSDE(1e-6, 1e-6)(sde, score, x, noise=torch.zeros_like, frames=9)
    # The drift is -½βx + βx = ½βx, backwards in time.
    clock = 0.1 * samples.times + 9.95 * samples.times**2
    expected = x * torch.exp(-0.5 * (clock[0] - clock))[:, None, None]
    torch.testing.assert_close(samples.path, expected, rtol=1e-3, atol=1e-4)


def test_adaptive_steps_do_not_depend_on_the_last_bits_of_the_score() -> None:
    """Batches of different sizes give the same samples, although a network's matrix products round differently."""
    sde = VE(sigma_max=10.0)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)).double()
    exact = Marginals(
        GaussianMixture(torch.ones(2), torch.tensor([[-1.0, 0], [1, 0.5]]), torch.tensor([0.05, 0.2])), sde
    )

    def score(x: Tensor, t: Tensor) -> Tensor:
        return exact(x, t) + 0.1 * network(x)

    with torch.no_grad():
        parts = []
        for size in (400, 50):
            rows = []
            for start in range(0, 400, size):
                noise = SampleNoise(0, start, start + size, (2,))
                x = sde.sample_prior(torch.empty(size, 2, dtype=torch.float64), noise)
                rows.append(AdaptiveSDE(0.05, 0.05)(sde, score, x, noise=noise).x)
            parts.append(torch.cat(rows))
    torch.testing.assert_close(parts[0], parts[1], rtol=0, atol=1e-9)


def test_adaptive_solver_spends_more_where_it_is_asked_for_more() -> None:
    """Smaller tolerances cost more evaluations."""
    sde, score = VP(), Marginals(two_modes(), VP())
    x = randn_like(generator("cpu", 0))(torch.empty(500, 1, dtype=torch.float64))
    nfe = [
        AdaptiveSDE(tol, tol)(sde, score, x, noise=randn_like(generator("cpu", 1))).nfe for tol in (0.1, 0.01, 0.001)
    ]
    assert nfe[0] < nfe[1] < nfe[2]


def test_adaptive_solver_counts_the_rows_that_are_stuck_or_not_finished_and_says_where() -> None:
    """The messages are like those of dopri5. Without noise a row keeps its sign, and one of the rows is above zero."""
    x = -torch.ones(10, 1, dtype=torch.float64)
    x[3] = 1

    def score(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((x > 0) & (t.reshape(-1, 1) < 0.5), torch.nan, -x)

    def still(x: Tensor, t: Tensor) -> Tensor:
        return -x / 2  # The drift of the reverse process is then 0, and a few steps arrive.

    words = r"^adaptive_sde cannot reach rtol=0.0001, atol=0.0001: 1 of 10 samples found no step within the "
    with pytest.raises(UserError, match=words + r"tolerance, the first at t=0\.5: try a larger rtol"):
        AdaptiveSDE(1e-4, 1e-4)(VP(), score, x, noise=torch.zeros_like)
    words = (
        r"^adaptive_sde cannot reach rtol=0.0001, atol=0.0001 within max_steps=20: 1 of 10 samples did not finish, the "
    )
    with pytest.raises(UserError, match=words + r"first at t=0\.9\d*: try more max_steps"):
        AdaptiveSDE(1e-4, 1e-4, 20)(VP(), lambda x, t: torch.where(x > 0, -x, still(x, t)), x, noise=torch.zeros_like)
