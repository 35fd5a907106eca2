"""The errata of the paper, each with numbers: its printed formula against the right one on the same data.

The right value comes from the package's own processes and samplers, the printed one from an expression written out
here, and the truth from neither formula: paths simulated from f and g alone, the chains of the appendices walked step
by step, or an exact law. Data are on the line, and T = 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike, generator, randn_like
from sdegen.flow.solvers import DormandPrince, Field
from sdegen.samplers import ReverseDiffusion
from sdegen.sde import DDPM, SDE, SMLD, VE, VP, SubVP
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.training import times
from sdegen.training.weighting import Uniform, Variance

PATHS, STEPS, DRAWS = 20_000, 400, 4_000_000
"""Simulated paths behind a truth, their steps, whose error is far below that of so many paths, and draws of t."""
SIGMA_MIN, SIGMA_MAX, BETA_MIN, BETA_MAX = 0.01, 50.0, 0.1, 20.0
X0 = 3.0
"""Where paths start that do not start from a law."""

Measured = tuple[str, float | None, float | None, float | None]
"""The last four fields of an :class:`Erratum`."""


class Erratum(NamedTuple):
    """A misprint and what it does.

    Attributes:
        number: in the project's list of them, from 1.
        place: where in the paper.
        printed: the formula as printed, in plain text.
        correct: the right one.
        quantity: what is measured, on what, and what the truth is.
        printed_value: what the printed formula gives; None, like the other two, where there is nothing to measure.
        correct_value: what the right one gives.
        truth: what an independent measurement gives, by simulation or from an exact law.
    """

    number: int
    place: str
    printed: str
    correct: str
    quantity: str
    printed_value: float | None
    correct_value: float | None
    truth: float | None


def errata() -> list[Erratum]:
    """All 15, in the order of their numbers; the same at every call."""
    printed_time = "dx̃ = [f(x̃, t) − g(t)² ∇log p_(T−t)(x̃)] dt + g(t) dw̄, x̃(t) = x(T − t)"
    right_time = "dx = [f(x, t) − g(t)² ∇log p_t(x)] dt + g(t) dw̄, dt < 0, t from T to 0"
    printed_step = "x_i = x_(i+1) − f_(i+1) + G²_(i+1) s + G_(i+1) z “is Euler–Maruyama for the reverse equation”"
    right_step = "only for f_i = f/N, G_i = g/√N; the DDPM chain has f_i = (√(1 − β_i) − 1) x, G_i = √β_i"
    printed_title = "C: “SMLD as a discretisation of the VP SDE”, D: “DDPM as a discretisation of the VE SDE”"
    right_title = "C: SMLD → VE, whose drift is 0; D: DDPM → VP, whose drift is −½ β(t) x"
    printed_variance = "σ₀ = 0, which makes the variance of x(t) σ²(t), with σ(0) = σ_min for the SDE"
    printed_kernel, right_kernel = (f"p({x} | x₀) = N(x_i; √α_i x₀, (1 − α_i) I)" for x in ("x̃", "x_i"))
    printed_flow, right_flow = (f"dx = [f(x, t) − ½ {g} ∇log p_t(x)] dt" for g in ("g(t)", "g(t)²"))
    printed_origin = "“one can rewrite equation (10) as” x_i = √(1 − β̄_i/N) x_(i−1) + √(β̄_i/N) z_(i−1)"
    right_origin = "(10) is the SDE; the chain x_i = √(1 − β_i) x_(i−1) + √β_i z_(i−1) is what is rewritten so"
    printed_grid = "Song et al. “omit how time is discretised”, so a uniform grid"
    right_grid = "t ~ U[ε, T], one draw for each datum and step"
    return [
        Erratum(
            1, "section 2.3, VP kernel", "mean x₀ e^(−B(t)), B(t) = ∫₀ᵗ β(s) ds", "mean x₀ e^(−B(t)/2)", *_vp_mean()
        ),
        Erratum(2, "section 2.3, sub-VP kernel", "mean x₀ e^(−B(t))", "mean x₀ e^(−B(t)/2)", *_subvp_mean()),
        Erratum(3, "section 3.2, flow ODE", printed_flow, right_flow, *_flow_diffusion()),
        Erratum(4, "section 2.1, equation 1", printed_time, right_time, *_reverse_time()),
        Erratum(
            5, "appendix A, SMLD kernel", "p_σ(x̃ | x) = N(x̃; 0, σ² I)", "p_σ(x̃ | x) = N(x̃; x, σ² I)", *_smld_mean()
        ),
        Erratum(6, "appendix A, start of Langevin", "x_N ~ N(0, σ_max I)", "x_N ~ N(0, σ_max² I)", *_smld_start()),
        Erratum(7, "titles of appendices C and D", printed_title, right_title, *_titles()),
        Erratum(8, "appendix D, below equation 10", printed_origin, right_origin, *_cross_reference()),
        Erratum(9, "section 3.1, discretised reverse SDE", printed_step, right_step, *_reverse_step()),
        Erratum(10, "section 3.2, start of the flow", "x₀ ~ γ", "x_T ~ γ, and t from T to ε", *_flow_start()),
        Erratum(11, "appendix B, DDPM kernel", printed_kernel, right_kernel, *_ddpm_argument()),
        Erratum(12, "section 2.2, objectives", "t ~ U[0, 1], then U[0, T]", "t ~ U[ε, T]", *_smallest_time()),
        Erratum(13, "section 2.3, equation 6", printed_variance, "variance σ²(t) − σ²(0)", *_first_variance()),
        Erratum(
            14,
            "section 2.2, λ",
            "λ gives “the start of training” less weight",
            "λ gives small t less weight",
            *_weight(),
        ),
        Erratum(15, "section 6, discretisation of t", printed_grid, right_grid, *_time_grid()),
    ]


def _vp_mean() -> Measured:
    sde, t = VP(), _number(0.3)
    decay = torch.exp(-sde.beta.integral(t))
    truth = _simulated(sde, _noise("data 1")(_rows(0.0)), 0.3, "1").square().mean()
    quantity = f"E x(0.3)² for data N(0, 1), which VP keeps at 1: α² + σ²; truth: {PATHS:,} simulated paths"
    return _measured(quantity, decay**2 + 1 - decay, sde.alpha(t) ** 2 + sde.sigma(t) ** 2, truth)


def _subvp_mean() -> Measured:
    sde, t = SubVP(), _number(0.3)
    truth = _simulated(sde, _rows(X0), 0.3, "2").mean()
    quantity = f"mean of x(0.3) from x₀ = {X0:g}; truth: {PATHS:,} simulated paths"
    return _measured(quantity, X0 * torch.exp(-sde.beta.integral(t)), X0 * sde.alpha(t), truth)


def _flow_diffusion() -> Measured:
    """The flow of Gaussian data is linear: it carries one standard deviation to one standard deviation."""
    sde, law = VP(), _gaussian(0.25)
    score, start = Marginals(law, sde), _rows(sde.prior_std, 1)

    def printed(x: Tensor, t: Tensor) -> Tensor:
        return sde.drift(x, t) - 0.5 * sde.diffusion(t).reshape(-1, 1) * score(x, t)

    right = sde.reverse(score, eta=0).drift
    wrong_end, end = (_solved(field, start, sde.T, sde.eps) for field in (printed, right))
    quantity = "standard deviation of samples of the VP flow, data N(0, ¼); truth: that of the data"
    return _measured(quantity, wrong_end, end, law.covariances.sqrt())


def _reverse_time() -> Measured:
    """Both equations are linear, dx = a x ds + g dw in a time s that runs up, and so v' = 2 a v + g²."""
    sde, law = VP(), _gaussian(1.0)
    score, one = Marginals(law, sde), _rows(1.0, 1)
    reverse = sde.reverse(score)

    def printed(v: Tensor, s: Tensor) -> Tensor:
        g2 = sde.diffusion(s).reshape(-1, 1) ** 2
        return 2 * (sde.drift(one, s) - g2 * score(one, sde.T - s)) * v + g2

    def right(v: Tensor, s: Tensor) -> Tensor:
        return -2 * reverse.drift(one, sde.T - s) * v + reverse.diffusion(sde.T - s).reshape(-1, 1) ** 2

    wrong_std, std = (_solved(field, one * sde.prior_std**2, 0.0, sde.T).sqrt() for field in (printed, right))
    quantity = (
        "standard deviation of samples of the reverse VP SDE, data N(0, 1), whose score is −x; truth: of the data"
    )
    return _measured(quantity, wrong_std, std, law.covariances.sqrt())


