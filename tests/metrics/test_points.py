"""Metrics of points agree with closed forms, SciPy and known answers."""

from __future__ import annotations

import math
from statistics import median

import pytest
import torch
from scipy.stats import wasserstein_distance

from sdegen import metrics
from sdegen.datasets import Dataset, Description, Mixture, Smile
from sdegen.metrics import points
from sdegen.metrics.floors import Floors
from sdegen.sde import VP, LinearSDE
from sdegen.sde.mixture import Marginals


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_w1_is_the_shift_and_ks_the_gap() -> None:
    x = normal(1000, 1)
    assert metrics.w1(x.T, x.T) == 0
    assert metrics.w1(x.flatten(), x.flatten() + 0.7) == pytest.approx(0.7)
    assert metrics.w1(torch.tensor([0.0, 1.0]), torch.tensor([5.0])) == pytest.approx(4.5)
    assert metrics.ks(x, x) == 0
    assert metrics.ks(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[2.5], [2.6]])) == pytest.approx(0.75)


@pytest.mark.parametrize("sizes", [(1, 7), (40, 60), (100, 1000), (83, 97)])
def test_w1_of_sets_of_any_sizes_is_that_of_scipy(sizes: tuple[int, int]) -> None:
    """The oracle uses distribution functions instead of quantiles. The rounded points have ties."""
    x, y = (normal(n, 4, seed=i).T * 3 for i, n in enumerate(sizes))
    for a, b in ((x, y), (x.round(), y.round()), (y, x)):
        expected = [wasserstein_distance(u.numpy(), v.numpy()) for u, v in zip(a, b, strict=True)]
        torch.testing.assert_close(metrics.w1(a, b), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_sliced_w1_of_a_shift_is_its_mean_projection() -> None:
    """The value is the length of the shift times the mean of |u·e| over unit vectors u, which is 2/π in the plane."""
    x = normal(500, 2)
    assert metrics.sliced_w1(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(5 * 2 / math.pi, rel=2e-3)
    y = normal(100, 10)
    mean = math.gamma(5) / (math.sqrt(math.pi) * math.gamma(5.5))
    assert metrics.sliced_w1(y, y + 1.0) == pytest.approx(math.sqrt(10) * mean, rel=0.25)


@pytest.mark.parametrize("d", [1, 2])
def test_energy_distance_is_its_definition(d: int) -> None:
    x, y = normal(150, d), normal(130, d, seed=1) + 0.5

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a[:, None] - b[None]).norm(dim=2).mean())

    expected = math.sqrt(2 * mean(x, y) - mean(x, x) - mean(y, y))
    assert metrics.energy(x, y) == pytest.approx(expected, rel=1e-6)
    assert metrics.energy(x, y, metrics.mean_distance(y, y)) == pytest.approx(expected, rel=1e-6)
    assert metrics.energy(x, x) == pytest.approx(0, abs=1e-6)
    # Times in seconds since 1970 and other numbers far from 0.
    assert metrics.energy(x + 1e9, y + 1e9) == pytest.approx(expected, rel=1e-5)


def test_measures_of_exact_draws_are_near_their_floor_and_of_wrong_ones_far() -> None:
    for dataset in (Mixture(0), Smile(0)):
        exact = dataset.draw(1000, torch.Generator().manual_seed(5))
        assert exact is not None
        good, bad = metrics.measure_points(dataset, exact), metrics.measure_points(dataset, 1.3 * exact + 0.2)
        for name, entry in good.items():
            # On average, 0.17 of 1000 exact points are off the support of the smile. The floor is the median, 0.
            assert 0 <= entry["value"] < 2.5 * entry["floor"] + 0.004, name
            assert entry["floor_from"] == "exact draws"
        assert sum(bad[name]["value"] > 3 * max(bad[name]["floor"], 0.003) for name in bad) >= 3


