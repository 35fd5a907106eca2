"""Errata of the paper in numbers: values by the printed and the correct formula on the same data, and the true value.

The correct value comes from the processes and samplers of the package. The printed value comes from an expression in
this module. The true value uses neither formula: it is a simulation that uses only the drift and diffusion of an SDE or
the steps of a chain, or it follows from an exact distribution. The data are one-dimensional, and T = 1. The texts are
in ``errata.yaml``.
"""

from __future__ import annotations

import math
import re
from importlib.resources import files
from typing import NamedTuple

import torch
import yaml
from torch import Tensor

from sdegen.core.randomness import RandnLike, generator, randn_like
from sdegen.flow.solvers import DormandPrince, Field
from sdegen.samplers import ReverseDiffusion
from sdegen.sde import DDPM, SDE, SMLD, VE, VP, SubVP
from sdegen.sde.mixture import GaussianMixture, Marginals
from sdegen.training import times
from sdegen.training.weighting import Uniform, Variance

PATHS, CHAIN_STEPS, DRAWS = 20_000, 200_000, 4_000_000
"""Numbers of simulated paths for a true value, of steps of the DDPM chain in erratum 9, and of random times."""
STEPS = 400
"""Number of steps of a simulated path. The discretisation error is far below the statistical error."""
X0 = 3.0
"""Initial value of paths that do not start from random data."""
SIGMA_MIN, SIGMA_MAX, BETA_MIN, BETA_MAX = 0.01, 50.0, 0.1, 20.0

Values = tuple[Tensor | float | None, ...]
"""The last three fields of an :class:`Erratum`."""


class Erratum(NamedTuple):
    """A misprint and its effect.

    Attributes:
        number: number in the project's list, from 1.
        place: place in the paper.
        printed: printed formula. As in all texts here, TeX stands between dollar signs.
        correct: correct formula.
        quantity: quantity that is measured, the data, and the source of the true value.
        printed_value: value by the printed formula. If nothing can be measured, all three values are None.
        correct_value: value by the correct formula.
        truth: true value, by an independent measurement.
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
    # Erratum 8 is a wrong cross reference, so nothing can be measured.
    measurements = [
        *(_vp_mean, _subvp_mean, _flow_diffusion, _reverse_time, _smld_mean, _smld_start, _titles, lambda: (None,) * 3),
        *(_reverse_step, _flow_start, _ddpm_argument, _smallest_time, _first_variance, _weight, _time_grid),
    ]
    counts = {"<paths>": f"{PATHS:,}", "<chain_steps>": f"{CHAIN_STEPS:,}", "<draws>": f"{DRAWS:,}"}
    rows = []
    texts = yaml.safe_load(files("sdegen.reports").joinpath("errata.yaml").read_text("utf-8"))
    for i, (text, measure) in enumerate(zip(texts, measurements, strict=True), 1):
        quantity = re.sub("<[a-z_]+>", lambda found: counts[found[0]], text["quantity"])
        printed, correct, truth = (None if value is None else float(value) for value in measure())
        rows.append(Erratum(i, text["place"], text["printed"], text["correct"], quantity, printed, correct, truth))
    return rows


def _vp_mean() -> Values:
    sde, t = VP(), _number(0.3)
    decay = torch.exp(-sde.beta.integral(t))
    truth = _simulated(sde, _noise("data 1")(_rows(0.0)), 0.3, "1").square().mean()
    return decay**2 + 1 - decay, sde.alpha(t) ** 2 + sde.sigma(t) ** 2, truth


def _subvp_mean() -> Values:
    sde, t = SubVP(), _number(0.3)
    truth = _simulated(sde, _rows(X0), 0.3, "2").mean()
    return X0 * torch.exp(-sde.beta.integral(t)), X0 * sde.alpha(t), truth


def _flow_diffusion() -> Values:
    """Measures erratum 3. The flow of Gaussian data is linear, so one point, at one deviation, is enough."""
    sde, law = VP(), _gaussian(0.25)
    score, start = Marginals(law, sde), _rows(sde.prior_std, 1)

    def printed(x: Tensor, t: Tensor) -> Tensor:
        return sde.drift(x, t) - 0.5 * sde.diffusion(t).reshape(-1, 1) * score(x, t)

    right = sde.reverse(score, eta=0).drift
    wrong_end, end = (_solved(field, start, sde.T, sde.eps) for field in (printed, right))
    return wrong_end, end, law.covariances.sqrt()


def _reverse_time() -> Values:
    """Measures erratum 4. Both equations are dx = a x ds + g dw in increasing s; the variance has v' = 2 a v + g²."""
    sde, law = VP(), _gaussian(1.0)
    score, one = Marginals(law, sde), _rows(1.0, 1)
    reverse = sde.reverse(score)

    def printed(v: Tensor, s: Tensor) -> Tensor:
        g2 = sde.diffusion(s).reshape(-1, 1) ** 2
        return 2 * (sde.drift(one, s) - g2 * score(one, sde.T - s)) * v + g2

    def right(v: Tensor, s: Tensor) -> Tensor:
        return -2 * reverse.drift(one, sde.T - s) * v + reverse.diffusion(sde.T - s).reshape(-1, 1) ** 2

    wrong_std, std = (_solved(field, one * sde.prior_std**2, 0.0, sde.T).sqrt() for field in (printed, right))
    return wrong_std, std, law.covariances.sqrt()


