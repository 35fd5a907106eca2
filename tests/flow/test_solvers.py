"""ODE solvers agree with closed-form solutions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.tensors import expand
from sdegen.flow.solvers import DormandPrince, DormandPrinceSteps, Field, ODESolver, SciPyRK45, solve_flow
from sdegen.flow.stepping import Control, Rows
from sdegen.sde import VE, VP, LinearSDE, SubVP

SOLVERS = {"rk45": lambda tol: SciPyRK45(tol, tol), "dopri5": lambda tol: DormandPrince(tol, tol, 10_000)}
FREQUENCY = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
START = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)


def turned(t: float) -> Tensor:
    angle = FREQUENCY * (t + t**2 / 2)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_error_follows_the_tolerance(solver) -> None:  # noqa: ANN001
    errors = []
    for tolerance in (1e-4, 1e-6, 1e-8):
        x = torch.cat([_solve(solver(tolerance), i) for i in range(3)])
        errors.append(float((x - turned(2.0)).abs().max()))
    assert errors[0] < 3e-2
    assert errors[1] < errors[0] / 20
    assert errors[2] < errors[1] / 20


def _solve(solver: ODESolver, row: int) -> Tensor:
    def field(x: Tensor, t: Tensor) -> Tensor:
        return (1 + t).reshape(-1, 1) * FREQUENCY[row] * torch.stack([-x[:, 1], x[:, 0]], dim=1)

    return solver.solve(field, START[row : row + 1], 0.0, 2.0, torch.zeros(0)).x


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_there_and_back_returns(solver) -> None:  # noqa: ANN001
    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(x) * (1 + t.reshape(-1, 1))

    start = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    there = solver(1e-9).solve(field, start, 0.0, 1.5, torch.zeros(0)).x
    back = solver(1e-9).solve(field, there, 1.5, 0.0, torch.zeros(0)).x
    torch.testing.assert_close(back, start, atol=1e-6, rtol=0)
    assert float((there - start).abs().max()) > 0.5


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_path_passes_through_the_asked_times(solver) -> None:  # noqa: ANN001
    times = torch.linspace(2, 0.5, 7, dtype=torch.float64)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return -x * t.reshape(-1, 1)

    start = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    solution = solver(1e-8).solve(field, start, 2.0, 0.5, times)
    exact = start * torch.exp((4 - times**2) / 2)[:, None, None]
    torch.testing.assert_close(solution.path, exact, rtol=1e-4, atol=0)
    torch.testing.assert_close(solution.path[-1], solution.x)
    assert torch.equal(solution.path[0], start)


def test_dopri5_gives_every_sample_its_own_steps() -> None:
    """A row has the same result and the same cost beside faster and slower rows as it has alone."""
    asked: dict[float, int] = {}

    def field(x: Tensor, t: Tensor) -> Tensor:
        for speed in x[:, 2].tolist():
            asked[speed] = asked.get(speed, 0) + 1
        return torch.stack([-x[:, 2] * x[:, 1], x[:, 2] * x[:, 0], torch.zeros(len(x), dtype=x.dtype)], dim=1)

    start = torch.cat([START, FREQUENCY[:, None]], dim=1)
    solver = DormandPrince(1e-6, 1e-6, 10_000)
    together = solver.solve(field, start, 0.0, 2.0, torch.zeros(0)).x
    counts = dict(asked)
    asked.clear()
    alone = torch.cat([solver.solve(field, start[i : i + 1], 0.0, 2.0, torch.zeros(0)).x for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    assert counts == asked
    assert counts[20.0] > 4 * counts[1.0]


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_field_gets_the_indices_of_the_rows_under_way(solver) -> None:  # noqa: ANN001
    """The solution is x exp(rate · t).

    The rate depends on the index of the row, and rows with small rates finish first.
    """
    rates = torch.tensor([0.1, -40.0, 0.5, 7.0, -1.0, 0.0], dtype=torch.float64)

    def field(x: Tensor, t: Tensor, row: Tensor) -> Tensor:
        assert not row.is_floating_point()  # In float32 there are no odd numbers above 2^24.
        return rates[row, None] * x

    x = torch.linspace(1, 2, 6, dtype=torch.float64)[:, None]
    end = solver(1e-9).integrate(field, x, 0.0, 1.0, torch.zeros(0)).x
    torch.testing.assert_close(end, x * rates.exp()[:, None], rtol=1e-6, atol=1e-6)


def test_parts_of_a_state_meet_the_tolerance_each_by_itself() -> None:
    """A fast entry that is a separate part has the same cost and error beside a hundred constant entries as alone."""

    def field(x: Tensor, t: Tensor, row: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return torch.cat([torch.zeros_like(x[:, 1:]), (20 * t).cos().reshape(-1, 1)], dim=1)

    ends, costs = [], []
    for width, parts in ((1, ()), (101, (100, 1)), (101, ())):
        asked, x = 0, torch.zeros(1, width, dtype=torch.float64)
        ends.append(
            float(DormandPrince(1e-6, 1e-6, 10_000).integrate(field, x, 0.0, 2.0, torch.zeros(0), parts).x[0, -1])
        )
        costs.append(asked)
    assert costs[0] == costs[1] > costs[2]
    assert ends[0] == pytest.approx(ends[1], rel=1e-12)
    assert ends[0] == pytest.approx(math.sin(40) / 20, abs=1e-5)


def test_path_does_not_change_the_end() -> None:
    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.sin(3 * x) * (1 + t.reshape(-1, 1))

    for solver in (SciPyRK45(1e-6, 1e-6), DormandPrince(1e-6, 1e-6, 10_000)):
        without = solver.solve(field, START, 0.0, 2.0, torch.zeros(0)).x
        with_path = solver.solve(field, START, 0.0, 2.0, torch.linspace(0, 2, 9)).x
        torch.testing.assert_close(with_path, without, rtol=0, atol=1e-12)


def test_dopri5_is_of_fifth_order() -> None:
    """The error of one step falls as the sixth power of the step size."""
    scheme = DormandPrinceSteps(
        lambda x, t, row: x * t.cos().reshape(-1, 1), Control("one step", 1.0, 1.0, 1, 1.0, power=0.2, shrink=0.2)
    )
    x, errors = torch.ones(1, 1, dtype=torch.float64), []
    for h in (0.4, 0.2, 0.1):
        end = scheme.attempt(Rows.start(scheme, x, 0.0, 1.0, h)).x
        errors.append(abs(float(end) - math.exp(math.sin(h))))
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert min(orders) > 5.8


def normal_flow(sde: LinearSDE, std: float) -> tuple[Field, Callable[[float], float]]:
    """Returns the flow for data N(0, std²), and the standard deviation of x(t) as a function of t."""

    def deviation(t: float) -> float:
        at = torch.tensor(t, dtype=torch.float64)
        return math.hypot(float(sde.alpha(at)) * std, float(sde.sigma(at)))

    def score(x: Tensor, t: Tensor) -> Tensor:
        return -x / expand(sde.alpha(t) ** 2 * std**2 + sde.sigma(t) ** 2, x)

    return sde.reverse(score, eta=0).drift, deviation


@pytest.mark.parametrize("sde", [VP(), SubVP(), VE()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
def test_flow_ends_where_it_should_within_a_few_tolerances(sde: LinearSDE, std: float) -> None:
    """None of two thousand points has a large error: the first steps stay short, although the state hardly changes."""
    field, deviation = normal_flow(sde, std)
    x = deviation(sde.T) * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.tensor([sde.T, 0.5, 0.1, sde.eps], dtype=torch.float64)
    for tolerance in (1e-4, 1e-6):
        solver = DormandPrince(tolerance, tolerance, 10_000)
        found = solve_flow(solver, sde, field, x, sde.T, sde.eps, times)
        exact = torch.stack([x * deviation(float(t)) / deviation(sde.T) for t in times])
        assert torch.equal(found.path[0], x)
        assert torch.equal(found.path[-1], found.x)
        assert float(((found.x - exact[-1]).abs() / (1 + exact[-1].abs())).max()) < 30 * tolerance
        torch.testing.assert_close(found.path, exact, rtol=1e-2, atol=1e-2)
        back = solve_flow(solver, sde, field, found.x, sde.eps, sde.T, torch.zeros(0)).x
        assert float(((back - x).abs() / (1 + x.abs())).max()) < 100 * tolerance * deviation(sde.T) / deviation(sde.eps)


def test_flow_costs_less_in_the_clock_of_the_noise() -> None:
    """For data with fine structure, steps in the noise-to-signal ratio save evaluations without a larger error."""
    sde = VP()
    field, deviation = normal_flow(sde, 0.01)
    x = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact, solver = x * deviation(sde.eps) / deviation(sde.T), DormandPrince(1e-6, 1e-6, 10_000)
    counts, errors = [], []
    for solve in (solver.solve, functools.partial(solve_flow, solver, sde)):
        asked: list[int] = []

        def counted(x: Tensor, t: Tensor, asked: list[int] = asked) -> Tensor:
            asked.append(len(x))
            return field(x, t)

        errors.append(float((solve(counted, x, sde.T, sde.eps, torch.zeros(0)).x - exact).abs().max()))
        counts.append(sum(asked))
    assert counts[1] < 0.8 * counts[0]
    assert errors[1] < 2 * errors[0]


def test_dopri5_costs_six_evaluations_a_step_and_few_steps() -> None:
    """The last stage is reused, so n steps cost 1 + 6 n evaluations. SciPy needs at least 80 % of this number."""
    asked, scipys = 0, 0

    def field(x: Tensor, t: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return torch.stack([-20 * x[:, 1], 20 * x[:, 0]], dim=1)

    DormandPrince(1e-6, 1e-6, 10_000).solve(field, START[:1], 0.0, 2.0, torch.zeros(0))
    ours, asked = asked, 0
    SciPyRK45(1e-6, 1e-6).solve(field, START[:1], 0.0, 2.0, torch.zeros(0))
    scipys = asked
    assert ours % 6 == 1
    assert ours < 1.25 * scipys


def test_dopri5_error_is_a_mean_over_coordinates() -> None:
    """A hundred copies of a coordinate have the same cost as one."""
    counts = []
    for copies in (1, 100):
        asked = 0

        def field(x: Tensor, t: Tensor) -> Tensor:
            nonlocal asked
            asked += 1
            return (5 * t).cos().reshape(-1, 1) * x * 5

        DormandPrince(1e-6, 1e-6, 10_000).solve(field, torch.ones(1, copies).double(), 0.0, 2.0, torch.zeros(0))
        counts.append(asked)
    assert counts[0] == counts[1]


def test_dopri5_steps_back_from_where_the_field_is_no_number() -> None:
    """A first step whose stages reach a NaN of the field is repeated with a smaller step size."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(x > 1.5, torch.nan, 1.0 - x)

    end = DormandPrince(1e-6, 1e-6, 10_000).solve(field, torch.zeros(1, 1).double(), 0.0, 5000.0, torch.zeros(0)).x
    assert float(end) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_what_cannot_be_solved_is_told(solver) -> None:  # noqa: ANN001
    def explode(x: Tensor, t: Tensor) -> Tensor:
        return x**2

    with pytest.raises(UserError, match=r"(?i)(dopri5 cannot reach|RK45 stopped)"):
        solver(1e-6).solve(explode, torch.ones(2, 1, dtype=torch.float64), 0.0, 2.0, torch.zeros(0))