def _smld_mean() -> Measured:
    levels, level = 100, 50
    right = X0 * SMLD(SIGMA_MIN, SIGMA_MAX, levels).alpha(_number(level / levels))
    truth = _smld_walk(_rows(X0), level, levels, "5").mean()
    quantity = f"mean of x̃ for x = {X0:g}, level {level} of {levels}; truth: {PATHS:,} walks of the chain, equation 6"
    return _measured(quantity, 0 * X0, right, truth)


def _smld_start() -> Measured:
    levels = 100
    truth = _smld_walk(_noise("data 6")(_rows(0.0)), levels, levels, "6").std()
    quantity = (
        f"standard deviation of the start, σ_max = {SIGMA_MAX:g}; truth: of the last level of {PATHS:,} walks of the "
        "chain, equation 6, from data N(0, 1)"
    )
    return _measured(quantity, math.sqrt(SIGMA_MAX), SMLD(SIGMA_MIN, SIGMA_MAX, levels).prior_std, truth)


def _titles() -> Measured:
    n, t = 100_000, _number(0.5)
    truth = n * (math.sqrt(1 - _betas(n)[n // 2 - 1]) - 1)
    quantity = f"drift at x = 1, t = 0.5 of the SDE that D's title names; truth: N E[x_i − 1], D's chain at N = {n:,}"
    return _measured(quantity, VE().rate(t), VP(BETA_MIN, BETA_MAX).rate(t), truth)


def _cross_reference() -> Measured:
    return "nothing: a wrong cross reference", None, None, None


def _reverse_step() -> Measured:
    """f and G of the chain's last step are measured on it: the mean and the spread of what it adds to x = 1."""
    levels, t = 30, _number(1.0)
    vp, one = VP(BETA_MIN, BETA_MAX), _rows(1.0, 10 * PATHS)
    keep, pull, _ = ReverseDiffusion().coefficients(DDPM(BETA_MIN, BETA_MAX, levels), t, t - 1 / levels)
    added = _ddpm_step(one, _betas(levels)[-1], _noise("9")) - one
    quantity = (
        f"mean of that step from x = 1 with f_N, G_N of the DDPM chain of N = {levels} levels and s = −x (printed: of "
        f"Euler–Maruyama for VP); truth: with f_N, G_N measured on {len(one):,} steps of the chain"
    )
    printed, truth = 1 - (vp.rate(t) + vp.diffusion(t) ** 2) / levels, 1 - added.mean() - added.var()
    return _measured(quantity, printed, keep - pull, truth)


def _flow_start() -> Measured:
    sde, x = VP(), 3.5
    law = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-3.0], [3.0]]), torch.tensor([0.25, 1.0]))
    flow = sde.reverse(Marginals(law, sde), eta=0).drift
    latent = _solved(flow, _rows(x, 1), sde.eps, sde.T)
    onward, back = _solved(flow, latent, sde.eps, sde.T), _solved(flow, latent, sde.T, sde.eps)
    quantity = f"where the VP flow takes the latent of x = {x:g}, data as in section 5.1; truth: that x"
    return _measured(quantity, onward, back, x)