def _smld_mean() -> Values:
    levels, level = 100, 50
    right = X0 * SMLD(SIGMA_MIN, SIGMA_MAX, levels).alpha(_number(level / levels))
    return 0.0, right, _smld_walk(_rows(X0), level, levels, "5").mean()


def _smld_start() -> Values:
    levels = 100
    truth = _smld_walk(_noise("data 6")(_rows(0.0)), levels, levels, "6").std()
    return math.sqrt(SIGMA_MAX), SMLD(SIGMA_MIN, SIGMA_MAX, levels).prior_std, truth


def _titles() -> Values:
    n, t = 100_000, _number(0.5)
    truth = n * (math.sqrt(1 - _ddpm_betas(n)[n // 2 - 1]) - 1)
    return VE().rate(t), VP(BETA_MIN, BETA_MAX).rate(t), truth


def _reverse_step() -> Values:
    """Measures erratum 9. f and G² are the mean and the variance of the last increment of the chain from x = 1."""
    levels, t = 30, _number(1.0)
    vp, one = VP(BETA_MIN, BETA_MAX), _rows(1.0, CHAIN_STEPS)
    keep, pull, _ = ReverseDiffusion().coefficients(DDPM(BETA_MIN, BETA_MAX, levels), t, t - 1 / levels)
    added = _ddpm_step(one, _ddpm_betas(levels)[-1], _noise("9")) - one
    return 1 - (vp.rate(t) + vp.diffusion(t) ** 2) / levels, keep - pull, 1 - added.mean() - added.var()


def _flow_start() -> Values:
    sde, x = VP(), 3.5
    law = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-3.0], [3.0]]), torch.tensor([0.25, 1.0]))
    flow = sde.reverse(Marginals(law, sde), eta=0).drift
    latent = _solved(flow, _rows(x, 1), sde.eps, sde.T)
    return _solved(flow, latent, sde.eps, sde.T), _solved(flow, latent, sde.T, sde.eps), x


def _ddpm_argument() -> Values:
    """Measures erratum 11. The loss differentiates the kernel by x̃, but the printed density does not contain x̃."""
    levels, level = 50, 10
    sde, t = DDPM(BETA_MIN, BETA_MAX, levels), _number(level / levels)
    mean, x_i = X0 * sde.alpha(t), X0 * sde.alpha(t) + sde.sigma(t)

    def printed(x_tilde: Tensor) -> Tensor:
        return -0.5 * ((x_i - mean) / sde.sigma(t)) ** 2

    walk, source = _rows(X0), _noise("11")
    for beta in _ddpm_betas(levels)[:level]:
        walk = _ddpm_step(walk, beta, source)
    return torch.func.grad(printed)(x_i) ** 2, 1 / sde.sigma(t) ** 2, 1 / walk.var()


