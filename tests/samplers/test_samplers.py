"""Samplers agree with exact answers: affine propagation of Gaussians, published formulas, the floors of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from conftest import SDES, plane
from scipy.integrate import quad
from torch import Tensor

from sdegen import metrics
from sdegen.core.randomness import SampleNoise
from sdegen.datasets import Affine, Mixture
from sdegen.metrics import points, verification
from sdegen.metrics.verification import MEAN, VARIANCE, gaussian, marginal, output
from sdegen.models import Raw, ScoreModel
from sdegen.networks.oracle import Oracle
from sdegen.runs.sampling import draw
from sdegen.samplers import (
    DDIM,
    HMC,
    RK4,
    RK45,
    Adams,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    Corrector,
    Dopri5,
    DPMSolver,
    EulerMaruyama,
    Heun,
    Langevin,
    MetropolisHMC,
    Moved,
    Predictor,
    ReverseDiffusion,
    Sampler,
    StepSampler,
    StochasticAdams,
    StochasticDPMSolver,
    StochasticHeun,
    Twisted,
)
from sdegen.sde import VE, VP, Cosine, LinearSDE
from sdegen.sde.mixture import GaussianMixture, Marginals

PREDICTORS: dict[str, Predictor] = {
    "euler_maruyama": EulerMaruyama(),
    "reverse_diffusion": ReverseDiffusion(),
    "ancestral": Ancestral(),
    "stochastic_heun": StochasticHeun(),
    "rk4": RK4(),
    "heun": Heun(),
    "ddim": DDIM(),
    "ddim eta=0.5": DDIM(0.5),
    "ddim eta=1": DDIM(1.0),
    "dpm_solver 1": DPMSolver(1),
    "dpm_solver 2": DPMSolver(2),
    "dpm_solver 3": DPMSolver(3),
    "stochastic_dpm_solver 1": StochasticDPMSolver(1),
    "stochastic_dpm_solver 2": StochasticDPMSolver(2),
    "stochastic_dpm_solver 3": StochasticDPMSolver(3),
    "adams": Adams(),
    "adams 2": Adams(2),
    "adams 3": Adams(3, spread=0.4),
    "stochastic_adams": StochasticAdams(),
    "stochastic_adams 1": StochasticAdams(1),
    "stochastic_adams 2 eta=0.5": StochasticAdams(2, eta=0.5),
    "stochastic_adams 3": StochasticAdams(3),
}
CORRECTORS: dict[str, Corrector] = {
    "langevin": Langevin(0.3, moves=2),
    "annealed_langevin": AnnealedLangevin(0.1, moves=3),
    "hmc": HMC(3, 0.4, mass=2.0),
    "metropolis_hmc": MetropolisHMC(3, 0.7, moves=2),
}
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    **{key: lambda p=p: StepSampler(p, steps=12, grid=p.grid) for key, p in PREDICTORS.items()},  # type: ignore[misc]
    **{key: lambda c=c: StepSampler(Ancestral(), c, steps=12) for key, c in CORRECTORS.items()},  # type: ignore[misc]
    "langevin alone": lambda: StepSampler(None, Langevin(), steps=12, grid="karras"),
    "heun churn": lambda: StepSampler(Heun(churn=6.0), steps=12, grid="karras"),
    "logistic denoise": lambda: StepSampler(Adams(), steps=12, grid="logistic", denoise=True),
    "adaptive_sde": lambda: AdaptiveSDE(0.05, 0.05),
    "dopri5": lambda: Dopri5(1e-4, 1e-4),
    "rk45": lambda: RK45(1e-4, 1e-4),
    "twisted": lambda: Twisted(12),
}


def at(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def no_noise(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def one_step(sde: LinearSDE, predictor: Predictor, x: Tensor, t: float, s: float, z: Tensor) -> Tensor:
    (step,) = predictor.plan(sde, torch.tensor([t, s], dtype=torch.float64))
    return step(sde.reverse(gaussian(sde), predictor.eta), x, lambda like: z, ())[0]


# Properties of all samplers


@pytest.mark.parametrize("key", PREDICTORS)
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_moments_converge_at_the_declared_order(key: str, sde: LinearSDE) -> None:
    proof = verification.order(sde, PREDICTORS[key])
    assert proof.holds, proof


@pytest.mark.parametrize("key", SAMPLERS)
def test_sample_does_not_depend_on_its_batch_or_on_the_last_call(key: str, sde: LinearSDE) -> None:
    for proof in (verification.invariance(sde, SAMPLERS[key]()), verification.repetition(sde, SAMPLERS[key]())):
        assert proof.holds or SAMPLERS[key]().couples, proof


@pytest.mark.parametrize("key", SAMPLERS)
def test_evaluations_are_those_counted_and_those_asked_for(key: str) -> None:
    proof = verification.evaluations(VP(), SAMPLERS[key]())
    assert proof.holds, proof


@pytest.mark.parametrize("key", [key for key in SAMPLERS if key not in ("adaptive_sde", "metropolis_hmc")])
@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)], ids=str)
def test_every_sampler_treats_the_entries_of_a_vector_or_an_image_alike(
    key: str, sde: LinearSDE, shape: tuple[int, ...]
) -> None:
    """The entries of these Gaussian data are independent, so an entry has the same result if it is sampled alone."""
    like = torch.empty(6, *shape, dtype=torch.float64)
    noise, again = SampleNoise(0, 0, 6, shape), SampleNoise(0, 0, 6, shape)
    prior = sde.sample_prior(like, noise)
    again(like)
    together = SAMPLERS[key]()(sde, gaussian(sde), prior, noise=noise).x
    assert together.shape == like.shape
    first = prior.flatten(1)[:, :1]
    alone = SAMPLERS[key]()(sde, gaussian(sde), first, noise=lambda x: again(like).flatten(1)[:, :1]).x
    tolerance = 2e-3 if key in ("dopri5", "rk45") else 1e-9
    torch.testing.assert_close(together.flatten(1)[:, :1], alone, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("key", ["adaptive_sde", "metropolis_hmc"])
def test_images_are_treated_as_the_vectors_of_their_pixels(key: str, sde: LinearSDE) -> None:
    proof = verification.shapes(sde, SAMPLERS[key]())
    assert proof.holds, proof


@pytest.mark.parametrize("key", SAMPLERS)
def test_path_leads_from_the_prior_to_the_sample_and_changes_nothing(key: str) -> None:
    sde, make = VP(), SAMPLERS[key]
    score = Marginals(plane(), sde)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    runs = [make()(sde, score, x, noise=SampleNoise(0, 0, 5, (2,)), frames=frames) for frames in (0, 6)]
    torch.testing.assert_close(runs[0].x, runs[1].x, rtol=0, atol=1e-12)
    assert torch.equal(runs[1].path[0], x)
    assert runs[1].path.shape == (6, 5, 2)
    assert runs[0].path.shape == (0, 5, 2)
    assert float(runs[1].times[0]) == sde.T
    assert float(runs[1].times[-1]) == sde.eps
    if not make().denoise:
        torch.testing.assert_close(runs[1].path[-1], runs[1].x)


REACHING: list[tuple[str, Sampler]] = [
    *((key, StepSampler(EulerMaruyama(), steps=300)) for key in SDES),
    ("vp", StepSampler(Adams(), steps=30, grid="logistic")),
    ("ve", StepSampler(StochasticAdams(), steps=60, grid="logistic")),
    ("vp", StepSampler(ReverseDiffusion(), Langevin(), steps=300)),
    ("vp", AdaptiveSDE(0.01, 0.005)),
]


@pytest.mark.parametrize(("key", "sampler"), REACHING, ids=lambda value: value if isinstance(value, str) else "")
def test_samples_of_the_exact_score_reach_the_floor(
    key: str, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every metric of the paper's mixture is below five times its floor, the median over sets of exact draws."""
    monkeypatch.setattr(points, "REFERENCE", 20_000)
    monkeypatch.setattr(points, "FLOORS", 20)
    sde = SDES[key] if key != "ve" else VE(sigma_max=50.0)
    dataset = Mixture(0)
    assert dataset.law is not None
    model = ScoreModel(Oracle(dataset.encoded_law, sde), Raw(), sde)
    x = dataset.units.decode(draw(sde, model, sampler, dataset.units, 4000).x)
    for metric, entry in metrics.measure_points(dataset, x).items():
        assert entry["value"] < 5 * entry["floor"], (metric, entry)


