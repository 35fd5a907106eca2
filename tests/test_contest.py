"""The contest of samplers: its targets, its exact answers, and how it counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import standard_error
from torch import Tensor

from sdegen.metrics import sliced_w1
from sdegen.mixture import Marginals
from sdegen.rng import generator
from sdegen.sde import VP, LinearSDE
from sdegen.sde.base import Score

TUNING = range(100, 110)


@pytest.fixture(scope="module")
def contest() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
        import contest

        patch.setattr(contest, "REFERENCE", 5000)
        yield contest


@pytest.fixture(scope="module")
def peers(contest: ModuleType) -> ModuleType:
    import peers

    return peers


def test_targets_are_standardised(contest: ModuleType) -> None:
    """Against draws: means 0 and standard deviations 1 in each coordinate, within five standard errors."""
    for seed in range(5):
        x = contest.target(seed).sample(100_000, generator("cpu", seed, "test"))
        for coordinate in x.T:
            assert abs(float(coordinate.mean())) < 5 * standard_error(coordinate)
            assert abs(float(coordinate.square().mean()) - 1) < 5 * standard_error(coordinate.square())


def test_targets_are_anisotropic_and_as_various_as_said(contest: ModuleType) -> None:
    laws = [contest.target(seed) for seed in (*range(5), *TUNING)]
    assert {len(law.weights) for law in laws} <= set(range(3, 11))
    assert len({len(law.weights) for law in laws}) >= 5
    deviations = torch.cat([torch.linalg.eigvalsh(law.covariances).sqrt() for law in laws])
    ratio = deviations[:, 1] / deviations[:, 0]
    assert float(ratio.median()) > 1.5
    # Standardising scales them by the law's own deviation, which is about that of the means, 1.
    assert 0.01 < float(deviations.min()) < 0.06
    assert 0.3 < float(deviations[:, 1].quantile(0.9)) < 0.8


def test_a_target_is_a_function_of_its_seed(contest: ModuleType) -> None:
    torch.testing.assert_close(contest.target(3).means, contest.target(3).means, rtol=0, atol=0)
    assert not torch.equal(contest.target(3).means[:3], contest.target(4).means[:3])


@pytest.mark.parametrize("t", [1e-5, 0.01, 0.3, 1.0])
def test_scores_side_by_side_are_the_oracle_on_each_share(contest: ModuleType, t: float) -> None:
    """The precision form of the score against the eigenvector form of the mixture."""
    sde, laws = VP(), [contest.target(seed) for seed in range(5)]
    x = 1.5 * torch.randn(5, 50, 2, generator=generator("cpu", 0, "test"), dtype=torch.float64)
    at = torch.tensor(t, dtype=torch.float64)
    expected = torch.cat([Marginals(law, sde)(share, at) for law, share in zip(laws, x, strict=True)])
    torch.testing.assert_close(contest.SideBySide(laws, sde)(x.reshape(-1, 2), at), expected, rtol=1e-9, atol=1e-9)


def test_exact_end_points_have_the_law_of_the_target(contest: ModuleType) -> None:
    """Moments of the flow's ends against the mixture's own: mean, covariance, and the mass beyond a line."""
    problem = contest.problem("ode", [1], 1500)
    ends = problem.distances[0].truth
    exact = contest.target(1).sample(200_000, generator("cpu", 1, "test"))
    for moment in (
        lambda x: x[:, 0],
        lambda x: x[:, 1],
        lambda x: x[:, 0] * x[:, 1],
        lambda x: x[:, 0] ** 2,
        lambda x: x[:, 1] ** 2,
        lambda x: (x[:, 0] > 0.5).double(),
        lambda x: (x[:, 0] + x[:, 1] > 0).double(),
    ):
        spread = math.hypot(standard_error(moment(ends)), standard_error(moment(exact)))
        assert abs(float(moment(ends).mean() - moment(exact).mean())) < 5 * spread


def test_exact_end_points_are_those_of_a_solver_of_another_family(contest: ModuleType) -> None:
    """Against SciPy's DOP853 of order 8 on the flow, point by point."""
    from scipy.integrate import solve_ivp

    problem = contest.problem("ode", [0], 4)
    law, sde = contest.target(0), VP()

    def field(t: float, state):  # noqa: ANN001, ANN202
        x, at = torch.as_tensor(state).reshape(-1, 2), torch.tensor(t, dtype=torch.float64)
        beta = sde.beta(at)
        return (-0.5 * beta * (x + law.score(x, sde.alpha(at), sde.sigma(at)))).flatten().numpy()

    start = problem.x[0].flatten().numpy()
    result = solve_ivp(field, (1.0, sde.eps), start, method="DOP853", rtol=1e-12, atol=1e-12)
    expected = torch.as_tensor(result.y[:, -1]).reshape(-1, 2)
    torch.testing.assert_close(problem.distances[0].truth, expected, rtol=0, atol=1e-7)


