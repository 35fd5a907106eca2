"""Peers of the contest that we wrote from papers: STORK, GITS, AYS and DPM-Solver++."""

from __future__ import annotations

import argparse
import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.sde import VE, VP, LinearSDE, SubVP

VARIANCES = torch.tensor([0.09, 2.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def arena() -> Iterator[SimpleNamespace]:
    """Makes the folder of the scripts importable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts" / "benchmarks"))
        parts = ("ays", "gits", "grids", "multistep", "papers", "paths", "problem", "race", "stork")
        found = SimpleNamespace(**{part: importlib.import_module(f"arena.{part}") for part in parts})
        found.contest, found.peers = importlib.import_module("contest"), importlib.import_module("peers")
        yield found


def variance(sde: LinearSDE, t: Tensor, variances: Tensor = VARIANCES) -> Tensor:
    return sde.alpha(t) ** 2 * variances + sde.sigma(t) ** 2


def gaussian(sde: LinearSDE, variances: Tensor = VARIANCES) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the score of centred Gaussian data with these variances along the axes."""
    return lambda x, t: -x / variance(sde, t, variances)


def errors(solver: Callable[..., Tensor], sde: LinearSDE, grid: Callable[..., Tensor], counts: tuple[int, ...]) -> list:
    """Returns the errors for Gaussian data, for which the flow scales each axis by the standard deviation."""
    x, found = torch.tensor([[1.0, -1.0]], dtype=torch.float64), []
    for steps in counts:
        times = grid(sde, steps)
        exact = x * (variance(sde, times[-1]) / variance(sde, times[0])).sqrt()
        found.append(float((solver(sde, gaussian(sde), x, times) - exact).norm()))
    return found


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


def runge_kutta(tableau: object, steps: int) -> float:
    """Returns the error at t = 1 for y' = y^2 cos t, y(0) = 1/2, whose solution is 1 / (2 - sin t)."""
    a, b, c = tableau  # type: ignore[misc]
    y, h = 0.5, 1 / steps
    for n in range(steps):
        k = np.zeros(len(b))
        for i in range(len(b)):
            k[i] = (y + h * (a[i] @ k)) ** 2 * math.cos((n + c[i]) * h)
        y += h * (b @ k)
    return abs(y - 1 / (2 - math.sin(1)))


@pytest.mark.parametrize(("name", "order"), [("gegenbauer", 2), ("rock4", 4)])
def test_stabilised_methods_have_their_orders(arena: SimpleNamespace, name: str, order: int) -> None:
    found = [runge_kutta(getattr(arena.stork, name)(20), steps) for steps in (4, 8, 16)]
    assert slopes(found) == pytest.approx([order] * 2, abs=0.25)


@pytest.mark.parametrize(("name", "share"), [("gegenbauer", 1 / 3), ("rock4", 0.35)])
def test_stabilised_methods_are_stable_along_the_negative_axis(arena: SimpleNamespace, name: str, share: float) -> None:
    """The stability polynomial 1 + z b (I - z A)^-1 1 has absolute values of at most 1 for z down to -``share`` s^2."""
    s = arena.stork.STAGES
    a, b, _ = getattr(arena.stork, name)(s)
    values = [1 + z * b @ np.linalg.solve(np.eye(s) - z * a, np.ones(s)) for z in np.linspace(-share * s * s, 0, 400)]
    assert max(map(abs, values)) <= 1 + 1e-9
    assert max(map(abs, values[:300])) < 0.96


@pytest.mark.parametrize(("method", "degree", "order"), [("gegenbauer", 2, 2), ("rock4", 2, 3), ("rock4", 3, 4)])
def test_stork_has_the_order_of_its_method_or_polynomial(
    arena: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, method: str, degree: int, order: int
) -> None:
    """The polynomial of degree q through past values has an error of order q + 1. n steps take n + 2 evaluations."""
    monkeypatch.setattr(arena.stork, "STAGES", 12)
    solver = partial(arena.stork.stork, getattr(arena.stork, method), degree)
    assert slopes(errors(solver, VP(), arena.grids.log_snr, (160, 320))) == pytest.approx([order], abs=0.3)
    calls: list[float] = []

    def score(x: Tensor, t: Tensor) -> Tensor:
        calls.append(float(t))
        return gaussian(VP())(x, t)

    solver(VP(), score, torch.ones(3, 2, dtype=torch.float64), arena.grids.GRIDS["uniform t to 1e-3, 0"](VP(), 6))
    assert len(calls) == 8
    assert calls[2] == calls[3]


@pytest.mark.parametrize("method", ["gegenbauer", "rock4"])
def test_virtual_evaluations_are_exact_for_quadratic_noise(arena: SimpleNamespace, method: str) -> None:
    """If the noise is a polynomial of degree 2 in time, it does not matter which three values are known."""
    sde, x = VP(), torch.tensor([[1.0, -0.7]], dtype=torch.float64)
    method, times = getattr(arena.stork, method), arena.grids.GRIDS["quadratic t"](sde, 5)

    def noise(t: float) -> Tensor:
        return torch.tensor([[1 - t + 2 * t * t, 3 * t * t]], dtype=torch.float64)

    expected, known = x, {t: noise(t) for t in (0.1, 0.5, 0.9)}
    for t, s in itertools.pairwise(times.tolist()):
        expected = arena.stork.step(method(arena.stork.STAGES), sde, expected, t, s, known)
    for degree in (2, 3):
        found = arena.stork.stork(method, degree, sde, lambda x, t: -noise(float(t)) / sde.sigma(t), x, times)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("growth", [1.0, 1.15])
def test_the_cheapest_path_is_the_best_of_all(arena: SimpleNamespace, growth: float) -> None:
    """All subsets of a dense grid of 8 steps are tried; costs may be negative, as those of GITS."""
    for seed in range(5):
        costs = torch.randn(9, 9, generator=generator("cpu", seed, "test"), dtype=torch.float64)
        for steps in range(1, 9):

            def total(path: tuple[int, ...], costs: Tensor = costs) -> float:
                return sum(growth**k * float(costs[i, j]) for k, (i, j) in enumerate(itertools.pairwise(path)))

            every = [(0, *inner, 8) for inner in itertools.combinations(range(1, 8), steps - 1)]
            assert tuple(arena.paths.cheapest(costs, steps, growth)) == min(every, key=total)
    with pytest.raises(ValueError, match="at most 8"):
        arena.paths.cheapest(costs, 9)


def test_gits_measures_the_errors_of_eulers_method(arena: SimpleNamespace) -> None:
    """For Gaussian data of variance v, trajectories are straight, and x-hat is proportional to sqrt(v + u^2)."""
    sde, v, x = VP(), 0.25, torch.randn(50, 3, generator=generator("cpu", 0, "test"), dtype=torch.float64)
    score = gaussian(sde, torch.tensor(v))
    u = arena.grids.level(sde, arena.grids.GRIDS["log-SNR"](sde, 100))
    costs = arena.gits.costs("log-SNR", "distance", 100, sde, score, x)
    length = (v + u**2).sqrt()
    norms = (x / sde.alpha(torch.tensor(sde.T, dtype=torch.float64))).norm(dim=1).mean() / length[0]
    for i, j in ((0, 40), (30, 60), (40, 70), (70, 100)):
        euler = length[i] + (u[j] - u[i]) * u[i] / length[i]
        assert float(costs[i, j]) == pytest.approx(float(norms * (euler - length[j]).abs()), rel=0.02)
    straight = arena.gits.costs("log-SNR", "deviation", 100, sde, score, x)
    assert float(straight.abs().max()) < 1e-9 * float(norms * length[0])


def bound(u: Tensor, v: float, d: int) -> float:
    """Returns AYS's bound for Gaussian data of variance v in d dimensions on a grid of noise-to-signal ratios.

    D = v x / (v + u^2), so that E |D_u - D_t|^2 = d v^2 (1 / (v + u^2) - 1 / (v + t^2)).
    """
    from scipy.integrate import quad

    def piece(t: float, s: float) -> float:
        return quad(
            lambda z: v * v * (1 / (v + math.exp(2 * z)) - 1 / (v + t * t)) * math.exp(-2 * z), *map(math.log, (s, t))
        )[0]

    return d * sum(piece(t, s) for t, s in itertools.pairwise(u.tolist()))


def last_variance(sde: LinearSDE, times: Tensor, v: float) -> float:
    """Returns the variance of x-hat after stochastic DDIM, which is linear for Gaussian data of variance v."""
    u = (sde.sigma(times) / sde.alpha(times)).tolist()
    at = u[0] ** 2 + v
    for t, s in itertools.pairwise(u):
        # x-hat becomes D + (s/t)^2 (x-hat - D), with noise of variance s^2 (1 - (s/t)^2).
        share, shrink = (s / t) ** 2, v / (v + t * t)
        at = (shrink + share * (1 - shrink)) ** 2 * at + s * s * (1 - share)
    return at


def test_ays_bounds_are_exact_for_gaussian_data(arena: SimpleNamespace) -> None:
    """The estimated integrals agree with the closed form; the fitted grid has a smaller bound than common grids.

    The bound is one: the KL divergence of the last state of stochastic DDIM, which is Gaussian, is smaller.
    """
    sde, v, d = VP(), 0.25, 8
    score = gaussian(sde, torch.tensor(v))
    x = torch.randn(1000, d, generator=generator("cpu", 0, "test"), dtype=torch.float64)
    u = arena.grids.level(sde, arena.grids.log_snr(sde, arena.ays.POINTS))
    found = arena.ays.bounds(sde, score, x)
    for i, j in ((0, 80), (60, 100), (95, 100), (100, 140), (150, 152), (150, 200)):
        assert float(found[i, j]) == pytest.approx(bound(u[[i, j]], v, d), rel=0.05)
    fitted = arena.ays.fit(0.0, sde, score, x, 10)
    best = bound(arena.grids.level(sde, fitted), v, d)
    for name in ("log-SNR", "quadratic t", "uniform t", "Karras"):
        times = arena.grids.GRIDS[name](sde, 10)
        other = bound(arena.grids.level(sde, times), v, d)
        assert best < 0.9 * other, name
        quotient = last_variance(sde, times, v) / (v + float(arena.grids.level(sde, times[-1])) ** 2)
        assert 0.5 * d * (quotient - 1 - math.log(quotient)) <= other, name


def test_a_grid_that_ends_before_eps_has_one_more_step(arena: SimpleNamespace) -> None:
    sde, x = VP(), torch.randn(100, 2, generator=generator("cpu", 0, "test"), dtype=torch.float64)
    for steps, end in itertools.product((1, 2, 7), arena.ays.ENDS):
        if steps == 1 and end:
            continue
        times = arena.ays.fit(end, sde, gaussian(sde), x, steps)
        assert times.shape == (steps + 1,)
        assert (times.diff() < 0).all()
        assert times[[0, -1]].tolist() == pytest.approx([sde.T, sde.eps], rel=1e-9)
        assert end == 0 or 1 < float(arena.grids.level(sde, times[-2])) / end < 1.07


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_has_its_order(arena: SimpleNamespace, order: int) -> None:
    for final in {order, 1}:
        # Last steps of lower order change x so little that they hardly matter.
        found = errors(partial(arena.multistep.dpm, order, final), VP(), arena.grids.karras, (100, 200))
        assert slopes(found) == pytest.approx([order], abs=0.15)


def test_sde_dpm_solver_of_order_two_has_less_bias(arena: SimpleNamespace) -> None:
    """Variances of many samples of Gaussian data, against the exact ones."""
    sde, bias = VP(), {}
    x = torch.randn(40_000, 2, generator=generator("cpu", 0, "test"), dtype=torch.float64)
    for name, solver in arena.multistep.REVERSE.items():
        with arena.grids.seeded(0):
            end = solver(sde, gaussian(sde), x, arena.grids.log_snr(sde, 25))
        bias[name] = (end.square().mean(0) / VARIANCES - 1).abs()
    # The standard error of a variance is 0.7 %.
    assert (bias["SDE-DPM++ 2M"] < 0.08).all()
    assert (bias["SDE-DPM++ 2M lower"] < 0.08).all()
    assert (bias["stochastic DDIM"] > 0.3).all()


@pytest.mark.parametrize(("family", "steps"), [("planes16", 20), ("broad", 10)])
def test_gits_improves_its_solver(arena: SimpleNamespace, family: str, steps: int) -> None:
    """iPNDM 3 ends closer to the exact flow on the best fitted grid than on the authors' grid without a fit."""
    (held,) = arena.problem.apart(arena.problem.problem("ode", family, [103], 200), family, [103])
    own = [c for c in arena.gits.contestants("ode") if c.name == "GITS iPNDM 3" and "Karras" in c.setting]
    plain = next(c for c in arena.papers.contestants("ode") if c.name == "iPNDM 3, as published")
    unfitted = arena.race.once(plain, held, steps)
    fitted = [arena.race.once(contestant, held, steps) for contestant in own]
    assert {result.nfe for result in fitted} == {steps}
    assert min(result.value for result in fitted) < 0.5 * unfitted.value


@pytest.mark.parametrize("sde", [VP(), VE(), SubVP()], ids=["VP", "VE", "SubVP"])
def test_new_peers_run_with_every_process_and_single_precision(arena: SimpleNamespace, sde: LinearSDE) -> None:
    """With a score and states in float32, fits and samples are as good as in float64."""
    data = torch.tensor([0.05, 0.5, 2.0], dtype=torch.float64)

    def score(x: Tensor, t: Tensor) -> Tensor:
        return gaussian(sde, data.float())(x.float(), t.float())

    x = sde.prior_std * torch.randn(40, 3, generator=generator("cpu", 0, "test"), dtype=torch.float64)
    begin, end = (torch.tensor(t, dtype=torch.float64) for t in (sde.T, sde.eps))
    exact = x * (variance(sde, end, data) / variance(sde, begin, data)).sqrt()
    own = {"ays": 7, "gits": 17, "stork": 9}
    for contestant in (c for part, every in own.items() for c in getattr(arena, part).contestants("ode")[::every]):
        single = contestant.run(sde, arena.race.Counted(score), x.float(), 20, 0)
        double = contestant.run(sde, arena.race.Counted(gaussian(sde, data)), x, 20, 0)
        single_error, double_error = (float((found - exact).norm(dim=1).mean()) for found in (single, double))
        assert single_error < 1.1 * double_error + 0.005, (contestant.name, contestant.setting)


def test_fitted_peers_have_each_target_apart(arena: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[int]] = {"together": set(), "apart": set()}

    def watching(name: str) -> Callable[..., Tensor]:
        def run(sde: LinearSDE, score: object, x: Tensor, steps: int, seed: int) -> Tensor:
            seen[name].add(len(score.score.means))  # type: ignore[attr-defined]
            for _ in range(steps):
                score(x, torch.tensor(0.5, dtype=torch.float64))  # type: ignore[operator]
            return x

        return run

    entries = [arena.race.Contestant(name, "", watching(name), alone=name == "apart") for name in seen]
    monkeypatch.setattr(arena.peers, "contestants", lambda kind: entries)
    asked = argparse.Namespace(
        kind="ode", targets=[101, 102], steps=[4], samples=20, search=10, only="peers", match=[""]
    )
    rows = list(arena.contest.held("broad", asked))
    assert seen == {"together": {2}, "apart": {1}}
    assert rows[0]["at"]["4"]["value"] == pytest.approx(rows[1]["at"]["4"]["value"], rel=1e-12)