@pytest.mark.parametrize("key", ["adams", "metropolis_hmc", "adaptive_sde"])
def test_samples_are_the_same_in_batches_of_7_64_and_70(key: str) -> None:
    sde, make = VP(), SAMPLERS[key]
    model = ScoreModel(Oracle(plane(), sde), Raw(), sde)
    units = Affine(torch.zeros(2).double(), torch.ones(2).double())
    batches = [draw(sde, model, make(), units, 70, batch_size=b, dtype=torch.float64).x for b in (7, 64, 70)]
    for other in (*batches[1:], draw(sde, model, make(), units, 11, dtype=torch.float64).x):
        torch.testing.assert_close(batches[0][: len(other)], other, rtol=0, atol=1e-9)
    different = draw(sde, model, make(), units, 70, seed=1, dtype=torch.float64).x
    assert float((different - batches[0]).abs().min()) > 1e-9


# One step against its published formula


def test_euler_maruyama_step_is_its_formula(sde: LinearSDE) -> None:
    """The coefficients are taken at the start of the step. The order of convergence does not show this."""
    x, z = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    got = one_step(sde, EulerMaruyama(), x, 0.6, 0.5, z)
    g, t = sde.diffusion(at(0.6)), at(0.6)
    expected = x - 0.1 * (sde.drift(x, t) - g**2 * gaussian(sde)(x, t)) + math.sqrt(0.1) * g * z
    torch.testing.assert_close(got, expected)


