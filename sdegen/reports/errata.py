"""The errata of the paper in numbers: the printed formula and the correct one on the same data, beside the truth.

The correct value comes from the package's own processes and samplers, the printed value from an expression written
here. The truth uses neither formula: it is simulated (:mod:`sdegen.reports.simulation`), or follows from an exact law.
The data are numbers, and T = 1. ``errata.yaml`` has the formulas in plain text.
"""

from __future__ import annotations

import math
from importlib.resources import files
from typing import NamedTuple

import torch
import yaml
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.flow.solvers import DormandPrince, Field
from sdegen.reports import simulation
from sdegen.reports.simulation import BETA_MAX, BETA_MIN, SIGMA_MAX, SIGMA_MIN, ddpm_betas, ddpm_step, noise
from sdegen.samplers import ReverseDiffusion
from sdegen.sde import DDPM, SMLD, VE, VP, SubVP
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.training import times
from sdegen.training.weighting import Uniform, Variance

PATHS, DRAWS = 20_000, 4_000_000
"""Simulated paths behind a truth, and draws of t."""
X0 = 3.0
"""Start of the paths that do not start from draws of a law."""

Measured = tuple[str, float | None, float | None, float | None]
"""The last four fields of an :class:`Erratum`."""


class Erratum(NamedTuple):
    """A misprint and its effect.

    Attributes:
        number: its number in the project's list, from 1.
        place: the place in the paper.
        printed: the printed formula, in plain text.
        correct: the correct formula.
        quantity: the quantity that is measured, the data, and the source of the truth.
        printed_value: the value by the printed formula; None, like the other two, if nothing can be measured.
        correct_value: the value by the correct formula.
        truth: the value by an independent measurement.
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
    """Returns all 15 errata in the order of their numbers; the values are the same at every call."""
    measurements = [
        *(_vp_mean, _subvp_mean, _flow_diffusion, _reverse_time, _smld_mean, _smld_start, _titles, _cross_reference),
        *(_reverse_step, _flow_start, _ddpm_argument, _smallest_time, _first_variance, _weight, _time_grid),
    ]
    texts = yaml.safe_load(files("sdegen.reports").joinpath("errata.yaml").read_text("utf-8"))
    return [
        Erratum(i, text["place"], text["printed"], text["correct"], *measure())
        for i, (text, measure) in enumerate(zip(texts, measurements, strict=True), 1)
    ]


def _vp_mean() -> Measured:
    sde, t = VP(), _number(0.3)
    decay = torch.exp(-sde.beta.integral(t))
    truth = simulation.simulated(sde, noise("data 1")(_rows(0.0)), 0.3, "1").square().mean()
    quantity = f"E x(0.3)² for data N(0, 1), which VP keeps at 1: α² + σ²; truth: {PATHS:,} simulated paths"
    return _measured(quantity, decay**2 + 1 - decay, sde.alpha(t) ** 2 + sde.sigma(t) ** 2, truth)


def _subvp_mean() -> Measured:
    sde, t = SubVP(), _number(0.3)
    truth = simulation.simulated(sde, _rows(X0), 0.3, "2").mean()
    quantity = f"mean of x(0.3) from x₀ = {X0:g}; truth: {PATHS:,} simulated paths"
    return _measured(quantity, X0 * torch.exp(-sde.beta.integral(t)), X0 * sde.alpha(t), truth)


def _flow_diffusion() -> Measured:
    """Erratum 3: the flow of Gaussian data is linear, so it maps one standard deviation to one standard deviation."""
    sde, law = VP(), _gaussian(0.25)
    score, start = Marginals(law, sde), _rows(sde.prior_std, 1)

    def printed(x: Tensor, t: Tensor) -> Tensor:
        return sde.drift(x, t) - 0.5 * sde.diffusion(t).reshape(-1, 1) * score(x, t)

    right = sde.reverse(score, eta=0).drift
    wrong_end, end = (_solved(field, start, sde.T, sde.eps) for field in (printed, right))
    quantity = "standard deviation of samples of the VP flow, data N(0, ¼); truth: that of the data"
    return _measured(quantity, wrong_end, end, law.covariances.sqrt())


def _reverse_time() -> Measured:
    """Erratum 4: both equations are linear, dx = a x ds + g dw in a time s that increases, hence v' = 2 a v + g²."""
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
        "standard deviation of samples of the reverse VP SDE, data N(0, 1), whose score is −x; truth: that of the data"
    )
    return _measured(quantity, wrong_std, std, law.covariances.sqrt())


def _smld_mean() -> Measured:
    levels, level = 100, 50
    right = X0 * SMLD(SIGMA_MIN, SIGMA_MAX, levels).alpha(_number(level / levels))
    truth = simulation.smld_walk(_rows(X0), level, levels, "5").mean()
    quantity = f"mean of x̃ for x = {X0:g}, level {level} of {levels}; truth: {PATHS:,} walks of the chain, equation 6"
    return _measured(quantity, 0 * X0, right, truth)