def _smallest_time() -> Values:
    sde, u = VP(), _uniform("12")
    t, _ = times.Uniform()(sde, Uniform(), u)
    return u.min(), t.min(), sde.eps + (sde.T - sde.eps) / (DRAWS + 1)


def _first_variance() -> Values:
    sde, t = VE(SIGMA_MIN, SIGMA_MAX), 0.02
    truth = _simulated(sde, _rows(X0), t, "13").std()
    return SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** t, sde.sigma(_number(t)), truth


def _weight() -> Values:
    """Measures erratum 14. A weight that depends on the epoch alone leaves the ratio of the norms unchanged."""
    sde, t = VP(), torch.tensor([0.01, 0.5], dtype=torch.float64)
    norm = 1 / sde.sigma(t) ** 2
    even = Variance()(sde, t) * norm
    early, late = (Variance()(sde, _number(s)) / _simulated(sde, _rows(X0), s, f"14 {s}").var() for s in t.tolist())
    return norm[0] / norm[1], even[0] / even[1], early / late


def _time_grid() -> Values:
    """Measures erratum 15. The true value is an integral over u = log(σ²/α²): with du = g²/σ² dt, dt/σ² is du/g²."""
    sde = VP()
    drawn, _ = times.Stratified()(sde, Uniform(), _uniform("15"))
    first, last = sde.log_nsr(torch.tensor([sde.eps, sde.T], dtype=torch.float64)).tolist()
    grid = 1 / sde.sigma(torch.linspace(sde.eps, sde.T, 100, dtype=torch.float64)) ** 2
    u = torch.linspace(first, last, 10_001, dtype=torch.float64)
    truth = torch.trapezoid(1 / sde.diffusion(sde.time(u)) ** 2, u) / (sde.T - sde.eps)
    return grid.mean(), (1 / sde.sigma(drawn) ** 2).mean(), truth


def _simulated(sde: SDE, x: Tensor, t: float, key: str) -> Tensor:
    """Returns x(t) of paths from ``x`` at time 0, by Euler–Maruyama."""
    source, h = _noise(key), t / STEPS
    for i in range(STEPS):
        # For a linear β, the value in the middle of the step is the mean over the step.
        now = _number((i + 0.5) * h)
        x = x + h * sde.drift(x, now) + math.sqrt(h) * sde.diffusion(now) * source(x)
    return x


def _smld_walk(x: Tensor, level: int, levels: int, key: str) -> Tensor:
    """Returns the state at a level of the SMLD chain (equation 6 of the paper) from ``x``, with σ₀ = 0."""
    source, before = _noise(key), 0.0
    for i in range(level):
        sigma = SIGMA_MIN * (SIGMA_MAX / SIGMA_MIN) ** (i / (levels - 1))
        x, before = x + math.sqrt(sigma**2 - before**2) * source(x), sigma
    return x


def _ddpm_step(x: Tensor, beta: float, source: RandnLike) -> Tensor:
    return math.sqrt(1 - beta) * x + math.sqrt(beta) * source(x)


def _ddpm_betas(levels: int) -> list[float]:
    """Returns β_i = β(i/N)/N for i = 1 … N."""
    return [(BETA_MIN + (BETA_MAX - BETA_MIN) * i / levels) / levels for i in range(1, levels + 1)]


def _solved(field: Field, x: Tensor, start: float, stop: float) -> Tensor:
    return DormandPrince(1e-8, 1e-8, 10_000).solve(field, x, start, stop, torch.zeros(0)).x


def _gaussian(variance: float) -> GaussianMixture:
    return GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([variance]))


def _number(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _rows(value: float, n: int | None = None) -> Tensor:
    """Returns ``n`` rows of a value, ``(n, 1)``; if ``n`` is None, :data:`PATHS` rows."""
    return torch.full((PATHS if n is None else n, 1), value, dtype=torch.float64)


def _noise(key: str) -> RandnLike:
    """Returns a source of normal draws. The same key gives the same draws."""
    return randn_like(generator("cpu", 0, "errata", key))


def _uniform(key: str) -> Tensor:
    return torch.rand(1, 1, DRAWS, generator=generator("cpu", 0, "errata", key), dtype=torch.float64)