def ddpm(t: float, s: float) -> tuple[float, float]:
    """Returns β of the step from t to s, and 1 - β, computed from B(t) = 0.1 t + 9.95 t²."""
    kept = math.exp(-(0.1 * t + 9.95 * t * t) + 0.1 * s + 9.95 * s * s)
    return 1 - kept, kept


def test_ancestral_step_is_the_ddpm_chain_on_vp() -> None:
    """The step is x_{i-1} = (x_i + β_i s) / sqrt(1 - β_i) + sqrt(β_i) z, from appendix B."""
    x, z = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    beta, kept = ddpm(0.6, 0.5)
    s = gaussian(VP())(x, at(0.6))
    torch.testing.assert_close(
        one_step(VP(), Ancestral(), x, 0.6, 0.5, z), (x + beta * s) / math.sqrt(kept) + math.sqrt(beta) * z
    )


def test_ancestral_step_is_the_smld_chain_on_ve() -> None:
    """The step is x + q s + sqrt(q σ_{i-1}² / σ_i²) z with q = σ_i² - σ_{i-1}² (Song et al. 2021, eq. 47)."""
    sde = VE(sigma_max=10.0)
    x, z = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    big, small = (1e-4 * (1000 ** (2 * t) - 1) for t in (0.6, 0.5))
    s = gaussian(sde)(x, at(0.6))
    expected = x + (big - small) * s + math.sqrt(small * (big - small) / big) * z
    torch.testing.assert_close(one_step(sde, Ancestral(), x, 0.6, 0.5, z), expected)