def _ddpm_argument() -> Measured:
    """The loss differentiates the kernel in x̃, and in what is printed x̃ does not occur: its density is one of x_i."""
    levels, level = 50, 10
    sde, t = DDPM(BETA_MIN, BETA_MAX, levels), _number(level / levels)
    mean, x_i = X0 * sde.alpha(t), X0 * sde.alpha(t) + sde.sigma(t)

    def printed(x_tilde: Tensor) -> Tensor:
        return -0.5 * ((x_i - mean) / sde.sigma(t)) ** 2

    walk, source = _rows(X0), _noise("11")
    for beta in _betas(levels)[:level]:
        walk = _ddpm_step(walk, beta, source)
    quantity = (
        f"E |∂ log p / ∂x̃|², the scale of that appendix's loss, at level {level} of {levels}; truth: 1 / variance of "
        f"{PATHS:,} walks of the chain from x₀ = {X0:g}"
    )
    return _measured(quantity, torch.func.grad(printed)(x_i) ** 2, 1 / sde.sigma(t) ** 2, 1 / walk.var())


def _smallest_time() -> Measured:
    sde, u = VP(), _uniform("12")
    t, _ = times.Uniform()(sde, Uniform(), u)
    quantity = f"smallest of {DRAWS:,} times, ε = {sde.eps:g}; truth: the mean of the smallest of so many on [ε, T]"
    return _measured(quantity, u.min(), t.min(), sde.eps + (sde.T - sde.eps) / (DRAWS + 1))