def test_units_of_a_coordinate_do_not_matter() -> None:
    dataset = Mixture(0, means=((0.0, 0.0), (3.0, 1.0)), variances=(1.0, 1.0))
    large = Mixture(0, means=((0.0, 0.0), (3.0, 1.0)), variances=(1.0, 1.0))
    factor = torch.tensor([1000.0, 0.01]).double()
    draw, x = large.draw, normal(500, 2)
    large.draw = lambda n, source: draw(n, source) * factor  # type: ignore[method-assign]
    large.modes = dataset.modes = lambda x: None  # type: ignore[method-assign]
    large.x = large.x * factor
    a, b = metrics.measure_points(dataset, x), metrics.measure_points(large, x * factor)
    for name in ("sliced_w1", "energy"):
        assert b[name]["value"] == pytest.approx(a[name]["value"], rel=1e-6)
        assert b[name]["train"] == pytest.approx(a[name]["train"], rel=1e-6)


def test_mode_weights_are_half_the_l1_distance_of_the_shares() -> None:
    dataset = Mixture(0)
    x = torch.cat([torch.full((90, 1), -3.0), torch.full((10, 1), 3.0)]).double()
    assert metrics.measure_points(dataset, x)["mode_weights"]["value"] == pytest.approx(0.4, abs=0.03)


def test_floor_and_training_value_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "FLOORS", 7)
    dataset, source = Mixture(0), points.generator
    reference = dataset.draw(points.REFERENCE, source("cpu", 0, "reference"))
    draws = [dataset.draw(123, source("cpu", 0, "floor", i)) for i in range(7)]
    entry = metrics.measure_points(dataset, dataset.x[:123] + 9)["w1"]
    values = sorted(float(metrics.w1(draw.T, reference.T)) for draw in draws)
    assert len(set(values)) == 7
    assert entry["floor"] == pytest.approx(values[3])
    assert entry["train"] == pytest.approx(metrics.w1(dataset.x.double().T, reference.T))
    assert entry["value"] == pytest.approx(metrics.w1(dataset.x[:123].double().T + 9, reference.T))


def test_split_has_the_sizes_of_the_sets(tmp_path) -> None:  # noqa: ANN001
    import numpy as np

    from sdegen.datasets import File

    np.save(tmp_path / "a.npy", np.arange(100.0))
    a, b = points._split(File(0, str(tmp_path / "a.npy")), 80, 0)
    assert (len(a), len(b)) == (80, 20)
    assert torch.equal(torch.cat([a, b]).flatten().sort().values, torch.arange(100.0).double())


def test_off_support_is_a_share() -> None:
    dataset = Smile(0)
    x = torch.cat([dataset.x, torch.zeros(100, 2).double()])
    assert metrics.measure_points(dataset, x)["off_support"]["value"] == pytest.approx(0.2)


def test_score_error_is_zero_for_the_oracle_and_relative(sde: LinearSDE) -> None:
    dataset = Mixture(0)
    assert dataset.law is not None
    exact = Marginals(dataset.encoded_law, sde)
    assert metrics.score_error(dataset, sde, exact) == pytest.approx(0, abs=1e-12)
    assert metrics.score_error(dataset, sde, lambda x, t: 1.25 * exact(x, t)) == pytest.approx(0.25)
    assert metrics.score_error(dataset, sde, lambda x, t: 0 * x) == pytest.approx(1)

    # If the score is off by 1/σ, every t adds one to the numerator, because the weight is σ².
    source = torch.Generator().manual_seed(3)
    t = torch.rand(50_000, generator=source, dtype=torch.float64)[:, None].clamp(min=sde.eps)
    z = torch.randn(50_000, 1, generator=source, dtype=torch.float64)
    x = sde.alpha(t) * dataset.units.encode(dataset.law.sample(50_000, source)) + sde.sigma(t) * z
    size = (sde.sigma(t) ** 2 * exact(x, t[:, 0]) ** 2).mean()
    off = metrics.score_error(dataset, sde, lambda x, t: exact(x, t) + 1 / sde.sigma(t)[:, None])
    assert off == pytest.approx(float(size) ** -0.5, rel=0.1)