def test_ancestral_step_is_the_posterior_of_known_data(sde: LinearSDE) -> None:
    """If the data are one known point, the step draws from p(x_s | x_t, x_0). Only the mean agrees if α² + σ² = 1."""
    x0, x = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[1.3]], dtype=torch.float64)
    t, s = at(0.6), at(0.5)
    reverse = sde.reverse(lambda x, t: (sde.alpha(t) * x0 - x) / sde.sigma(t) ** 2)
    (step,) = Ancestral().plan(sde, torch.stack([t, s]))
    mean = step(reverse, x, no_noise, ())[0]
    std = step(reverse, x, torch.ones_like, ())[0] - mean
    factor = sde.alpha(t) / sde.alpha(s)
    noise = sde.sigma(t) ** 2 - factor**2 * sde.sigma(s) ** 2
    precision = 1 / sde.sigma(s) ** 2 + factor**2 / noise
    expected = (sde.alpha(s) * x0 / sde.sigma(s) ** 2 + factor * x / noise) / precision
    torch.testing.assert_close(mean, expected)
    if not isinstance(sde, VP | Cosine):
        torch.testing.assert_close(float(std), float(precision**-0.5))


def test_reverse_diffusion_step_is_the_published_one() -> None:
    """The steps are eq. 46 and 47 of Song et al. (2021), with the errors of these equations corrected.

    On VP, the step is (2 - sqrt(1 - β)) x + β s + sqrt(β) z. On VE, it is x + q s + sqrt(q) z with q = σ_i² - σ_{i-1}².
    """
    x, z = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    beta, kept = ddpm(0.6, 0.5)
    expected = (2 - math.sqrt(kept)) * x + beta * gaussian(VP())(x, at(0.6)) + math.sqrt(beta) * z
    torch.testing.assert_close(one_step(VP(), ReverseDiffusion(), x, 0.6, 0.5, z), expected)
    sde = VE(sigma_max=10.0)
    q = 1e-4 * (1000**1.2 - 1000**1.0)
    expected = x + q * gaussian(sde)(x, at(0.6)) + math.sqrt(q) * z
    torch.testing.assert_close(one_step(sde, ReverseDiffusion(), x, 0.6, 0.5, z), expected)
    euler = one_step(VP(), EulerMaruyama(), x, 0.6, 0.5, z)
    assert float((euler - one_step(VP(), ReverseDiffusion(), x, 0.6, 0.5, z)).abs()) > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_step_is_the_published_one(eta: float) -> None:
    """The step is eq. 12 and 16 of Song, Meng & Ermon (2021), with ᾱ as α and ε = -sqrt(1 - ᾱ_t) s."""
    sde, x, z = VP(), torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    bar_t, bar_s = (math.exp(-(0.1 * t + 9.95 * t * t)) for t in (0.6, 0.5))
    eps = -math.sqrt(1 - bar_t) * gaussian(sde)(x, at(0.6))
    std = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
    clean = (x - math.sqrt(1 - bar_t) * eps) / math.sqrt(bar_t)
    expected = math.sqrt(bar_s) * clean + math.sqrt(1 - bar_s - std**2) * eps + std * z
    torch.testing.assert_close(one_step(sde, DDIM(eta), x, 0.6, 0.5, z), expected)


def test_stochastic_heun_step_is_its_formula(sde: LinearSDE) -> None:
    """The noise of the guess uses g at the start. The noise of the step uses the mean of g² at both ends."""
    x, z = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    t, s, h = at(0.6), at(0.5), 0.1

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return sde.drift(x, t) - sde.diffusion(t) ** 2 * gaussian(sde)(x, t)

    guess = x - h * slope(x, t) + math.sqrt(h) * sde.diffusion(t) * z
    std = math.sqrt(h * float(sde.diffusion(t) ** 2 + sde.diffusion(s) ** 2) / 2)
    expected = x - h / 2 * (slope(x, t) + slope(guess, s)) + std * z
    torch.testing.assert_close(one_step(sde, StochasticHeun(), x, 0.6, 0.5, z), expected)