def _smld_start() -> Measured:
    levels = 100
    truth = simulation.smld_walk(noise("data 6")(_rows(0.0)), levels, levels, "6").std()
    quantity = (
        f"standard deviation of the start, σ_max = {SIGMA_MAX:g}; truth: that of the last level of {PATHS:,} "
        "walks of the chain, equation 6, from data N(0, 1)"
    )
    return _measured(quantity, math.sqrt(SIGMA_MAX), SMLD(SIGMA_MIN, SIGMA_MAX, levels).prior_std, truth)


def _titles() -> Measured:
    n, t = 100_000, _number(0.5)
    truth = n * (math.sqrt(1 - ddpm_betas(n)[n // 2 - 1]) - 1)
    quantity = f"drift at x = 1, t = 0.5 of the SDE that D's title names; truth: N E[x_i − 1], D's chain at N = {n:,}"
    return _measured(quantity, VE().rate(t), VP(BETA_MIN, BETA_MAX).rate(t), truth)


def _cross_reference() -> Measured:
    return "nothing: a wrong cross reference", None, None, None


def _reverse_step() -> Measured:
    """Erratum 9: f and G of the chain's last step are the mean and the spread of what the step adds to x = 1."""
    levels, t = 30, _number(1.0)
    vp, one = VP(BETA_MIN, BETA_MAX), _rows(1.0, 10 * PATHS)
    keep, pull, _ = ReverseDiffusion().coefficients(DDPM(BETA_MIN, BETA_MAX, levels), t, t - 1 / levels)
    added = ddpm_step(one, ddpm_betas(levels)[-1], noise("9")) - one
    quantity = (
        f"mean of the step from x = 1 with f_N, G_N of the DDPM chain of N = {levels} levels and s = −x (printed: with "
        f"those of Euler–Maruyama for VP); truth: with f_N, G_N measured on {len(one):,} steps of the chain"
    )
    printed, truth = 1 - (vp.rate(t) + vp.diffusion(t) ** 2) / levels, 1 - added.mean() - added.var()
    return _measured(quantity, printed, keep - pull, truth)


def _flow_start() -> Measured:
    sde, x = VP(), 3.5
    law = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-3.0], [3.0]]), torch.tensor([0.25, 1.0]))
    flow = sde.reverse(Marginals(law, sde), eta=0).drift
    latent = _solved(flow, _rows(x, 1), sde.eps, sde.T)
    onward, back = _solved(flow, latent, sde.eps, sde.T), _solved(flow, latent, sde.T, sde.eps)
    quantity = f"where the VP flow takes the latent of x = {x:g}, data as in section 5.1; truth: x itself"
    return _measured(quantity, onward, back, x)


def _ddpm_argument() -> Measured:
    """Erratum 11: the loss differentiates the kernel in x̃, which does not occur in the printed density."""
    levels, level = 50, 10
    sde, t = DDPM(BETA_MIN, BETA_MAX, levels), _number(level / levels)
    mean, x_i = X0 * sde.alpha(t), X0 * sde.alpha(t) + sde.sigma(t)

    def printed(x_tilde: Tensor) -> Tensor:
        return -0.5 * ((x_i - mean) / sde.sigma(t)) ** 2

    walk, source = _rows(X0), noise("11")
    for beta in ddpm_betas(levels)[:level]:
        walk = ddpm_step(walk, beta, source)
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
    truth = simulation.simulated(sde, _rows(X0), t, "13").std()
    quantity = f"standard deviation of x({t:g}) from x₀ = {X0:g}, VE; truth: {PATHS:,} simulated paths"
    return _measured(quantity, SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t, sde.sigma(_number(t)), truth)


def _weight() -> Measured:
    """Erratum 14: a weight of the epoch is the same for all t, and leaves the ratio of the scores unchanged."""
    sde, t = VP(), torch.tensor([0.01, 0.5], dtype=torch.float64)
    norm = 1 / sde.sigma(t) ** 2
    even = Variance()(sde, t) * norm
    early, late = (
        Variance()(sde, _number(s)) / simulation.simulated(sde, _rows(X0), s, f"14 {s}").var() for s in t.tolist()
    )
    quantity = (
        "λ(t) E‖∇log p_(t|0)‖² at t = 0.01 over that at t = 0.5, λ = σ² under VP (printed: λ of the epoch alone); "
        f"truth: 1 / variance of {PATHS:,} simulated paths for the norms"
    )
    return _measured(quantity, norm[0] / norm[1], even[0] / even[1], early / late)


def _time_grid() -> Measured:
    """Erratum 15: the truth integrates in u = log(σ²/α²), where du/dt = g²/σ² leaves 1/g²."""
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
    """Returns ``n`` rows of ``value``, ``(n, 1)``; a row for each path if ``n`` is None."""
    return torch.full((PATHS if n is None else n, 1), value, dtype=torch.float64)


def _gaussian(variance: float) -> GaussianMixture:
    return GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([variance]))


def _uniform(key: str) -> Tensor:
    return torch.rand(1, 1, DRAWS, generator=generator("cpu", 0, "errata", key), dtype=torch.float64)


def _solved(field: Field, x: Tensor, start: float, stop: float) -> Tensor:
    return DormandPrince(1e-8, 1e-8, 10_000).solve(field, x, start, stop, torch.zeros(0)).x
