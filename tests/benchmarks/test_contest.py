"""The contest of samplers: targets, exact answers, and counts of evaluations."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import standard_error
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.metrics import sliced_w1
from sdegen.sde import VP, LinearSDE
from sdegen.sde.base import Score
from sdegen.sde.mixture import GaussianMixture

TUNING = range(100, 110)


FAMILIES = ("broad", "clusters", "rare", "ring", "tails", "planes16", "planes64")


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """Makes the folder of the scripts importable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "scripts" / "benchmarks"))
        from arena import problem

        patch.setattr(problem, "REFERENCE", 5000)
        yield


@pytest.fixture(scope="module")
def targets(scripts: None) -> ModuleType:
    from arena import targets

    return targets


@pytest.fixture(scope="module")
def problem(scripts: None) -> ModuleType:
    from arena import problem

    return problem


@pytest.fixture(scope="module")
def race(scripts: None) -> ModuleType:
    from arena import race

    return race


@pytest.fixture(scope="module")
def grids(scripts: None) -> ModuleType:
    from arena import grids

    return grids


@pytest.fixture(scope="module")
def papers(scripts: None) -> ModuleType:
    from arena import papers

    return papers


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_are_standardised(targets: ModuleType, family: str) -> None:
    """Draws have mean 0 and standard deviation 1 in each coordinate, within five standard errors."""
    seeds, draws = (5, 100_000) if family == "broad" else (2, 20_000)
    for seed in range(seeds):
        x = targets.target(family, seed).sample(draws, generator("cpu", seed, "test"))
        for coordinate in x.T:
            assert abs(float(coordinate.mean())) < 5 * standard_error(coordinate)
            assert abs(float(coordinate.square().mean()) - 1) < 5 * standard_error(coordinate.square())


def test_broad_targets_are_anisotropic_and_as_various_as_said(targets: ModuleType) -> None:
    laws = [targets.target("broad", seed) for seed in (*range(5), *TUNING)]
    assert {len(law.weights) for law in laws} <= set(range(3, 11))
    assert len({len(law.weights) for law in laws}) >= 5
    deviations = torch.cat([torch.linalg.eigvalsh(law.covariances).sqrt() for law in laws])
    ratio = deviations[:, 1] / deviations[:, 0]
    assert float(ratio.median()) > 1.5
    # Standardisation hardly changes these numbers, because the standard deviation of the mixture is near 1.
    assert 0.01 < float(deviations.min()) < 0.06
    assert 0.3 < float(deviations[:, 1].quantile(0.9)) < 0.8


def test_the_other_families_are_what_they_are_said_to_be(targets: ModuleType) -> None:
    """The draws show narrow clusters, a rare tight mode, a thin ring and heavy tails."""
    laws = {family: targets.target(family, 0) for family in ("clusters", "rare", "ring", "tails")}
    draws = {family: law.sample(20_000, generator("cpu", 0, "test")) for family, law in laws.items()}
    # For a round Gaussian in the plane, the mean distance to the centre is sqrt(pi / 2) standard deviations.
    to_centre = torch.cdist(draws["clusters"], laws["clusters"].means).min(1).values
    assert 0.012 < float(to_centre.mean()) / math.sqrt(math.pi / 2) < 0.017
    tight = (draws["rare"] - laws["rare"].means[-1]).norm(dim=1) < 0.05
    assert 0.015 < float(tight.double().mean()) < 0.04
    # Standardisation made the circle an ellipse. Undo it, so that the radius has the thickness as its
    # standard deviation.
    centres = laws["ring"].means
    low, high = centres.min(0).values, centres.max(0).values
    radius = ((draws["ring"] - (low + high) / 2) / ((high - low) / 2)).norm(dim=1)
    assert float(radius.mean()) == pytest.approx(1, abs=0.01)
    assert 0.025 < float(radius.std()) < 0.035
    # The fourth moment of a standard normal is 3.
    assert float(draws["tails"].pow(4).mean()) > 15