def halves(sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """A sampler of two evaluations a step and one more at the end, that stays where it is."""
    t = torch.tensor(sde.T, dtype=torch.float64)
    for _ in range(2 * steps + 1):
        score(x, t)
    return x


def test_steps_fill_the_budget_as_counted_at_the_score(contest: ModuleType) -> None:
    problem = contest.problem("sde", [0], 100)
    sampler = contest.Contestant("halves", "", halves)
    assert [contest.fitting(sampler, problem, budget) for budget in (2, 3, 4, 5, 20, 21)] == [0, 1, 1, 2, 9, 10]
    assert contest.measure(sampler, [problem], 20).nfe == 19


def test_the_distance_of_a_sampler_that_does_nothing_is_that_of_the_noise(contest: ModuleType) -> None:
    """Mean distance of the starts to the ends of the flow, row by row."""
    sampler = contest.Contestant("halves", "", halves)
    problem = contest.problem("ode", [0, 1], 100)
    expected = (
        sum(math.dist(*pair) for k in (0, 1) for pair in zip(problem.x[k], problem.distances[k].truth, strict=True))
        / 200
    )
    assert contest.measure(sampler, [problem], 21).value == pytest.approx(expected, rel=1e-12)


def test_sliced_w1_to_sorted_points_is_the_metric(contest: ModuleType) -> None:
    """For numbers of points that divide each other and that do not, against SciPy's W1 of each direction."""
    source = generator("cpu", 0, "test")
    draws = torch.randn(600, 2, generator=source, dtype=torch.float64)
    for n in (1, 7, 300, 600, 1000, 1200):
        x = 0.3 + 1.2 * torch.randn(n, 2, generator=source, dtype=torch.float64)
        assert contest.SlicedW1(draws)(x) == pytest.approx(sliced_w1(x, draws), rel=1e-12)


def test_the_best_setting_is_chosen_by_value(contest: ModuleType) -> None:
    """Samplers that end a known distance from the truth: the nearest wins, the one that fails does not."""
    problem = contest.problem("ode", [0], 50)

    def ending(offset: float) -> object:
        def run(sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
            for _ in range(steps):
                score(x, torch.tensor(0.5, dtype=torch.float64))
            return problem.distances[0].truth[: len(x)] + torch.tensor([offset, 0.0])

        return run

    offsets = {"far": 3.0, "near": 0.25, "none": math.nan, "middle": 1.0}
    own = [contest.Contestant("known", name, ending(offset)) for name, offset in offsets.items()]
    result = contest.best(own, [problem], 7, 10)
    assert result["setting"] == "near"
    assert result["value"] == pytest.approx(0.25)
    assert result["nfe"] == 7


def test_our_entries_compose_and_count_as_their_options_say(contest: ModuleType) -> None:
    problem = contest.problem("sde", [0], 200)
    for contestant in contest.ours("sde")[::4]:
        assert contest.measure(contestant, [problem], 12).nfe <= 12, contestant.name
    problem = contest.problem("ode", [0], 50)
    adaptive = [contestant for contestant in contest.ours("ode") if "dopri5" in contestant.name]
    loose, tight = (contest.once(adaptive[i], problem, 1) for i in (8, -1))
    assert tight.value < 0.02 * loose.value
    assert tight.nfe > loose.nfe


def euler(sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Euler's method for the flow."""
    h = (sde.T - sde.eps) / steps
    for t in sde.T - h * torch.arange(steps, dtype=torch.float64):
        x = x + h * 0.5 * sde.diffusion(t) ** 2 * (x + score(x, t))
    return x


def test_targets_side_by_side_and_apart_measure_the_same(contest: ModuleType) -> None:
    """A sampler's distance with all targets in one batch is the mean of its distances on each."""
    problem = contest.problem("sde", [0, 3, 4], 40)
    sampler = contest.Contestant("Euler", "", euler)
    together = contest.measure(sampler, [problem], 9)
    assert together.nfe == 9
    alone = contest.measure(sampler, contest.apart(problem, [0, 3, 4]), 9)
    assert together.value == pytest.approx(alone.value, rel=1e-9)


def test_grids_fall_from_the_prior_to_the_end(peers: ModuleType) -> None:
    """Each in the variable that it is said to be uniform in, computed from alpha and sigma."""
    sde = VP()
    uniform = {
        "uniform t": lambda t: t,
        "quadratic t": lambda t: t.sqrt(),
        "log-SNR": lambda t: (sde.sigma(t) / sde.alpha(t)).log(),
        "Karras": lambda t: (sde.sigma(t) / sde.alpha(t)) ** (1 / 7),
    }
    for name, grid in peers.GRIDS.items():
        times = grid(sde, 20)
        assert times.shape == (21,)
        assert float(times[0]) == pytest.approx(1.0, abs=1e-12)
        assert (times.diff() < 0).all()
        if name in uniform:
            assert float(times[-1]) == pytest.approx(sde.eps, rel=1e-9)
            step = uniform[name](times).diff()
            torch.testing.assert_close(step, step.mean().expand(20), rtol=1e-6, atol=0)
        else:
            assert float(times[-2]) == pytest.approx(1e-3, rel=1e-9)
            assert float(times[-1]) == 0