def heun_of_edm(sde: VE, x: Tensor, times: Tensor, options: dict[str, float], noises: Iterator[Tensor]) -> Tensor:
    """Runs algorithm 2 of Karras et al. (2022) for a VE process, with σ as the time."""
    sigmas = sde.sigma(times).tolist()

    def denoised(x: Tensor, sigma: float) -> Tensor:
        return (MEAN * sigma**2 + VARIANCE * x) / (VARIANCE + sigma**2)

    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        within = options.get("churn_min", 0.0) <= sigma <= options.get("churn_max", math.inf)
        gamma = min(options["churn"] / (len(sigmas) - 1), math.sqrt(2) - 1) if within else 0.0
        raised = min(sigma * (1 + gamma), sigmas[0])
        if raised > sigma:
            x = x + math.sqrt(raised**2 - sigma**2) * options.get("churn_noise", 1.0) * next(noises)
        slope = (x - denoised(x, raised)) / raised
        guess = x + (after - raised) * slope
        x = x + (after - raised) * 0.5 * (slope + (guess - denoised(guess, after)) / after)
    return x


@pytest.mark.parametrize(
    "options",
    [
        {"churn": 0.0},
        {"churn": 2.0},
        {"churn": 50.0, "churn_noise": 1.01},
        {"churn": 3.0, "churn_min": 0.05, "churn_max": 3.0},
    ],
    ids=str,
)
def test_heun_is_the_algorithm_of_edm(options: dict[str, float]) -> None:
    sde, x = VE(sigma_max=10.0), torch.tensor([[4.0], [-7.0]], dtype=torch.float64)
    source = torch.Generator().manual_seed(0)
    noises = [torch.randn(2, 1, generator=source, dtype=torch.float64) for _ in range(8)]
    sampler, calls = StepSampler(Heun(**options), steps=8, grid="karras"), iter(noises)
    got = sampler(sde, gaussian(sde), x, noise=lambda like: next(calls)).x
    torch.testing.assert_close(got, heun_of_edm(sde, x, sampler.times(sde), options, iter(noises)))


@pytest.mark.parametrize(
    ("predictor", "nodes"),
    [
        (Adams(), {7: 1, 8: 2, 14: 2, 15: 3, 39: 3, 40: 4}),
        (StochasticAdams(), {14: 1, 15: 2}),
        (Adams(4), {5: 3, 100: 3}),
    ],
    ids=["adams", "stochastic_adams", "adams 4"],
)
def test_number_of_nodes_follows_the_number_of_steps(predictor: Predictor, nodes: dict[int, int]) -> None:
    for steps, count in nodes.items():
        rows = predictor.plan(VP(), StepSampler(predictor, steps=steps, grid="logistic").times(VP()))
        assert len(rows[-1].predict) == count, steps


def test_langevin_alone_moves_at_every_level_the_first_among_them() -> None:
    """Appendix A has M moves at each level, so the corrector has a step size for each time, including the first."""
    sampler = StepSampler(None, AnnealedLangevin(0.1, moves=2), steps=3, grid="log_snr")
    sde, seen = VE(sigma_max=10.0), []

    def score(x: Tensor, t: Tensor) -> Tensor:
        seen.append(float(t))
        return torch.zeros_like(x)

    x = torch.zeros(1, 1, dtype=torch.float64)
    out = sampler(sde, score, x, noise=torch.ones_like)
    times = sampler.times(sde)
    assert seen == times.repeat_interleave(2).tolist()
    torch.testing.assert_close(out.x[0, 0], (2 * (0.2 * sde.sigma(times) ** 2).sqrt()).sum())
    assert out.nfe == sampler.evaluations == 8


def test_churn_leaves_the_marginals_as_they_are() -> None:
    """With churn, the mean and the variance of Gaussian data are still right."""
    for steps in (64, 256):
        mean, variance = output(StepSampler(Heun(churn=10.0), steps=steps, grid="karras"), VP())
        expected = marginal(VP(), VP().eps)
        assert abs(mean - expected[0]) + abs(variance - expected[1]) < 40 / steps**2