@pytest.mark.parametrize("d", [16, 64])
def test_planes_are_thin_and_no_rotation_decouples_them(targets: ModuleType, d: int) -> None:
    """In each component, all but four standard deviations are 0.03. The covariances do not commute."""
    law = targets.target(f"planes{d}", 0)
    deviations = torch.linalg.eigvalsh(law.covariances).sqrt()
    torch.testing.assert_close(deviations[:, : d - 4], torch.full((8, d - 4), 0.03, dtype=torch.float64))
    assert float(deviations[:, d - 4 :].min()) > 0.3
    for a in range(8):
        for b in range(a):
            product = law.covariances[a] @ law.covariances[b]
            assert float((product - product.T).norm()) > 0.1 * float(product.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_is_a_function_of_its_family_and_seed(targets: ModuleType, family: str) -> None:
    again = [targets.target(family, 3).log_prob(torch.zeros(1, targets.target(family, 3).means.shape[1])) for _ in "ab"]
    assert again[0] == again[1]
    assert not torch.equal(targets.target(family, 3).weights[:3], targets.target(family, 4).weights[:3])


def various(seed: int) -> GaussianMixture:
    """Makes a mixture of ``3 + seed`` components in five dimensions, with random means and covariances."""
    source, m = generator("cpu", seed, "test law"), 3 + seed
    axes = torch.linalg.qr(torch.randn(m, 5, 5, generator=source, dtype=torch.float64))[0]
    variances = 0.01 + torch.rand(m, 1, 5, generator=source, dtype=torch.float64)
    means = torch.randn(m, 5, generator=source, dtype=torch.float64)
    return GaussianMixture(1 + torch.arange(m), means, (axes * variances) @ axes.mT)


@pytest.mark.parametrize("t", [1e-5, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("family", [*FAMILIES, "various"])
def test_scores_side_by_side_are_gradients_of_the_density(targets: ModuleType, family: str, t: float) -> None:
    """At draws from the noisy mixture, the low-rank score equals the gradient of torch's mixture density."""
    from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

    sde, at = VP(), torch.tensor(t, dtype=torch.float64)
    alpha, sigma = sde.alpha(at), sde.sigma(at)
    laws = [various(seed) if family == "various" else targets.target(family, seed) for seed in range(3)]
    shares, expected = [], []
    for seed, law in enumerate(laws):
        source = generator("cpu", seed, "test")
        z = torch.randn(50, law.means.shape[1], generator=source, dtype=torch.float64)
        x = (alpha * law.sample(50, source) + sigma * z).requires_grad_()
        noise = sigma**2 * torch.eye(x.shape[1], dtype=torch.float64)
        modes = MultivariateNormal(alpha * law.means, alpha**2 * law.covariances + noise)
        log_prob = MixtureSameFamily(Categorical(law.weights), modes).log_prob(x)
        expected.append(torch.autograd.grad(log_prob.sum(), x)[0])
        shares.append(x.detach())
    x, scores = torch.cat(shares), targets.SideBySide(laws, sde)
    torch.testing.assert_close(scores(x, at), torch.cat(expected), rtol=1e-8, atol=1e-8)
    # The score also accepts one time for each point, and one target at a time.
    alone = [targets.SideBySide([law], sde)(share, at) for law, share in zip(laws, shares, strict=True)]
    torch.testing.assert_close(torch.cat(alone), torch.cat(expected), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(scores(x, at.expand(len(x))), scores(x, at), rtol=1e-12, atol=0)


def test_exact_end_points_have_the_law_of_the_target(problem: ModuleType, targets: ModuleType) -> None:
    """The ends of the flow and draws from the mixture agree in mean, covariance and the mass beyond a line."""
    ends = problem.problem("ode", "broad", [1], 1500).distances[0].truth
    exact = targets.target("broad", 1).sample(200_000, generator("cpu", 1, "test"))
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


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_end_points_are_those_of_another_kind_of_solver(
    problem: ModuleType, targets: ModuleType, family: str
) -> None:
    """The oracle is SciPy's DOP853, of order 8, which solves the flow for each point separately."""
    from scipy.integrate import solve_ivp

    held = problem.problem("ode", family, [0], 4)
    law, sde = targets.target(family, 0), VP()

    def field(t: float, state):  # noqa: ANN001, ANN202
        x, at = torch.as_tensor(state).view_as(held.x[0]), torch.tensor(t, dtype=torch.float64)
        beta = sde.beta(at)
        return (-0.5 * beta * (x + law.score(x, sde.alpha(at), sde.sigma(at)))).flatten().numpy()

    start = held.x[0].flatten().numpy()
    result = solve_ivp(field, (1.0, sde.eps), start, method="DOP853", rtol=1e-12, atol=1e-12)
    expected = torch.as_tensor(result.y[:, -1]).view_as(held.x[0])
    torch.testing.assert_close(held.distances[0].truth, expected, rtol=0, atol=1e-7)


def halves(sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Calls the score ``2 * steps + 1`` times and returns ``x`` unchanged."""
    t = torch.tensor(sde.T, dtype=torch.float64)
    for _ in range(2 * steps + 1):
        score(x, t)
    return x


def test_steps_fill_the_budget_as_counted_at_the_score(problem: ModuleType, race: ModuleType) -> None:
    held = problem.problem("sde", "broad", [0], 100)
    sampler = race.Contestant("halves", "", halves)
    assert [race.fitting(sampler, held, budget) for budget in (2, 3, 4, 5, 20, 21)] == [0, 1, 1, 2, 9, 10]
    assert race.Race([held], 100).measure(sampler, 20).nfe == 19
    # This adaptive sampler always makes three evaluations, so a budget of two excludes it.
    chooses = race.Contestant("halves", "", lambda *a: halves(*a[:3], 1, 0), adaptive=True)
    assert [race.Race([held], 100).measure(chooses, budget).nfe for budget in (2, 3, 4)] == [0, 3, 3]


def test_the_distance_of_a_sampler_that_does_nothing_is_that_of_the_noise(
    problem: ModuleType, race: ModuleType
) -> None:
    """The value is the mean distance between an initial state and the end point of the flow from it."""
    sampler = race.Contestant("halves", "", halves)
    for family in ("broad", "planes16"):
        held = problem.problem("ode", family, [0, 1], 50)
        expected = (
            sum(math.dist(*pair) for k in (0, 1) for pair in zip(held.x[k], held.distances[k].truth, strict=True)) / 100
        )
        assert race.Race([held], 10).measure(sampler, 21).value == pytest.approx(expected, rel=1e-12)


def test_sliced_w1_to_sorted_points_is_the_metric(problem: ModuleType) -> None:
    """The two values are equal for any two numbers of points, in two and in five dimensions."""
    source = generator("cpu", 0, "test")
    for d in (2, 5):
        draws = torch.randn(600, d, generator=source, dtype=torch.float64)
        for n in (1, 7, 300, 600, 1000, 1200):
            x = 0.3 + 1.2 * torch.randn(n, d, generator=source, dtype=torch.float64)
            assert problem.SlicedW1(draws)(x) == pytest.approx(sliced_w1(x, draws), rel=1e-12)


def test_the_best_setting_is_chosen_by_value(problem: ModuleType, race: ModuleType) -> None:
    """The sampler with the smallest distance wins. A sampler whose samples are NaN does not win."""
    held = problem.problem("ode", "broad", [0], 50)

    def ending(offset: float) -> object:
        def run(sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
            for _ in range(steps):
                score(x, torch.tensor(0.5, dtype=torch.float64))
            return held.distances[0].truth[: len(x)] + torch.tensor([offset, 0.0])

        return run

    offsets = {"far": 3.0, "near": 0.25, "none": math.nan, "middle": 1.0}
    own = [race.Contestant("known", name, ending(offset)) for name, offset in offsets.items()]
    result = race.Race([held], 10).best(own, 7)
    assert result["setting"] == "near"
    assert result["value"] == pytest.approx(0.25)
    assert result["nfe"] == 7


def test_the_summary_has_the_least_of_each_side(scripts: None) -> None:
    """Configured and corrected samplers have columns of their own. The smallest value is bold; the floor never is."""
    import contest

    def row(name: str, *values: float) -> dict[str, object]:
        return {"name": name, "at": {str(b): {"value": v, "nfe": b} for b, v in zip((5, 10), values, strict=False)}}

    rows = [
        row("floor", 0.1, 0.1),
        row("sdegen adams, as configured", 4.0, 3.0),
        row("sdegen adams", 3.0, 3.0),
        row("sdegen ddim", 8.0, 2.0),
        row("azula REAB 2", 2.0, 9.0),
        row("azula DDIM", 7.0, 8.0),
        row("REAB 2, corrected", 5.0),
        row("iPNDM 4, as published", 6.0, 2.5),
        row("iPNDM 4", 5.5, 2.5),
    ]
    lines = contest.summary({"ring": rows}, (5, 10)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]
    sides = ["floor", "sdegen, as configured", "sdegen", "azula", "REAB, corrected", "iPNDM, as published", "iPNDM"]
    assert cells == [
        ["family", "evaluations", *sides],
        ["ring", "5", "0.1", "4", "3", "**2**", "5", "6", "5.5"],
        ["ring", "10", "0.1", "3", "**2**", "8", "", "2.5", "2.5"],
    ]


def test_our_entries_compose_and_count_as_their_options_say(problem: ModuleType, race: ModuleType) -> None:
    from arena import ours

    held = problem.problem("sde", "broad", [0], 200)
    own = [c for c in ours.contestants("sde") if c.setting in ("", "log_snr")]
    for contestant in own[::3]:
        assert race.Race([held], 50).measure(contestant, 12).nfe <= 12, contestant.name
    held = problem.problem("ode", "broad", [0], 50)
    adaptive = [contestant for contestant in ours.contestants("ode") if "dopri5" in contestant.name]
    loose, tight = (race.once(adaptive[i], held, 1) for i in (8, -1))
    assert tight.value < 0.02 * loose.value
    assert tight.nfe > loose.nfe


def euler(sde: LinearSDE, score: Score, x: Tensor, steps: int, seed: int) -> Tensor:
    """Draws samples with Euler's method for the flow."""
    h = (sde.T - sde.eps) / steps
    for t in sde.T - h * torch.arange(steps, dtype=torch.float64):
        x = x + h * 0.5 * sde.diffusion(t) ** 2 * (x + score(x, t))
    return x


def test_targets_side_by_side_and_apart_measure_the_same(problem: ModuleType, race: ModuleType) -> None:
    """The distance of a sampler on one batch with all targets is the mean of its distances on each target alone."""
    held = problem.problem("sde", "planes16", [0, 3, 4], 40)
    sampler = race.Contestant("Euler", "", euler)
    together = race.Race([held], 10).measure(sampler, 9)
    assert together.nfe == 9
    alone = race.Race(problem.apart(held, "planes16", [0, 3, 4]), 10).measure(sampler, 9)
    assert together.value == pytest.approx(alone.value, rel=1e-9)


def test_grids_fall_from_the_prior_to_the_end(grids: ModuleType) -> None:
    """Each grid falls from T. Four grids have equal steps in t, sqrt(t), log-SNR and sigma-hat^(1/7)."""
    sde = VP()
    uniform = {
        "uniform t": lambda t: t,
        "quadratic t": lambda t: t.sqrt(),
        "log-SNR": lambda t: (sde.sigma(t) / sde.alpha(t)).log(),
        "Karras": lambda t: (sde.sigma(t) / sde.alpha(t)) ** (1 / 7),
    }
    for name, grid in grids.GRIDS.items():
        times = grid(sde, 20)
        assert times.shape == (21,)
        assert float(times[0]) == pytest.approx(1.0, abs=1e-12)
        assert (times.diff() < 0).all()
        if name in uniform:
            assert float(times[-1]) == pytest.approx(sde.eps, rel=1e-9)
            step = uniform[name](times).diff()
            torch.testing.assert_close(step, step.mean().expand(20), rtol=1e-6, atol=0)
        elif name == "ours":
            assert float(times[-1]) == sde.eps
        else:
            assert float(times[-2]) == pytest.approx(1e-3, rel=1e-9)
            assert float(times[-1]) == 0


def slopes(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


def ratio(sde: LinearSDE, t: Tensor) -> Tensor:
    """Returns sigma-hat = sigma / alpha, the noise-to-signal ratio."""
    return sde.sigma(t) / sde.alpha(t)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_has_its_order_on_equal_steps(papers: ModuleType, order: int) -> None:
    """If the predicted noise is c u^5 x-hat, the flow multiplies x-hat by exp(-c R / 6).

    R is the length of the range of sigma-hat, and u grows from 0 to 1 along it. The field is so flat near u = 0 that
    the lower orders of the first steps do not matter.
    """
    sde, c = VP(beta_max=2.0), torch.tensor([4.0, 1.0], dtype=torch.float64)
    x = torch.tensor([[1.0, -0.7]], dtype=torch.float64)
    ends = ratio(sde, torch.tensor([sde.T, sde.eps], dtype=torch.float64))
    gone = ends[0] - ends[1]

    def score(x: Tensor, t: Tensor) -> Tensor:
        u = (ends[0] - ratio(sde, t)) / gone
        return -c * u**5 * (x / sde.alpha(t)) / sde.sigma(t)

    errors = []
    for steps in (100, 200, 400):
        times = sde.time(2 * torch.lerp(ends[0], ends[1], torch.linspace(0, 1, steps + 1, dtype=torch.float64)).log())
        expected = sde.alpha(times[-1]) * x / sde.alpha(times[0]) * torch.exp(-c * gone / 6)
        errors.append(float((papers.ipndm(order, sde, score, x, times) - expected).norm()))
    assert statistics.mean(slopes(errors)) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_corrected_reab_has_its_order(papers: ModuleType, grids: ModuleType, order: int) -> None:
    """The flow is dy = c u^5 y d theta, with y = x-hat / sqrt(1 + sigma-hat^2) and theta = arctan(sigma-hat).

    Along the range of theta, which has the length R, u grows from 0 to 1. The flow multiplies y by exp(-c R / 6).
    """
    sde, c = VP(beta_max=2.0), torch.tensor([4.0, 1.0], dtype=torch.float64)
    x = torch.tensor([[1.0, -0.7]], dtype=torch.float64)
    ends = ratio(sde, torch.tensor([sde.T, sde.eps], dtype=torch.float64)).arctan()
    gone = ends[0] - ends[1]

    def spread(t: Tensor) -> Tensor:
        return (sde.alpha(t) ** 2 + sde.sigma(t) ** 2).sqrt()

    def score(x: Tensor, t: Tensor) -> Tensor:
        y, level = x / spread(t), ratio(sde, t)
        f = c * ((ends[0] - level.arctan()) / gone) ** 5 * y
        return -(f + level * y) / (1 + level**2).sqrt() / sde.sigma(t)

    errors = []
    for steps in (200, 400, 800):
        times = grids.karras(sde, steps)
        expected = spread(times[-1]) * x / spread(times[0]) * torch.exp(-c * gone / 6)
        errors.append(float((papers.reab(order, sde, score, x, times) - expected).norm()))
    assert statistics.mean(slopes(errors)) == pytest.approx(order, abs=0.15)


def gaussian_errors(
    sampler: Callable[[LinearSDE, Score, Tensor, Tensor], Tensor],
    grid: Callable[[LinearSDE, int], Tensor],
    counts: tuple[int, ...],
) -> list[float]:
    """Returns the errors of a sampler on anisotropic Gaussian data, where the flow scales each coordinate.

    Args:
        sampler: function ``(sde, score, x, times) -> ends``.
        grid: function ``(sde, steps) -> times``.
        counts: numbers of steps.
    """
    sde, variances = VP(), torch.tensor([0.09, 2.0], dtype=torch.float64)
    x = torch.tensor([[1.0, -1.0]], dtype=torch.float64)

    def variance(t: Tensor) -> Tensor:
        return sde.alpha(t) ** 2 * variances + sde.sigma(t) ** 2

    errors = []
    for steps in counts:
        times = grid(sde, steps)
        expected = x * (variance(times[-1]) / variance(times[0])).sqrt()
        errors.append(float((sampler(sde, lambda x, t: -x / variance(t), x, times) - expected).norm()))
    return errors


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ipndm_has_order_two_on_its_authors_grid(papers: ModuleType, grids: ModuleType, order: int) -> None:
    errors = gaussian_errors(partial(papers.ipndm, order), grids.karras, (80, 160, 320))
    assert all(1.85 < slope < 2.15 for slope in slopes(errors))


def test_azulas_reab_falls_to_first_order(grids: ModuleType) -> None:
    """azula's REAB of order 3 converges at order 1.

    If azula corrects this sampler and the test fails, remove our corrected version.
    """
    pytest.importorskip("azula")
    from arena import azula

    (sampler,) = (c for c in azula.contestants("ode") if (c.name, c.setting) == ("azula REAB 3", "log-SNR"))
    errors = gaussian_errors(
        lambda sde, score, x, times: sampler.run(sde, score, x, len(times) - 1, 0), grids.log_snr, (40, 80, 160)
    )
    assert all(0.85 < slope < 1.15 for slope in slopes(errors))
