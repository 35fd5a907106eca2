"""Samplers against exact answers: affine propagation of Gaussians, the flow's closed form, the oracle's floor."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import SDES, plane
from torch import Tensor

from sdegen import metrics
from sdegen.datasets import Mixture
from sdegen.datasets.base import Units
from sdegen.mixture import GaussianMixture, Marginals
from sdegen.networks.oracle import Oracle
from sdegen.rng import SampleNoise
from sdegen.run import draw
from sdegen.samplers import RK45, Corrector, Dopri5, EulerMaruyama, Predictor, Sampler, StepSampler
from sdegen.score import Raw, ScoreModel
from sdegen.sde import VP, LinearSDE

MEAN, VARIANCE = 0.7, 0.3
PREDICTORS: list[Predictor] = [EulerMaruyama()]
SAMPLERS: list[Callable[[], Sampler]] = [
    lambda: StepSampler(EulerMaruyama(), steps=20),
    lambda: StepSampler(EulerMaruyama(), steps=20, grid="log_snr", denoise=True),
    lambda: Dopri5(1e-4, 1e-4),
    lambda: RK45(1e-4, 1e-4),
]
NAMES = ["euler_maruyama", "euler_maruyama log_snr denoise", "dopri5", "rk45"]
BATCHED = SAMPLERS[:3]


def name(value: object) -> str:
    return type(value).__name__


def no_noise(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def gaussian(sde: LinearSDE) -> Callable[[Tensor, Tensor], Tensor]:
    def score(x: Tensor, t: Tensor) -> Tensor:
        t = t if t.ndim == 0 else t.reshape(-1, *[1] * (x.ndim - 1))
        return -(x - sde.alpha(t) * MEAN) / (sde.alpha(t) ** 2 * VARIANCE + sde.sigma(t) ** 2)

    return score


def moments(sde: LinearSDE, t: float) -> tuple[float, float]:
    time = torch.tensor(t, dtype=torch.float64)
    return float(sde.alpha(time) * MEAN), float(sde.alpha(time) ** 2 * VARIANCE + sde.sigma(time) ** 2)


def exact_output(sampler: Sampler, sde: LinearSDE, draws: int) -> tuple[float, float]:
    """Mean and variance of a sampler's output from p_T of Gaussian data, with no Monte Carlo.

    Every step is affine in the start and in the noises, so that feeding unit impulses, one a row, reads off the
    coefficients.
    """
    mean, variance = moments(sde, sde.T)
    x = torch.full((draws + 2, 1), mean, dtype=torch.float64)
    x[1] += math.sqrt(variance)
    calls = iter(range(draws))

    def impulse(like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        z[2 + next(calls)] = 1
        return z

    out = sampler(sde, gaussian(sde), x, noise=impulse).x.flatten()
    return float(out[0]), float((out[1:] - out[0]).square().sum())


@pytest.mark.parametrize("predictor", PREDICTORS, ids=name)
@pytest.mark.parametrize("eps", [0.05])
def test_moments_converge_at_the_declared_order(predictor: Predictor, sde: LinearSDE, eps: float) -> None:
    sde.eps, before = eps, sde.eps
    try:
        errors = []
        for steps in (128, 256, 512):
            mean, variance = exact_output(StepSampler(predictor, steps=steps), sde, steps)
            expected = moments(sde, eps)
            errors.append(abs(mean - expected[0]) + abs(variance - expected[1]))
    finally:
        sde.eps = before
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert min(orders) >= predictor.order - 0.15
    assert errors[-1] < 0.05


def test_euler_maruyama_step_is_its_formula(sde: LinearSDE) -> None:
    """Coefficients at the start of the step, as its order alone cannot tell."""
    t, s = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    x, z = torch.tensor([[1.3]], dtype=torch.float64), torch.tensor([[-0.4]], dtype=torch.float64)
    got, _ = EulerMaruyama().step(sde.reverse(gaussian(sde)), x, t, s, None, lambda like: z)
    g = sde.diffusion(t)
    expected = x - 0.1 * (sde.drift(x, t) - g**2 * gaussian(sde)(x, t)) + math.sqrt(0.1) * g * z
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("solver", [Dopri5(1e-8, 1e-8), RK45(1e-8, 1e-8)], ids=name)
def test_flow_is_the_quantile_map_of_a_gaussian(solver: Sampler, sde: LinearSDE) -> None:
    start, end = moments(sde, sde.T), moments(sde, sde.eps)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    out = solver(sde, gaussian(sde), start[0] + math.sqrt(start[1]) * z, noise=no_noise).x
    torch.testing.assert_close(out, end[0] + math.sqrt(end[1]) * z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", [Dopri5(1e-7, 1e-7), RK45(1e-7, 1e-7)], ids=name)
def test_flow_on_the_line_is_the_quantile_map_of_a_mixture(solver: Sampler, line: GaussianMixture) -> None:
    """Equal distribution functions before and after, those of the mixture in closed form."""
    sde = VP()

    def cdf(x: Tensor, t: float) -> Tensor:
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = sde.alpha(time), sde.sigma(time)
        spread = (alpha**2 * line.covariances + sigma**2).sqrt()
        return (line.weights * torch.special.ndtr((x - alpha * line.means.T) / spread)).sum(1)

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    out = solver(sde, Marginals(line, sde), x, noise=no_noise).x
    torch.testing.assert_close(cdf(out, sde.eps), cdf(x, sde.T), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", ["uniform", "log_snr"])
def test_grid_covers_the_interval_exactly(sde: LinearSDE, grid: str) -> None:
    times = StepSampler(EulerMaruyama(), steps=37, grid=grid).times(sde)  # type: ignore[arg-type]
    assert float(times[0]) == sde.T
    assert float(times[-1]) == sde.eps
    steps = times[:-1] - times[1:]
    assert bool((steps > 0).all())
    assert float(steps.sum()) == pytest.approx(sde.T - sde.eps, rel=1e-12)
    spacing = sde.log_nsr(times).diff() if grid == "log_snr" else steps
    torch.testing.assert_close(spacing, spacing.mean().expand(37), rtol=1e-6, atol=0)


def test_denoising_is_the_mean_of_clean_data_given_the_sample(sde: LinearSDE) -> None:
    """Against Gaussian conjugacy, at an ε where it matters."""
    before, sde.eps = sde.eps, 0.2
    try:
        sampler, clean = StepSampler(EulerMaruyama(), steps=50), StepSampler(EulerMaruyama(), steps=50, denoise=True)
        x = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
        noisy = sampler(sde, gaussian(sde), x, noise=no_noise)
        denoised = clean(sde, gaussian(sde), x, noise=no_noise)
        t = torch.tensor(0.2, dtype=torch.float64)
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        expected = (MEAN / VARIANCE + alpha * noisy.x / sigma**2) / (1 / VARIANCE + alpha**2 / sigma**2)
        torch.testing.assert_close(denoised.x, expected)
        assert denoised.nfe == noisy.nfe + 1
    finally:
        sde.eps = before


@pytest.mark.parametrize("make", SAMPLERS, ids=NAMES)
@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)], ids=str)
def test_every_sampler_works_with_every_sde_and_shape(
    make: Callable[[], Sampler], sde: LinearSDE, shape: tuple
) -> None:
    """Coordinates of Gaussian data are independent: each comes out as it does alone."""
    like = torch.empty(6, *shape, dtype=torch.float64)
    noise = SampleNoise(0, 0, 6, shape)
    prior = sde.sample_prior(like, noise)
    start = noise.draws
    together = make()(sde, gaussian(sde), prior, noise=noise).x
    assert together.shape == like.shape
    if isinstance(make(), StepSampler):
        again = SampleNoise(0, 0, 6, shape)
        for _ in range(start):
            again(like)
        flat = make()(sde, gaussian(sde), prior.flatten(1)[:, :1], noise=lambda x: again(like).flatten(1)[:, :1]).x
        torch.testing.assert_close(together.flatten(1)[:, :1], flat, rtol=1e-9, atol=1e-9)
    else:
        end = [moments(sde, t) for t in (sde.T, sde.eps)]
        exact = end[1][0] + (prior - end[0][0]) * math.sqrt(end[1][1] / end[0][1])
        torch.testing.assert_close(together, exact, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("make", BATCHED, ids=NAMES[:3])
def test_sample_does_not_depend_on_its_batch(make: Callable[[], Sampler], sde: LinearSDE) -> None:
    """Batches of 7, 64 and 130 give the same 130 samples; so does the head of them alone."""
    model = ScoreModel(Oracle(plane(), sde), Raw(), sde)
    units = Units(torch.zeros(2).double(), torch.ones(2).double())
    batches = [draw(sde, model, make(), units, 130, batch_size=b, dtype=torch.float64).x for b in (7, 64, 130)]
    for other in (*batches[1:], draw(sde, model, make(), units, 11, dtype=torch.float64).x):
        torch.testing.assert_close(batches[0][: len(other)], other, rtol=0, atol=1e-9)
    different = draw(sde, model, make(), units, 130, seed=1, dtype=torch.float64).x
    assert float((different - batches[0]).abs().min()) > 1e-9


@pytest.mark.parametrize("make", SAMPLERS, ids=NAMES)
def test_sampler_keeps_nothing_between_calls(make: Callable[[], Sampler]) -> None:
    sde, sampler = VP(), make()
    model = ScoreModel(Oracle(plane(), sde), Raw(), sde)
    units = Units(torch.zeros(2).double(), torch.ones(2).double())
    assert torch.equal(draw(sde, model, sampler, units, 9).x, draw(sde, model, sampler, units, 9).x)


@pytest.mark.parametrize("make", SAMPLERS, ids=NAMES)
def test_evaluations_are_counted_at_the_score(make: Callable[[], Sampler]) -> None:
    asked = 0

    def score(x: Tensor, t: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return gaussian(VP())(x, t)

    samples = make()(VP(), score, torch.randn(8, 1, dtype=torch.float64), noise=torch.randn_like)
    assert samples.nfe == asked / 8
    if isinstance(make(), StepSampler):
        assert samples.nfe == 20 + make().denoise


@pytest.mark.parametrize("make", SAMPLERS, ids=NAMES)
def test_path_leads_from_the_prior_to_the_sample_and_changes_nothing(make: Callable[[], Sampler]) -> None:
    sde = VP()
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


@pytest.mark.parametrize("key", SDES)
def test_samples_of_the_exact_score_reach_the_floor(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every metric of the paper's mixture within twice its floor, by the SDE and by the flow."""
    monkeypatch.setattr(metrics, "REFERENCE", 20_000)
    monkeypatch.setattr(metrics, "FLOORS", 20)
    sde = SDES[key] if key != "ve" else type(SDES[key])(sigma_max=50.0)
    dataset = Mixture(0)
    assert dataset.law is not None
    model = ScoreModel(Oracle(dataset.law.affine(*dataset.units), sde), Raw(), sde)
    for sampler in (StepSampler(EulerMaruyama(), steps=500), Dopri5(1e-4, 1e-4)):
        x = dataset.units.decode(draw(sde, model, sampler, dataset.units, 4000).x)
        for metric, entry in metrics.measure(dataset, x).items():
            assert entry["value"] < 2 * entry["floor"] + 1e-3, (type(sampler), metric, entry)


def test_prior_of_ve_forgets_the_data_as_sigma_max_grows() -> None:
    """The flow's variance error from ignoring the data in the prior falls as 1/σ_max²."""
    errors = []
    for sigma_max in (5.0, 10.0, 20.0):
        sde = type(SDES["ve"])(sigma_max=sigma_max)
        z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        out = Dopri5(1e-8, 1e-8)(sde, gaussian(sde), sde.sample_prior(z, lambda like: z), noise=no_noise).x
        errors.append(abs(float(out[1] - out[0]) ** 2 - VARIANCE))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_corrector_acts_at_every_new_time() -> None:
    seen: list[float] = []

    class Watch(Corrector):
        def __call__(self, sde, score, x, t, noise) -> Tensor:  # noqa: ANN001
            seen.append(float(t))
            return x + 1

    sampler = StepSampler(EulerMaruyama(), Watch(), steps=4)
    out = sampler(VP(), lambda x, t: -x, torch.zeros(1, 1, dtype=torch.float64), noise=no_noise).x
    torch.testing.assert_close(torch.tensor(seen).double(), sampler.times(VP())[1:])
    assert float(out) >= 1


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        StepSampler(EulerMaruyama(), steps=0)