def test_third_order_solver_is_dpm_solver_3m() -> None:
    """The oracle is the multistep formula of DPM-Solver++ (Lu et al. 2022), with the full second difference."""
    sde = VP()
    times = StepSampler(DPMSolver(3), steps=3, grid="karras").times(sde)
    lam = -0.5 * sde.log_nsr(times)
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    path = StepSampler(DPMSolver(3), steps=3, grid="karras")(
        sde, gaussian(sde), torch.tensor([[1.7]], dtype=torch.float64), noise=no_noise, frames=4
    ).path

    def data(i: int) -> Tensor:
        return (path[i] + sigma[i] ** 2 * gaussian(sde)(path[i], times[i])) / alpha[i]

    h, h0, h1 = lam[3] - lam[2], lam[2] - lam[1], lam[1] - lam[0]
    r0, r1 = h0 / h, h1 / h
    slope0, slope1 = (data(2) - data(1)) / r0, (data(1) - data(0)) / r1
    first = slope0 + r0 / (r0 + r1) * (slope0 - slope1)
    second = 2 * (slope0 - slope1) / (r0 + r1)
    decay = torch.exp(-h) - 1
    expected = (
        sigma[3] / sigma[2] * path[2]
        - alpha[3] * decay * data(2)
        + alpha[3] * (decay / h + 1) * first
        - alpha[3] * ((decay + h) / h**2 - 0.5) * second
    )
    torch.testing.assert_close(path[3], expected)


def test_adams_integrates_polynomials_through_its_nodes(sde: LinearSDE) -> None:
    """For this score, the integrand F of a step is cos λ for all x.

    The oracle fits polynomials to F with NumPy and integrates them by adaptive quadrature. Each step except the last is
    corrected with the value of F at its end. The first steps have fewer values.
    """
    steps, spread, nodes = 6, 0.7, 3

    def score(x: Tensor, t: Tensor) -> Tensor:
        ratio = sde.sigma(t) / sde.alpha(t)
        v = ratio**2 + spread**2
        data = spread**2 / v * x / sde.alpha(t) + ratio * spread / v.sqrt() * ratio.log().cos()
        return (sde.alpha(t) * data - x) / sde.sigma(t) ** 2

    sampler = StepSampler(Adams(nodes + 1, spread), steps=steps, grid="logistic")
    times, start = sampler.times(sde), torch.tensor([[0.8]], dtype=torch.float64)
    lam = (0.5 * sde.log_nsr(times)).numpy()
    moved = 0.0
    for i in range(steps):
        known = np.arange(max(0, i + 1 - nodes), min(i + 1, steps - 1) + 1)
        through = np.polynomial.Polynomial.fit(lam[known], np.cos(lam[known]), len(known) - 1)
        weight = lambda u: math.exp(u) * spread / (math.exp(2 * u) + spread**2)  # noqa: E731
        moved -= quad(lambda u, p=through: p(u) * weight(u), lam[i], lam[i + 1], epsabs=1e-13)[0]
    ends = [float(sde.alpha(times[i])) * math.hypot(math.exp(lam[i]), spread) for i in (0, -1)]
    out = float(sampler(sde, score, start, noise=no_noise).x)
    assert out == pytest.approx(ends[1] * (0.8 / ends[0] + moved), abs=1e-9)


@pytest.mark.parametrize(("order", "steps"), [(4, 16), (5, 32)])
def test_higher_orders_show_where_the_prior_is_wide(order: int, steps: int) -> None:
    errors = [verification.error(VP(eps=0.05), Adams(order), n) for n in (steps, 2 * steps, 4 * steps)]
    assert math.log2(errors[0] / errors[2]) / 2 > order - 0.3


def test_affine_steps_are_the_steps_of_one_node(sde: LinearSDE) -> None:
    predictor, times = StochasticAdams(order=1, spread=0.7), torch.tensor([0.9, 0.6, 0.5], dtype=torch.float64)
    x, z = torch.tensor([[1.3, -0.4]], dtype=torch.float64), torch.tensor([[0.6, 1.1]], dtype=torch.float64)
    reverse = sde.reverse(gaussian(sde), predictor.eta)
    for step, affine in zip(predictor.plan(sde, times), predictor.affine(sde, times), strict=True):
        expected, found = (each(reverse, x, lambda like: z, ())[0] for each in (step, affine))
        torch.testing.assert_close(found, expected)