def _first_variance() -> Measured:
    sde, t = VE(SIGMA_MIN, SIGMA_MAX), 0.02
    truth = _simulated(sde, _rows(X0), t, "13").std()
    quantity = f"standard deviation of x({t:g}) from x₀ = {X0:g}, VE; truth: {PATHS:,} simulated paths"
    return _measured(quantity, SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t, sde.sigma(_number(t)), truth)


def _weight() -> Measured:
    """A weight of the epoch would be the same for all t, and leave the ratio of the scores as it is."""
    sde, t = VP(), torch.tensor([0.01, 0.5], dtype=torch.float64)
    norm = 1 / sde.sigma(t) ** 2
    even = Variance()(sde, t) * norm
    early, late = (Variance()(sde, _number(s)) / _simulated(sde, _rows(X0), s, f"14 {s}").var() for s in t.tolist())
    quantity = (
        "λ(t) E‖∇log p_(t|0)‖² at t = 0.01 over that at t = 0.5, λ = σ² under VP (printed: a λ of the epoch alone); "
        f"truth: 1 / variance of {PATHS:,} simulated paths for the norms"
    )
    return _measured(quantity, norm[0] / norm[1], even[0] / even[1], early / late)


def _time_grid() -> Measured:
    """The truth integrates in u = log(σ²/α²), where du/dt = g²/σ² leaves 1/g²."""
    sde, points = VP(), 100
    drawn, _ = times.Stratified()(sde, Uniform(), _uniform("15"))
    first, last = sde.log_nsr(torch.tensor([sde.eps, sde.T], dtype=torch.float64)).tolist()
    grid = 1 / sde.sigma(torch.linspace(sde.eps, sde.T, points, dtype=torch.float64)) ** 2
    u = torch.linspace(first, last, 10_001, dtype=torch.float64)
    truth = torch.trapezoid(1 / sde.diffusion(sde.time(u)) ** 2, u) / (sde.T - sde.eps)
    quantity = (
        f"mean of 1/σ² over t, the scale of VP's loss for λ = 1 (printed: {points} points from ε to T, t = ε with "
        f"{float(grid[0] / grid.sum()):.1%} of it; correct: {DRAWS:,} stratified draws); truth: the integral"
    )
    return _measured(quantity, grid.mean(), (1 / sde.sigma(drawn) ** 2).mean(), truth)


def _measured(quantity: str, printed: Tensor | float, correct: Tensor | float, truth: Tensor | float) -> Measured:
    return quantity, float(printed), float(correct), float(truth)


def _number(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _rows(value: float, n: int | None = None) -> Tensor:
    """``n`` times ``value``, ``(n, 1)``; None for one for each path."""
    return torch.full((PATHS if n is None else n, 1), value, dtype=torch.float64)


def _gaussian(variance: float) -> GaussianMixture:
    return GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([variance]))


def _noise(key: str) -> RandnLike:
    return randn_like(generator("cpu", 0, "errata", key))


def _uniform(key: str) -> Tensor:
    return torch.rand(1, 1, DRAWS, generator=generator("cpu", 0, "errata", key), dtype=torch.float64)


def _solved(field: Field, x: Tensor, start: float, stop: float) -> Tensor:
    return DormandPrince(1e-8, 1e-8, 10_000).solve(field, x, start, stop, torch.zeros(0)).x


def _simulated(sde: SDE, x: Tensor, t: float, key: str) -> Tensor:
    """x(t) from ``x`` at 0, by Euler–Maruyama from f and g alone."""
    source, h = _noise(key), t / STEPS
    for i in range(STEPS):
        # The middle of the step, where the rate of a linear β has its mean.
        now = _number((i + 0.5) * h)
        x = x + h * sde.drift(x, now) + math.sqrt(h) * sde.diffusion(now) * source(x)
    return x


def _smld_walk(x: Tensor, level: int, levels: int, key: str) -> Tensor:
    """The chain of equation 6 from ``x``, with σ₀ = 0."""
    source, before = _noise(key), 0.0
    for i in range(level):
        sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** (i / (levels - 1))
        x, before = x + math.sqrt(sigma**2 - before**2) * source(x), sigma
    return x


def _betas(levels: int) -> list[float]:
    """β_i = β(i/N)/N for i = 1 … N."""
    return [(BETA_MIN + (BETA_MAX - BETA_MIN) * i / levels) / levels for i in range(1, levels + 1)]


def _ddpm_step(x: Tensor, beta: float, source: RandnLike) -> Tensor:
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * source(x)