def late(x: Tensor, t: Tensor) -> Tensor:
    """Returns speed · cos(speed · t), or NaN at t > 1 if the speed is 1. The second entry of a row is its speed."""
    speed = x[:, 1]
    slope = torch.where((speed == 1) & (t > 1), torch.nan, speed * (speed * t).cos())
    return torch.stack([slope, torch.zeros_like(slope)], dim=1)


def test_dopri5_counts_the_rows_that_are_stuck_and_says_where() -> None:
    """One of ten rows gets stuck at t = 1, where its field becomes NaN, while the other rows go on."""
    x = torch.tensor([[0.0, 2000.0]] * 10, dtype=torch.float64)
    x[3, 1] = 1
    words = r"^dopri5 cannot reach rtol=1e-06, atol=1e-06: 1 of 10 samples found no step within the tolerance, "
    with pytest.raises(UserError, match=words + "the first at t=1: try a larger rtol"):
        DormandPrince(1e-6, 1e-6, 10_000).solve(late, x, 0.0, 2.0, torch.zeros(0))


def test_dopri5_counts_the_rows_that_are_not_finished_and_says_where() -> None:
    """Two of ten rows need more steps. The other rows are constant and have arrived."""
    x = torch.zeros(10, 2, dtype=torch.float64)
    x[[4, 7], 1] = 2000.0
    words = (
        r"^dopri5 cannot reach rtol=1e-06, atol=1e-06 within max_steps=20: 2 of 10 samples did not finish, the first "
    )
    with pytest.raises(UserError, match=words + r"at t=0\.0\d+: try more max_steps"):
        DormandPrince(1e-6, 1e-6, 20).solve(late, x, 0.0, 2.0, torch.zeros(0))


def test_flow_that_is_not_finished_stands_at_a_time_of_the_sde() -> None:
    """The message gives t, which is near T = 1, and not the log noise-to-signal ratio, which is 10."""
    field, _ = normal_flow(VP(), 1.0)
    with pytest.raises(UserError, match=r"2 of 2 samples did not finish, the first at t=0\.[89]\d*:"):
        solve_flow(DormandPrince(1e-6, 1e-6, 2), VP(), field, torch.ones(2, 1).double(), 1.0, 1e-5, torch.zeros(0))


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_tolerance_zero_is_refused(solver) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="rtol=0 must be at least 1e-13"):
        solver(0.0)
    with pytest.raises(ValueError, match="rtol=1e-20 must be at least 1e-13"):
        solver(1e-20)


def test_a_field_that_is_not_finite_is_told_and_not_tried_for_ever() -> None:
    with pytest.raises(UserError, match=r"^RK45 stopped: dx/dt is not finite at t=0: try"):
        SciPyRK45(1e-5, 1e-5).solve(lambda x, t: x * math.nan, torch.ones(2, 1), 0.0, 1.0, torch.zeros(0))