def test_stochastic_adams_has_exact_noise(sde: LinearSDE) -> None:
    """For Gaussian data of the given spread, one step from T to eps is exact."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / (0.25 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2)

    std = float((0.25 * sde.alpha(at(sde.T)) ** 2 + sde.sigma(at(sde.T)) ** 2).sqrt())
    for eta in (0.0, 0.5, 1.0, 1.5):
        x = torch.tensor([[std], [0.0]], dtype=torch.float64)
        impulse = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        sampler = StepSampler(StochasticAdams(1, eta, spread=0.5), steps=1, grid="log_snr")
        out = sampler(sde, score, x, noise=lambda like, z=impulse: z).x
        expected = float(0.25 * sde.alpha(at(sde.eps)) ** 2 + sde.sigma(at(sde.eps)) ** 2)
        assert float(out.square().sum()) == pytest.approx(expected, rel=1e-9)


# Flows


@pytest.mark.parametrize("solver", [Dopri5(1e-8, 1e-8), RK45(1e-8, 1e-8)], ids=["dopri5", "rk45"])
def test_flow_is_the_quantile_map_of_a_gaussian(solver: Sampler, sde: LinearSDE) -> None:
    start, end = marginal(sde, sde.T), marginal(sde, sde.eps)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    out = solver(sde, gaussian(sde), start[0] + math.sqrt(start[1]) * z, noise=no_noise).x
    torch.testing.assert_close(out, end[0] + math.sqrt(end[1]) * z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "solver",
    [Dopri5(1e-7, 1e-7), RK45(1e-7, 1e-7), StepSampler(Adams(6), steps=200, grid="logistic")],
    ids=["dopri5", "rk45", "adams"],
)
def test_flow_on_the_line_is_the_quantile_map_of_a_mixture(solver: Sampler, line: GaussianMixture) -> None:
    """The oracle is the distribution function of the mixture at both ends of the flow, in closed form."""
    sde = VP()

    def cdf(x: Tensor, t: float) -> Tensor:
        alpha, sigma = sde.alpha(at(t)), sde.sigma(at(t))
        spread = (alpha**2 * line.covariances + sigma**2).sqrt()
        return (line.weights * torch.special.ndtr((x - alpha * line.means.T) / spread)).sum(1)

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    out = solver(sde, Marginals(line, sde), x, noise=no_noise).x
    torch.testing.assert_close(cdf(out, sde.eps), cdf(x, sde.T), rtol=0, atol=1e-5)


# Grids


@pytest.mark.parametrize("grid", ["uniform", "quadratic", "log_snr", "karras", "logistic"])
def test_grid_covers_the_interval_exactly(sde: LinearSDE, grid: str) -> None:
    times = StepSampler(EulerMaruyama(), steps=37, grid=grid).times(sde)  # type: ignore[arg-type]
    assert float(times[0]) == sde.T
    assert float(times[-1]) == sde.eps
    steps = times[:-1] - times[1:]
    assert bool((steps > 0).all())
    assert float(steps.sum()) == pytest.approx(sde.T - sde.eps, rel=1e-12)
    lam = 0.5 * sde.log_nsr(times)
    # Each grid is uniform in one variable. For the logistic grid, this is the distribution function of a mixture of a
    # uniform and a logistic distribution of λ.
    mass = torch.sigmoid((-0.8 - lam) / 0.75)
    even = (lam[0] - lam) / (lam[0] - lam[-1])
    uniform_in = {
        "uniform": times,
        "quadratic": times.sqrt(),
        "log_snr": lam,
        "karras": torch.exp(lam / 7),
        "logistic": 0.3 * even + 0.7 * (mass - mass[0]) / (mass[-1] - mass[0]),
    }
    spacing = uniform_in[grid].diff()
    torch.testing.assert_close(spacing, spacing.mean().expand(37), rtol=1e-4, atol=0)


def test_denoising_is_the_mean_of_clean_data_given_the_sample(sde: LinearSDE) -> None:
    """The oracle is Gaussian conjugacy. With a large ε, the denoising step changes the sample noticeably."""
    before, sde.eps = sde.eps, 0.2
    try:
        sampler, clean = StepSampler(EulerMaruyama(), steps=50), StepSampler(EulerMaruyama(), steps=50, denoise=True)
        x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
        noisy = sampler(sde, gaussian(sde), x, noise=no_noise)
        denoised = clean(sde, gaussian(sde), x, noise=no_noise)
        alpha, sigma = sde.alpha(at(0.2)), sde.sigma(at(0.2))
        expected = (MEAN / VARIANCE + alpha * noisy.x / sigma**2) / (1 / VARIANCE + alpha**2 / sigma**2)
        torch.testing.assert_close(denoised.x, expected)
        assert denoised.nfe == noisy.nfe + 1
    finally:
        sde.eps = before


def test_prior_of_ve_forgets_the_data_as_sigma_max_grows() -> None:
    """The prior ignores the data. This causes an error in the variance after the flow, which falls as 1/σ_max²."""
    errors = []
    for sigma_max in (5.0, 10.0, 20.0):
        sde = VE(sigma_max=sigma_max)
        z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        out = Dopri5(1e-8, 1e-8)(sde, gaussian(sde), sde.sample_prior(z, lambda like: z), noise=no_noise).x
        errors.append(abs(float(out[1] - out[0]) ** 2 - VARIANCE))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_corrector_acts_at_every_new_time() -> None:
    seen: list[float] = []

    class Watch(Corrector):
        evaluations = 0

        def sizes(self, sde, times) -> Tensor:  # noqa: ANN001
            return times[1:]

        def __call__(self, score, x, t, size, noise) -> Moved:  # noqa: ANN001
            assert float(t) == size
            seen.append(size)
            return Moved(x + 1)

    sampler = StepSampler(EulerMaruyama(), Watch(), steps=4)
    out = sampler(VP(), lambda x, t: -x, torch.zeros(1, 1, dtype=torch.float64), noise=no_noise).x
    torch.testing.assert_close(torch.tensor(seen).double(), sampler.times(VP())[1:])
    assert float(out) >= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepSampler(EulerMaruyama(), steps=0), "steps=0 must be at least 1"),
        (lambda: StepSampler(None), "predictor=null and corrector=null"),
        (lambda: StepSampler(DPMSolver(3), steps=2), "steps=2 must be at least 3 for this"),
        (lambda: StepSampler(Adams(5), steps=3), "steps=3 must be at least 4 for this"),
        (lambda: StepSampler(Adams(), Langevin()), "corrector cannot follow this predictor"),
        (lambda: DPMSolver(4), "order=4 must lie between 1 and 3"),
        (lambda: StochasticDPMSolver(2, eta=-1.0), "eta=-1 must be at least 0"),
        (lambda: Adams(1), "order=1 must lie between 2 and 6"),
        (lambda: StochasticAdams(4), "order=4 must lie between 1 and 3"),
        (lambda: Adams(3, spread=-1.0), "spread=-1 must be at least 0"),
        (lambda: DDIM(1.5), "eta=1.5 must lie between 0 and 1"),
        (lambda: Heun(churn=-1.0), "churn=-1 must be at least 0"),
        (lambda: Heun(churn_min=2.0, churn_max=1.0), "churn_min=2 must lie"),
        (lambda: Langevin(0.0), "snr=0 must be above 0 and below 1"),
        (lambda: Langevin(1.0), "snr=1 must be above 0 and below 1"),
        (lambda: Langevin(moves=0), "moves=0 must be at least 1"),
        (lambda: AnnealedLangevin(2.0), "size=2 must be above 0 and below 2"),
        (lambda: HMC(leaps=0), "leaps=0 must be at least 1"),
        (lambda: HMC(size=2.0), "size=2 must be above 0 and below 2"),
        (lambda: MetropolisHMC(mass=0.0), "mass=0 must be above 0"),
        (lambda: AdaptiveSDE(rtol=0.0), "rtol=0 must be above 0"),
        (lambda: AdaptiveSDE(max_steps=0), "max_steps=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
