"""Gaussian paths have the published schedules, end where the score still shows the data, and follow tables."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from sdegen.metrics.verification import verify
from sdegen.samplers import Adams, StepSampler
from sdegen.sde import EDM, VE, VP, Cosine, GaussianMixture, GaussianPath, Linear, LinearSDE, Marginals, Table
from sdegen.sde.base import derivative
from sdegen.sde.table import Monotone

PATHS = {
    "linear": Linear(),
    "linear shifted": Linear(shift=3.0),
    "cosine": Cosine(),
    "trigonometric": Cosine(offset=0.0),
    "cosine shifted": Cosine(shift=4.0),
    "edm": EDM(80.0),
}


class Bare(GaussianPath):
    """Path that is given only by the α and σ of another path."""

    def __init__(self, known: LinearSDE) -> None:
        self.known = known
        super().__init__()

    def alpha(self, t: Tensor) -> Tensor:
        return self.known.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.known.sigma(t)


@pytest.fixture(params=PATHS.values(), ids=PATHS.keys())
def path(request: pytest.FixtureRequest) -> GaussianPath:
    return request.param


def between(path: LinearSDE, n: int = 60) -> Tensor:
    """Returns times from eps to T, dense at both ends."""
    near = torch.logspace(-5, -1, n, dtype=torch.float64)
    return torch.cat([near, 1 - near.flip(0), torch.tensor([path.eps, path.T])]).clamp(path.eps, path.T)


def test_closed_forms_are_the_derivatives_and_the_inverse_of_the_path(path: GaussianPath) -> None:
    bare, t = Bare(path), between(path)
    for name in ("rate", "diffusion"):
        torch.testing.assert_close(getattr(path, name)(t), getattr(bare, name)(t), rtol=1e-8, atol=1e-12)
    u = path.log_nsr(t)
    torch.testing.assert_close(path.time(u), t, rtol=1e-9, atol=0)
    torch.testing.assert_close(bare.time(u), t, rtol=1e-9, atol=0)
    assert (bare.eps, bare.T) == pytest.approx((path.eps, path.T), rel=1e-9)


def test_ends_are_where_float32_keeps_noise_and_data(path: GaussianPath) -> None:
    """Both ends have a ratio of 1e-3, unless α does not vanish. No function loses digits to cancellation there."""
    t = between(path)
    ratio = path.sigma(t) / path.alpha(t)
    assert float(ratio.min()) == pytest.approx(1e-3, rel=1e-6)
    assert float(ratio.max()) == pytest.approx(80 if isinstance(path, EDM) else 1e3, rel=1e-4)
    single = t.float()
    for name in ("alpha", "sigma", "diffusion", "rate"):
        found, exact = getattr(path, name)(single), getattr(path, name)(single.double())
        torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-30)
    assert float(single.max()) <= path.T
    u = path.log_nsr(t)
    # The time itself has the rounding error of float32, and so has 1 - t.
    torch.testing.assert_close(path.time(u.float()).double(), t, rtol=3e-6, atol=0)


def test_cosine_is_the_published_schedule() -> None:
    """Nichol & Dhariwal (2021), eq. 17, with ᾱ = α²."""
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    cumulative = (torch.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    torch.testing.assert_close(Cosine().alpha(t) ** 2, cumulative)
    torch.testing.assert_close(Cosine().sigma(t) ** 2, 1 - cumulative)
    torch.testing.assert_close(Cosine(offset=0).sigma(t), torch.sin(math.pi / 2 * t))


def test_shift_is_the_published_one() -> None:
    """SD3 moves the time of a straight path to k t / (1 + (k - 1) t). Simple diffusion adds -2 log k to the log-SNR."""
    t, k = torch.linspace(0.01, 0.99, 50, dtype=torch.float64), 3.0
    moved = k * t / (1 + (k - 1) * t)
    torch.testing.assert_close(Linear(shift=k).alpha(t), 1 - moved)
    torch.testing.assert_close(Linear(shift=k).sigma(t), moved)
    snr = (1 / torch.tan(math.pi / 2 * t) ** 2).log() - 2 * math.log(k)
    torch.testing.assert_close(Cosine(offset=0, shift=k).alpha(t) ** 2, torch.sigmoid(snr))
    torch.testing.assert_close(Cosine(offset=0, shift=k).sigma(t) ** 2, torch.sigmoid(-snr))


def test_prior_is_the_last_marginal_of_gaussian_data() -> None:
    for path in (Linear(spread=3.0), EDM(5.0, spread=3.0)):
        t = torch.tensor(path.T, dtype=torch.float64)
        assert path.prior_std**2 == pytest.approx(float(path.sigma(t) ** 2 + 9 * path.alpha(t) ** 2), rel=1e-12)
    x = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    assert Linear.measure(x, {})["spread"] == pytest.approx(math.sqrt(14 / 4), rel=5e-3)


def test_a_long_path_ends_only_if_alpha_vanishes() -> None:
    assert EDM(5000.0).T == 1
    assert Bare(VP(beta_max=20.0)).T == 1
    assert Bare(VP(beta_max=60.0)).T < 1


# Tables


def written(folder: Path, rows: object, header: str = "t,alpha,sigma") -> str:
    np.savetxt(folder / "schedule.csv", rows, delimiter=",", header=header, comments="", fmt="%.15g")
    return str(folder / "schedule.csv")


def rows_of(path: LinearSDE, t: Tensor) -> list[list[float]]:
    return torch.stack([t, path.alpha(t), path.sigma(t)], 1).tolist()


def test_interpolant_is_scipys_between_the_ends() -> None:
    x = torch.tensor([0.0, 1.0, 1.5, 4.0, 5.0, 7.0], dtype=torch.float64)
    y = torch.tensor([0.0, 0.1, 3.0, 3.2, 2.0, 1.0], dtype=torch.float64)
    v = torch.linspace(1.0, 5.0, 101, dtype=torch.float64)
    expected = torch.from_numpy(PchipInterpolator(x.numpy(), y.numpy())(v.numpy()))
    torch.testing.assert_close(Monotone(x, y)(v)[0], expected)


@pytest.mark.parametrize("known", [Linear(), Cosine(offset=0), EDM(20.0), VP()], ids=lambda sde: type(sde).__name__)
def test_table_of_a_path_is_the_path(known: LinearSDE, tmp_path: Path) -> None:
    """With 200 rows, a table has the kernel, the SDE and the ends of the path from which it was written."""
    start = torch.tensor([0.0, *torch.logspace(-5, -2.4, 30).tolist()], dtype=torch.float64)
    whole = rows_of(known, torch.cat([start, torch.linspace(0.005, 1, 200, dtype=torch.float64)]))
    whole[-1][1] = 0.0 if abs(whole[-1][1]) < 1e-9 else whole[-1][1]
    table = Table(written(tmp_path, whole))
    t = torch.linspace(2 * table.eps, table.T, 300, dtype=torch.float64)
    assert table.T == pytest.approx(known.T, rel=1e-5)
    torch.testing.assert_close(table.alpha(t), known.alpha(t), rtol=5e-3, atol=0)
    torch.testing.assert_close(table.sigma(t), known.sigma(t), rtol=5e-3, atol=0)
    torch.testing.assert_close(table.diffusion(t), known.diffusion(t), rtol=0.1, atol=0)
    torch.testing.assert_close(table.time(table.log_nsr(t)), t, rtol=1e-9, atol=0)
    torch.testing.assert_close(table.rate(t), derivative(lambda t: table.alpha(t).log(), t), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(table.diffusion(t), Bare(table).diffusion(t), rtol=1e-7, atol=0)
    single = t.float()
    torch.testing.assert_close(table.alpha(single).double(), table.alpha(single.double()), rtol=2e-5, atol=0)
    torch.testing.assert_close(table.sigma(single).double(), table.sigma(single.double()), rtol=2e-5, atol=0)


def test_ratio_of_a_table_increases_between_any_rows(tmp_path: Path) -> None:
    """Uneven rows, with jumps in the ratio over many orders of magnitude."""
    source = torch.Generator().manual_seed(0)
    t = torch.rand(12, generator=source, dtype=torch.float64).sort().values
    ratio = (3 * torch.randn(12, generator=source, dtype=torch.float64).sort().values).exp()
    size = 1 + torch.rand(12, generator=source, dtype=torch.float64)
    rows = torch.stack([t, size / ratio, size], 1)
    table = Table(None, tuple(map(tuple, rows.tolist())))
    fine = torch.linspace(float(t[0]), table.T, 20_001, dtype=torch.float64)
    assert bool((table.log_nsr(fine).diff() > 0).all())
    torch.testing.assert_close(table.alpha(t), rows[:, 1], rtol=1e-12, atol=0)
    torch.testing.assert_close(table.sigma(t), rows[:, 2], rtol=1e-12, atol=0)
    assert table.eps == float(t[0])


def test_all_claims_hold_for_a_table(tmp_path: Path) -> None:
    table = Table(written(tmp_path, rows_of(Cosine(), torch.linspace(0.0, 0.99, 40, dtype=torch.float64))))
    with torch.no_grad():
        found = verify(table, StepSampler(Adams(), steps=30, grid="logistic"))
    assert not any(proof.holds is False for proof in found), found


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[0.1, 1, 0.1], [0.2, 0.9, 0.05], [1, 0, 1]], "row 2: sigma/alpha=0.0555556 must be above 0.1"),
        ([[0.1, 1, 0.1], [0.1, 0.9, 0.5]], "row 2: t=0.1 must be above 0.1"),
        ([[0.1, 1, 0.1], [2, 0.9, 0.5]], "row 2: t=2 must lie between 0 and 1"),
        ([[0, 0.9, 0.1], [1, 0.5, 0.5]], "row 1: alpha=0.9 and sigma=0.1 must be 1 and 0 at t = 0"),
        ([[0.1, 0, 1], [1, 0.5, 0.5]], "row 1: alpha=0 must be above 0, except in the last row"),
        ([[0.1, 1, 0.1], [0.5, -0.1, 1]], "row 2: alpha=-0.1 must be above 0"),
        ([[0.1, 1, 0], [1, 0.5, 0.5]], "row 1: sigma=0 must be above 0, except at t = 0"),
        ([[0.1, 1, 0.1], [0.5, math.nan, 1]], "row 2: has a number that is not finite"),
        ([[0, 1, 0], [0.5, 0.5, 1]], "has 2 rows: give at least two with alpha and sigma above 0"),
    ],
)
def test_wrong_tables_are_refused_with_the_row(rows: list, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Table(written(tmp_path, rows))
    assert str(caught.value).startswith(f"path={tmp_path / 'schedule.csv'}: ")
    assert "\n" not in str(caught.value)


def test_files_without_a_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no column alpha: the first line must be t,alpha,sigma"):
        Table(written(tmp_path, [[0.1, 1, 0.1]], "t,beta,sigma"))
    with pytest.raises(ValueError, match="cannot be read"):
        Table(str(tmp_path / "absent.csv"))
    with pytest.raises(ValueError, match="row 1: 0.1, one, 0.1: write three numbers"):
        (tmp_path / "x.csv").write_text("t,alpha,sigma\n0.1,one,0.1\n")
        Table(str(tmp_path / "x.csv"))
    with pytest.raises(ValueError, match="spread=auto is computed from data"):
        Linear(spread="auto")


def test_gap_bounds_the_divergence_of_the_prior_from_the_last_marginal() -> None:
    """The divergence is an integral with the exact p_T of a mixture. The bound is tight for data in a single point."""
    law = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.3]))
    point = GaussianMixture(torch.ones(1), torch.tensor([[1.5]]), torch.tensor([1e-12]))
    x = torch.linspace(-60, 60, 400_001, dtype=torch.float64)[:, None]
    for path in (VP(beta_max=5.0), VE(sigma_max=4.0), EDM(4.0), Linear(spread=2.0)):
        t = torch.tensor(path.T, dtype=torch.float64)
        for data in (law, point):
            log_p = Marginals(data, path).log_prob(x, t)
            exact = float(torch.trapezoid(log_p.exp() * (log_p - path.log_prior(x)), x.flatten()))
            square = float((data.weights * (data.means.square().sum(1) + data.covariances)).sum())
            bound = path.prior_gap(square, 1)
            assert exact <= bound + 1e-10
            if data is point:
                assert bound == pytest.approx(exact, rel=1e-4, abs=1e-10)