def test_file_is_measured_against_its_held_out_part(tmp_path) -> None:  # noqa: ANN001
    import numpy as np

    from sdegen.datasets import File

    np.save(tmp_path / "a.npy", normal(1000, 3).numpy())
    dataset = File(0, str(tmp_path / "a.npy"))
    found = metrics.measure_points(dataset, normal(500, 3, seed=9))
    assert set(found) == {"sliced_w1", "energy", "column_w1"}
    for entry in found.values():
        assert entry["floor_from"] == "random parts of the data"
        assert 0 < entry["value"] < 2.5 * entry["floor"]
        assert 0 < entry["train"] < 2.5 * entry["floor"]
    assert metrics.score_error(dataset, VP(), lambda x, t: x) is None


def test_table_has_a_line_for_each_metric() -> None:
    entry = {"value": 0.123456, "floor": 0.1, "train": None}
    lines = metrics.table({"w1": entry, "energy": entry}).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["w1", "0.1235", "0.1"]
    assert len({len(line) for line in lines}) == 1
    # A column without values has no heading.
    assert lines[0].split() == ["samples", "floor"]
    heads = metrics.table({"w1": entry, "energy": {**entry, "train": 0.2}}).splitlines()[0]
    assert heads.split() == ["samples", "floor", "training", "set"]


def test_the_column_that_is_farthest_off_is_named() -> None:
    x, names = normal(3000, 12), tuple(f"c{i}" for i in range(11)) + ("income",)
    dataset = Dataset(x[:1000], x[1000:2000], description=Description(names))
    shift = torch.zeros(12).double()
    shift[11], shift[3] = 2.0, -0.7
    entry = metrics.measure_points(dataset, dataset.held_out + shift)["column_w1"]  # type: ignore[operator]
    deviation = x[1000:2000].std(0, correction=0)
    assert entry["column"] == "income"
    assert entry["value"] == pytest.approx(2 / float(deviation[11]))
    assert list(entry["columns"])[:2] == ["income", "c3"] and len(entry["columns"]) == 8
    assert entry["columns"]["c3"]["value"] == pytest.approx(0.7 / float(deviation[3]))
    # The floor is that of the largest distance of twelve, not that of one column.
    assert entry["floor"] > 1.2 * entry["columns"]["income"]["floor"]
    assert "column_w1 (income)" in metrics.table({"column_w1": entry})
    unnamed = metrics.measure_points(Dataset(x[:1000], x[1000:2000]), x[2000:] + shift)["column_w1"]
    assert unnamed["column"] == "x12"
    assert "column_w1" not in metrics.measure_points(Dataset(x[:1000, :1], x[1000:2000, :1]), x[2000:, :1])


@pytest.mark.parametrize(("trained", "held_out", "drawn"), [(600, 150, 20), (400, 400, 2000), (200, 50, 200)])
def test_exact_draws_reach_the_floor_however_many_they_are(trained: int, held_out: int, drawn: int) -> None:
    """The distribution is not known, so the held-out part is the reference.

    The median over data sets reaches the floor.
    """

    ratios: dict[str, list[float]] = {}
    for seed in range(24):
        x = normal(trained + held_out + drawn, 2, seed) @ torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
        train, test, samples = x.split([trained, held_out, drawn])
        found = metrics.measure_points(Dataset(train, test), samples)
        for name in ("sliced_w1", "energy"):
            ratios.setdefault(name, []).append(found[name]["value"] / found[name]["floor"])
    assert {name: median(of) for name, of in ratios.items()} == {
        name: pytest.approx(1, abs=0.15) for name in ("sliced_w1", "energy")
    }


def test_the_largest_distance_of_the_columns_reaches_its_floor() -> None:
    ratios = []
    for seed in range(60):
        train, test, samples = normal(450, 5, seed).split([200, 50, 200])
        dataset = Dataset(train, test)
        entry = points._column_metrics(dataset, points._sets(dataset, samples, points.REFERENCE), Floors())["column_w1"]
        ratios.append(entry["value"] / entry["floor"])
    assert median(ratios) == pytest.approx(1, abs=0.1)
