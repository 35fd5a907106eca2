"""The double well agrees with the Fokker–Planck equation on a grid: paths, prior, reversal and score matching."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from sdegen.core.randomness import randn_like
from sdegen.samplers import Dopri5, EulerMaruyama, StepSampler
from sdegen.sde import DoubleWell
from sdegen.training.objective import Implicit, Objective, Sliced

WELLS, BARRIER, BETA_MIN, BETA_MAX, EPS = 1.2, 0.8, 0.3, 18.0, 0.02


def well() -> DoubleWell:
    return DoubleWell(WELLS, BARRIER, BETA_MIN, BETA_MAX, EPS)


def noise(seed: int):  # noqa: ANN201
    return randn_like(torch.Generator().manual_seed(seed))


class FokkerPlanck:
    r"""The distribution of x(t) at any t, by finite volumes in x and without error in t.

    Between neighbouring cells of width h, a process jumps with the rates :math:`e^{\pm \Delta V/2}/2h^2`, which keep
    :math:`e^{-V}` stationary. After division by the root of :math:`e^{-V}`, its generator is a symmetric tridiagonal
    matrix, and the exponential of this matrix is computed from the eigenvectors.
    """

    def __init__(self) -> None:
        self.x = np.linspace(-3.3, 3.3, 1101)
        self.h = self.x[1] - self.x[0]
        v = BARRIER * (self.x**4 / WELLS**4 - 2 * self.x**2 / WELLS**2 + 1)
        up, down = (np.exp(sign * np.diff(v) / 2) / (2 * self.h**2) for sign in (-1, 1))
        diagonal = -np.append(up, 0) - np.append(0, down)
        self.rates, self.modes = eigh_tridiagonal(diagonal, np.sqrt(up * down))
        self.root = np.exp(-v / 2)
        self.stationary = np.exp(-v) / np.exp(-v).sum()

    def law(self, start: np.ndarray, t: float) -> np.ndarray:
        """Returns the probabilities of the cells at t, from the probabilities at 0."""
        clock = t * (BETA_MIN + self.beta(t)) / 2
        return self.root * (self.modes @ (np.exp(clock * self.rates) * (self.modes.T @ (start / self.root))))

    def beta(self, t: float) -> float:
        return BETA_MIN + (BETA_MAX - BETA_MIN) * t

    def point(self, x0: float) -> np.ndarray:
        start = np.zeros_like(self.x)
        start[np.abs(self.x - x0).argmin()] = 1
        return start

    def distance(self, x: Tensor, p: np.ndarray) -> float:
        """Returns the Kolmogorov–Smirnov distance of samples from the probabilities of the cells."""
        below = np.searchsorted(np.sort(x.double().numpy().ravel()), self.x + self.h / 2)
        return float(np.abs(below / x.numel() - p.cumsum()).max())


@cache
def exact() -> FokkerPlanck:
    return FokkerPlanck()


@cache
def data() -> np.ndarray:
    """Returns an asymmetric distribution of data: 0.7 N(0.9, 0.2²) + 0.3 N(-0.6, 0.4²)."""
    x = exact().x
    p = 0.7 * np.exp(-((x - 0.9) ** 2) / 0.08) / 0.2 + 0.3 * np.exp(-((x + 0.6) ** 2) / 0.32) / 0.4
    return p / p.sum()


@cache
def table() -> tuple[np.ndarray, np.ndarray]:
    """Returns the times of the table, and ∂ log p_t(x)/∂x on the grid of x at each time."""
    times = np.linspace(EPS, 1, 300)
    return times, np.stack([np.gradient(np.log(np.maximum(exact().law(data(), t), 1e-30)), exact().h) for t in times])


def score(x: Tensor, t: Tensor) -> Tensor:
    """Returns the score from the table, by linear interpolation in x and t."""
    times, values = table()
    column = (t.double().expand(len(x)).numpy() - EPS) / (1 - EPS) * (len(times) - 1)
    row = np.clip((x[:, 0].double().numpy() - exact().x[0]) / exact().h, 0, len(exact().x) - 1.001)
    i, j = np.clip(column.astype(int), 0, len(times) - 2), row.astype(int)
    a, b = column - i, row - j
    found = (1 - a) * ((1 - b) * values[i, j] + b * values[i, j + 1])
    found += a * ((1 - b) * values[i + 1, j] + b * values[i + 1, j + 1])
    return torch.as_tensor(found).to(x)[:, None]


def draws(p: np.ndarray, n: int, seed: int) -> Tensor:
    cells = torch.multinomial(torch.as_tensor(p), n, replacement=True, generator=torch.Generator().manual_seed(seed))
    u = torch.rand(n, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return (torch.as_tensor(exact().x)[cells] + exact().h * (u - 0.5))[:, None]


def allowed(n: int) -> float:
    """Returns a bound on the distance.

    By chance, one distance in three thousand exceeds the first term. The second is for errors of grids and steps.
    """
    return 2.1 / math.sqrt(n) + 0.002


@pytest.mark.parametrize("t", [EPS, 0.1, 0.35, 1.0])
@pytest.mark.parametrize("x0", [1.2, -0.3, 2.4])
def test_simulated_paths_have_the_law_of_the_equation(x0: float, t: float) -> None:
    n, start = 40_000, exact().point(x0)
    x0 = float(exact().x[start.argmax()])
    x = well().perturb(torch.full((n, 1), x0, dtype=torch.float64), torch.full((n,), t, dtype=torch.float64), noise(0))
    assert exact().distance(x, exact().law(start, t)) < allowed(n)


def test_every_row_goes_to_its_own_time_and_every_coordinate_its_own_way() -> None:
    n, t = 40_000, torch.tensor([0.05, 0.4], dtype=torch.float64)
    x0 = torch.tensor([[0.6, -1.2], [0.6, -1.2]], dtype=torch.float64)
    x = well().perturb(x0.repeat(n, 1), t.repeat(n), noise(0)).view(n, 2, 2)
    for row in (0, 1):
        for column in (0, 1):
            law = exact().law(exact().point(float(x0[row, column])), float(t[row]))
            assert exact().distance(x[:, row, column], law) < allowed(n)
    correlation = torch.corrcoef(x.flatten(1).T)
    assert float((correlation - torch.eye(4)).abs().max()) < 5 / math.sqrt(n)


def test_paths_from_far_away_come_down() -> None:
    """The drift is cubic, so paths forget a distant start. Euler–Maruyama would diverge in one step."""
    far, near = (well().perturb(torch.full((5000, 1), x0), torch.full((5000,), 0.3), noise(0)) for x0 in (1e4, 30.0))
    torch.testing.assert_close(far, near, rtol=0, atol=0.02)


def test_prior_is_a_normalised_density_and_its_draws_have_it() -> None:
    x = torch.linspace(-5, 5, 20_001, dtype=torch.float64)
    density = well().log_prior(x[:, None]).exp()
    assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-9)
    drawn = well().sample_prior(torch.empty(40_000, 1), noise(0))
    assert drawn.dtype == torch.float32
    assert exact().distance(drawn, exact().stationary) < allowed(40_000)
    pair = torch.stack([x, -x], dim=1)
    torch.testing.assert_close(well().log_prior(pair), 2 * density.log())


@pytest.mark.parametrize("z", [-6.0, -1.0, 0.0, 0.3, 2.0, 5.0])
def test_draw_of_the_prior_is_the_quantile_of_its_normal_number(z: float) -> None:
    """The tails are exact down to probabilities of 10⁻⁹, where 1 − Φ has no correct digits in float32."""
    z64 = torch.tensor([[z]], dtype=torch.float64)
    x = abs(float(well().sample_prior(z64, lambda like: z64)))
    grid = torch.linspace(x, 6, 400_001, dtype=torch.float64)
    tail = torch.trapezoid(well().log_prior(grid[:, None]).exp(), grid)
    assert float(tail) == pytest.approx(0.5 * math.erfc(abs(z) / math.sqrt(2)), rel=1e-4)
    assert float(well().sample_prior(-z64, lambda like: like)) * z <= 0


def test_paths_reach_the_prior() -> None:
    """For these data, p_T and the prior differ by at most 2 %. The noise of metrics is larger."""
    assert 0.5 * np.abs(exact().law(data(), 1.0) - exact().stationary).sum() < 0.02


def test_paths_keep_the_prior() -> None:
    """In steep wells, equal steps in ∫ β dt would be too long at the end."""
    n, steep = 100_000, DoubleWell(wells=0.8, barrier=1.0)
    x = steep.perturb(steep.sample_prior(torch.empty(n, 1), noise(0)), torch.ones(n), noise(1))
    grid = np.linspace(-3, 3, 2001)
    density = np.exp(-((grid**2 / 0.64 - 1) ** 2))
    below = np.searchsorted(np.sort(x.double().numpy().ravel()), grid + 0.0015) / n
    assert np.abs(below - density.cumsum() / density.sum()).max() < allowed(n)


def test_drift_and_noise_are_in_balance_under_the_prior() -> None:
    """The stationary distribution has no current: f = ½ g² ∇log π at every t."""
    x = torch.linspace(-2.5, 2.5, 50, dtype=torch.float64)[:, None].requires_grad_()
    t = torch.linspace(0.02, 1, 50, dtype=torch.float64)
    (pull,) = torch.autograd.grad(well().log_prior(x).sum(), x)
    beta = torch.tensor([exact().beta(float(time)) for time in t], dtype=torch.float64)
    torch.testing.assert_close(well().diffusion(t) ** 2, beta)
    torch.testing.assert_close(well().drift(x, t), 0.5 * beta[:, None] * pull)


@pytest.mark.parametrize(
    "sampler", [StepSampler(EulerMaruyama(), steps=400), Dopri5(1e-5, 1e-5)], ids=["reverse sde", "flow"]
)
def test_reversal_with_the_exact_score_goes_back_to_the_data(sampler) -> None:  # noqa: ANN001
    n = 10_000
    x = draws(exact().law(data(), 1.0), n, seed=5)
    samples = sampler(well(), score, x, noise=noise(1)).x
    assert exact().distance(samples, exact().law(data(), EPS)) < allowed(n)


@pytest.mark.parametrize("objective", [Implicit(), Sliced()], ids=["implicit", "sliced"])
@pytest.mark.parametrize("t", [0.08, 0.3])
def test_score_matching_on_simulated_paths_finds_the_score(objective: Objective, t: float) -> None:
    """The loss is a parabola in the weights of fixed features.

    Its exact minimum agrees with the Fokker–Planck equation.
    """
    n = 40_000
    rows = objective.prepare(well(), draws(data(), n, seed=2), torch.full((n,), t, dtype=torch.float64), noise(3))
    centres = torch.linspace(-2.4, 2.4, 13, dtype=torch.float64)
    weights = torch.zeros(13, dtype=torch.float64, requires_grad=True)

    def model(x: Tensor, t: Tensor) -> Tensor:
        return (torch.exp(-2 * (x - centres) ** 2) * weights).sum(1, keepdim=True)

    (slope,) = torch.autograd.grad(objective.loss(model, rows).mean(), weights, create_graph=True)
    curvature = torch.stack([torch.autograd.grad(s, weights, retain_graph=True)[0] for s in slope])
    weights.data = -torch.linalg.solve(curvature, slope.detach())
    p = exact().law(data(), t)
    target = np.gradient(np.log(p), exact().h)
    found = model(torch.as_tensor(exact().x)[:, None], rows.t).detach().numpy().ravel()
    assert (p * (found - target) ** 2).sum() < 0.02 * (p * target**2).sum()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: DoubleWell(wells=0), "wells=0 must be above 0"),
        (lambda: DoubleWell(barrier=0), "barrier=0 must be above 0"),
        (lambda: DoubleWell(beta_min=0), "beta_min=0 must be above 0"),
        (lambda: DoubleWell(beta_max=0.01), "beta_max=0.01 must be at least beta_min=0.1"),
    ],
)
def test_values_out_of_range_are_refused(build, words: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=words):
        build()
