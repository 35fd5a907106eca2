"""The kernels agree with simulated paths and with their differential equations, even where the paper does not."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import SDES, standard_error

from sdegen.flow.solvers import DormandPrince
from sdegen.sde import EDM, VE, VP, Cosine, Linear, LinearSDE, SubVP
from sdegen.sde.base import ReverseSDE

NO_TIMES = torch.zeros(0)


@pytest.fixture(params=SDES.values(), ids=SDES.keys())
def sde(request: pytest.FixtureRequest) -> LinearSDE:
    return request.param


def simulate(sde: LinearSDE, x0: float, t: float, paths: int, steps: int) -> torch.Tensor:
    """Returns x(t) by Euler–Maruyama, which uses only f and g."""
    source = torch.Generator().manual_seed(0)
    x = torch.full((paths, 1), x0, dtype=torch.float64)
    h = t / steps
    for i in range(steps):
        # With additive noise, the scheme is most accurate with f and g from the middle of the step.
        now = torch.tensor((i + 0.5) * h, dtype=torch.float64)
        z = torch.randn(x.shape, generator=source, dtype=torch.float64)
        x = x + h * sde.drift(x, now) + math.sqrt(h) * sde.diffusion(now) * z
    return x.flatten()


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
def test_kernel_has_the_moments_of_simulated_paths(sde: LinearSDE, share: float) -> None:
    # Where α vanishes, Euler–Maruyama would need ever shorter steps.
    t = share * (0.9 if float(sde.alpha(torch.tensor(sde.T))) < 0.005 else 1)
    x = simulate(sde, 3.0, t, 20_000, 400)
    time = torch.tensor(t, dtype=torch.float64)
    sigma = float(sde.sigma(time))
    assert float(x.mean()) == pytest.approx(3 * float(sde.alpha(time)), abs=4 * standard_error(x) + 0.004)
    assert float(x.std()) == pytest.approx(sigma, rel=4 / math.sqrt(2 * len(x)) + 0.01)


def test_perturb_draws_from_the_kernel(sde: LinearSDE) -> None:
    source = torch.Generator().manual_seed(1)
    x0 = torch.full((100_000, 2), 3.0, dtype=torch.float64)
    t = torch.full((100_000,), 0.3, dtype=torch.float64)
    x = sde.perturb(x0, t, lambda like: torch.randn(like.shape, generator=source, dtype=like.dtype))
    simulated = simulate(sde, 3.0, 0.3, 100_000, 200)
    assert float(x.mean()) == pytest.approx(float(simulated.mean()), abs=5 * standard_error(simulated) + 0.004)
    assert float(x.std()) == pytest.approx(float(simulated.std()), rel=0.015)


def test_kernel_solves_the_moment_equations(sde: LinearSDE) -> None:
    t = torch.linspace(0.001, sde.T, 50, dtype=torch.float64, requires_grad=True)
    alpha, variance = sde.alpha(t), sde.sigma(t) ** 2
    # The product with t makes the constant α of VE depend on t, so that autograd can differentiate it.
    (d_product,) = torch.autograd.grad((alpha * t).sum(), t, retain_graph=True)
    d_alpha = (d_product - alpha) / t
    (d_variance,) = torch.autograd.grad(variance.sum(), t)
    rate = sde.drift(torch.ones(50, 1, dtype=torch.float64), t).flatten()
    torch.testing.assert_close(d_alpha, rate * alpha)
    torch.testing.assert_close(d_variance, 2 * rate * variance + sde.diffusion(t) ** 2)


def test_kernel_starts_at_the_data(sde: LinearSDE) -> None:
    zero = torch.zeros((), dtype=torch.float64)
    assert float(sde.alpha(zero)) == 1
    assert float(sde.sigma(zero)) == 0


def test_vp_preserves_variance() -> None:
    """Erratum 1: α² + σ² is one. With the printed mean factor e^{-B}, the sum is not one."""
    t = torch.linspace(0, 1, 100, dtype=torch.float64)
    torch.testing.assert_close(VP().alpha(t) ** 2 + VP().sigma(t) ** 2, torch.ones_like(t))


def test_subvp_mean_is_not_the_printed_one() -> None:
    """Erratum 2: paths from 3 have the mean 1.889 at t = 0.3. The formula in the paper gives 1.189."""
    x = simulate(SubVP(), 3.0, 0.3, 20_000, 400)
    assert float(x.mean()) == pytest.approx(1.889, abs=0.01)
    assert 3 * float(SubVP().alpha(torch.tensor(0.3))) == pytest.approx(1.889, abs=0.001)


def test_sigma_keeps_its_digits_at_small_times(sde: LinearSDE) -> None:
    t = torch.logspace(-8, -2, 20, dtype=torch.float64)
    torch.testing.assert_close(sde.sigma(t.float()).double(), sde.sigma(t), rtol=1e-5, atol=0)
    # To first order, B = beta_min t, the variance of VE grows as g(0)² t, and the angle of cosine as π t / 2.016.
    first = {
        VP: (0.1 * t).sqrt(),
        SubVP: 0.1 * t,
        VE: t.sqrt() * float(sde.diffusion(torch.zeros(()))),
        Linear: t,
        Cosine: (2 * math.tan(0.008 * math.pi / 2.016) * t * math.pi / 2.016).sqrt(),
        EDM: 5 * t,
    }[type(sde)]
    torch.testing.assert_close(sde.sigma(t)[:8], first[:8], rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    "flat", [VP(beta_min=3.0, beta_max=3.0), SubVP(beta_min=3.0, beta_max=3.0)], ids=["vp", "subvp"]
)
def test_constant_beta_is_a_legal_choice(flat: LinearSDE) -> None:
    t = torch.linspace(1e-5, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(flat.time(flat.log_nsr(t)), t, rtol=1e-9, atol=0)


def test_diffusion_keeps_its_digits_at_small_times(sde: LinearSDE) -> None:
    t = torch.logspace(-8, -2, 20, dtype=torch.float64)
    torch.testing.assert_close(sde.diffusion(t.float()).double(), sde.diffusion(t), rtol=1e-5, atol=0)


def test_time_inverts_the_noise_to_signal_ratio(sde: LinearSDE) -> None:
    t = torch.cat([torch.logspace(-5, -1, 40), torch.linspace(0.1, sde.T, 40)]).double()
    torch.testing.assert_close(sde.time(sde.log_nsr(t)), t, rtol=1e-9, atol=0)
    torch.testing.assert_close(sde.time(sde.log_nsr(t.float())), t.float(), rtol=1e-4, atol=0)


def test_noise_to_signal_ratio_grows_as_g_squared_over_sigma_squared(sde: LinearSDE) -> None:
    t = torch.linspace(0.01, sde.T, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(sde.log_nsr(t).sum(), t)
    torch.testing.assert_close(slope, (sde.diffusion(t) / sde.sigma(t)) ** 2)


def test_prior_is_a_normalised_density_with_the_spread_of_its_draws(sde: LinearSDE) -> None:
    grid = torch.linspace(-100, 100, 20_001, dtype=torch.float64)[:, None]
    assert float(torch.trapezoid(sde.log_prior(grid).exp(), grid.flatten())) == pytest.approx(1, abs=1e-9)
    source = torch.Generator().manual_seed(0)
    x = sde.sample_prior(torch.empty(50_000, 1), lambda like: torch.randn(like.shape, generator=source)).double()
    spread = torch.trapezoid(sde.log_prior(grid).exp() * grid.flatten() ** 2, grid.flatten()).sqrt()
    assert float(x.std()) == pytest.approx(float(spread), rel=0.015)
    entropy = -sde.log_prior(x).mean()
    assert float(entropy) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * float(spread) ** 2), abs=0.02)


def gaussian_score(sde: LinearSDE, variance: float):  # noqa: ANN201
    def score(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return -x / (sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2).reshape(-1, 1)

    return score


@pytest.mark.parametrize("variance", [0.25, 4.0])
def test_flow_carries_a_gaussian_to_the_data(sde: LinearSDE, variance: float) -> None:
    """Erratum 3: the flow ends with the standard deviation of the data. With the printed ½ g, the end is wrong."""
    flow = sde.reverse(gaussian_score(sde, variance), eta=0).drift
    ends = torch.tensor([sde.eps, sde.T], dtype=torch.float64)
    spread = (sde.alpha(ends) ** 2 * variance + sde.sigma(ends) ** 2).sqrt()
    start = spread[1] * torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    end = DormandPrince(1e-9, 1e-9, 10_000).solve(flow, start, sde.T, sde.eps, NO_TIMES).x
    torch.testing.assert_close(end, start * spread[0] / spread[1], rtol=1e-6, atol=0)
    assert float(end[0] / sde.alpha(ends[0])) == pytest.approx(math.sqrt(variance), rel=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_every_reverse_process_keeps_the_marginals(sde: LinearSDE, eta: float) -> None:
    """The variance of a linear process obeys v' = 2 a v + η² g². Backwards in time, it equals the forward variance."""
    variance = 0.25
    reverse = sde.reverse(gaussian_score(sde, variance), eta)
    one = torch.ones(1, 1, dtype=torch.float64)

    def moment(v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t.reshape(-1)[:1]
        rate = reverse.drift(one, t)
        return 2 * rate * v - reverse.diffusion(t).reshape(1, 1) ** 2

    t = torch.tensor([0.4, 0.8], dtype=torch.float64)
    exact = sde.alpha(t) ** 2 * variance + sde.sigma(t) ** 2
    v = DormandPrince(1e-10, 1e-10, 10_000).solve(moment, exact[1].reshape(1, 1), 0.8, 0.4, NO_TIMES).x
    assert float(v) == pytest.approx(float(exact[0]), rel=1e-6)


def test_stationary_process_stays_so_in_reverse() -> None:
    """Erratum 4: with decreasing time, the reverse SDE of VP keeps the standard deviation of N(0, 1) data at one."""
    sde, steps = VP(), 500
    reverse = sde.reverse(lambda x, t: -x)
    source = torch.Generator().manual_seed(0)
    x = torch.randn(50_000, 1, generator=source, dtype=torch.float64)
    for i in range(steps, 0, -1):
        t = torch.tensor(i / steps, dtype=torch.float64)
        z = torch.randn(x.shape, generator=source, dtype=torch.float64)
        x = x - reverse.drift(x, t) / steps + reverse.diffusion(t) * z / math.sqrt(steps)
    assert float(x.std()) == pytest.approx(1, abs=0.02)


def test_largest_distance_is_measured() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]], dtype=torch.float64)
    assert VE.measure(x, {})["sigma_max"] == pytest.approx(5)
    late = torch.zeros(12_000, 1, dtype=torch.float64)
    late[6000:] = 7.0
    assert VE.measure(late, {})["sigma_max"] == pytest.approx(7)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: VP(beta_max=0.05), "beta_max=0.05 must be at least beta_min=0.1"),
        (lambda: VP(beta_min=0.0), "beta_min=0 must be above 0"),
        (lambda: VP(eps=1.0), "eps=1 must be above 0 and below 1, which is T"),
        (lambda: VE(sigma_max=0.001), "sigma_max=0.001 must be above sigma_min=0.01"),
        (lambda: ReverseSDE(VP(), lambda x, t: x, eta=-1.0), "eta=-1 must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(build, words: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=words):
        build()
