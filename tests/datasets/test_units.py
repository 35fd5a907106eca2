"""Units: quantile maps, their slopes, outliers and ties, and the features that need affine units."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from sdegen.config import assembly, components
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.datasets import Affine, Dataset, Quantile, Units, restored
from sdegen.datasets.columns import carried_by_few, quantile_units, robust_units
from sdegen.flow import Exact
from sdegen.flow.likelihood import Flow
from sdegen.flow.solvers import DormandPrince
from sdegen.metrics.points import measure_points
from sdegen.runs import checkpoint, session
from sdegen.runs.checkpoint import Checkpoint
from sdegen.runs.guiding import planned
from sdegen.runs.run import Run, load
from sdegen.sde import VP
from sdegen.training.batches import Points
from sdegen.training.learning import Curve


def column(*values: object) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([np.atleast_1d(np.asarray(part, dtype=float)) for part in values]))[:, None]


def quantiles(law: object, n: int = 20_000) -> torch.Tensor:
    """Returns n equally probable quantiles of a SciPy distribution."""
    return column(law.ppf((np.arange(n) + 0.5) / n))  # type: ignore[attr-defined]


def source() -> np.random.Generator:
    return np.random.default_rng(0)


OUTLIERS = column(source().gamma(9, 1 / 3, 1995), np.full(5, 1e6))
"""Values around 3, and five rows with the value 10⁶."""

HARD = {
    "normal": column(source().normal(size=2000)),
    "large and small": column(source().normal(1e6, 1e-2, 2000)),
    "uniform": column(source().uniform(-1, 1, 30)),
    "wide lognormal": column(source().lognormal(10, 3, 2000)),
    "cauchy": column(source().standard_cauchy(20_000)),
    "outliers": OUTLIERS,
    "outliers on both sides": column(source().normal(3, 1, 1995), [-1e9, -1e5, -7e4, 1e6, 1e12]),
    "two values": column(np.arange(40) % 2 + source().uniform(0, 1e-3, 40)),
}


@pytest.mark.parametrize("x", HARD.values(), ids=HARD.keys())
def test_decoding_is_the_inverse_of_encoding_beyond_the_data_too(x: torch.Tensor) -> None:
    units = quantile_units(x, None, None)
    low, high = float(x.min()), float(x.max())
    beyond = torch.logspace(-9, 1, 50, dtype=torch.float64)[:, None] * (high - low)
    grid = torch.cat([torch.linspace(low, high, 5001, dtype=torch.float64)[:, None], x, high + beyond])
    grid = torch.cat([grid, low - beyond]) if low < 0 else torch.cat([grid, low * torch.exp(-10 * beyond / high)])
    torch.testing.assert_close(units.decode(units.encode(grid)), grid, rtol=1e-9, atol=0)
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
    spacing = np.spacing(max(abs(low), abs(high))) * float(units.slopes.max())
    torch.testing.assert_close(units.encode(units.decode(z)), z, rtol=0, atol=max(1e-9, 10 * spacing))
    assert bool((units.decode(z).diff(dim=0) >= 0).all() and (units.encode(grid.sort(0).values).diff(dim=0) >= 0).all())


@pytest.mark.parametrize("x", HARD.values(), ids=HARD.keys())
def test_encoded_columns_have_normal_scores(x: torch.Tensor) -> None:
    """Encoded values are normal scores within twice the distance of two knots.

    The smallest and the largest row are exact.
    """
    units = quantile_units(x, None, None)
    found = units.encode(x).flatten().numpy()
    scores = stats.norm.ppf((stats.rankdata(x.numpy().flatten()) - 0.5) / len(x))
    assert np.abs(found - scores).max() < 2 * np.ptp(scores) / min(1000, max(20, len(x) / 20))
    np.testing.assert_allclose(found[[x.argmin(), x.argmax()]], scores[[x.argmin(), x.argmax()]], rtol=1e-9)
    assert units.knots.shape[1] <= 1000


@pytest.mark.parametrize("name", ["normal", "wide lognormal", "cauchy", "uniform"])
def test_slopes_are_derivatives_and_have_no_jumps(name: str) -> None:
    units = quantile_units(HARD[name], None, None)
    x = units.decode(torch.linspace(-5, 5, 300, dtype=torch.float64)[:, None])
    h = 1e-6 * (x.abs() if units.logarithm[0] else torch.exp(-units.log_slope(x)))
    slope = (units.encode(x + h) - units.encode(x - h)) / (2 * h)
    torch.testing.assert_close(units.log_slope(x).exp(), slope, rtol=1e-4, atol=0)
    bend = (units.log_slope(x + h) - units.log_slope(x - h)) / (2 * h)
    torch.testing.assert_close(units.log_slope_gradient(x) * h, bend * h, rtol=1e-3, atol=1e-8)
    ends = units.decode(units.scores.T)
    near = 1e-12 * ends.abs()
    torch.testing.assert_close(units.log_slope(ends - near), units.log_slope(ends + near), rtol=0, atol=1e-3)


LAWS = {
    "exponential": (stats.expon(scale=2.0), lambda x: -0.5 * torch.ones_like(x)),
    "logistic": (stats.logistic(5.0, 2.0), lambda x: -torch.tanh((x - 5) / 4) / 2),
    "gumbel": (stats.gumbel_r(-1.0, 3.0), lambda x: (torch.exp(-(x + 1) / 3) - 1) / 3),
}


def normal_flow(units: Units) -> Flow:
    """Returns the flow of standard normal data under VP, for which x(t) is standard normal at every t."""
    return Flow(VP(), lambda x, t: -x, units, DormandPrince(1e-8, 1e-8, 10_000), dtype=torch.float64)


@pytest.mark.parametrize("name", LAWS)
def test_density_and_score_are_the_exact_ones_of_a_law_that_the_map_makes_normal(name: str) -> None:
    """A map through the exact quantiles of F is Φ⁻¹ ∘ F. The density is then F' and the score is F''/F'."""
    law, score = LAWS[name]
    units = quantile_units(quantiles(law), None, None)
    x = column(law.ppf(np.linspace(0.002, 0.998, 301)))
    log_p = normal_flow(units).log_prob(x, Exact()).log_p
    torch.testing.assert_close(log_p, torch.from_numpy(law.logpdf(x.numpy().flatten())), rtol=0, atol=2e-3)
    found = units.score(x, -units.encode(x))
    # In each piece of the map, the slope of the log-slope has a kink, so the score is right only on average.
    off = (found - score(x)) * float(law.std())
    assert float(off.mean().abs()) < 0.02 and float(off.square().mean().sqrt()) < 0.3


def test_density_and_score_of_a_lognormal_are_exact_wherever_they_are_asked() -> None:
    """The knots of a lognormal lie on a straight line as a function of log x, so the map is exact."""
    law, z = stats.lognorm(0.8, scale=np.exp(10)), torch.linspace(-3, 3, 20, dtype=torch.float64)[None]
    slopes = torch.full_like(z, 1 / 0.8)
    units = Quantile(10 + 0.8 * z, z, slopes, torch.tensor([True]))
    x = column(law.ppf(np.linspace(1e-9, 1 - 1e-9, 301)))
    log_p = normal_flow(units).log_prob(x, Exact()).log_p
    np.testing.assert_allclose(log_p, law.logpdf(x.numpy().flatten()), rtol=0, atol=1e-6)
    expected = -(1 + (x.log() - 10) / 0.64) / x
    torch.testing.assert_close(units.score(x, -units.encode(x)), expected, rtol=1e-9, atol=0)


def trained(folder: Path, *line: str) -> Run:
    """Trains a short run on ``x.npy`` in a folder, without figures, and loads the run."""
    options = ["dataset=file", f"dataset.path={folder / 'x.npy'}", "parametrization=karras", "network.hidden=[32]"]
    parts = assembly.build(composed("train", [*options, "trainer.threads=1", "sampler.steps=30", *line]))
    training, units = parts.training(), parts.dataset.units
    training.run(lambda *_: None, lambda: None, lambda: None)
    weights = training.averages[0].network.state_dict()
    content = (weights, weights, {}, units.state(), None, components.known_by(parts.config, parts.dataset))
    content += (
        None,
        None,
        parts.dataset.description.names(),
        {},
        None,
        math.inf,
        training.history(0),
        Curve(1).state(),
        0,
        {},
        {},
    )
    checkpoint.save(Checkpoint(parts.config, training.step, 1.0, *content), folder / "run" / "checkpoints")
    return load(folder / "run", precision="float64")


@pytest.fixture(scope="module")
def incomes(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trains a short run on two skewed columns, of which the first is positive."""
    folder = tmp_path_factory.mktemp("incomes")
    x = source().normal(size=(3000, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    np.save(folder / "x.npy", np.stack([np.exp(10 + x[:, 0]), np.sinh(x[:, 1])], axis=1))
    return trained(folder, "dataset.standardize=quantile", "trainer.steps=200")


def test_a_positive_column_comes_back_positive(incomes: Run) -> None:
    x = incomes.sample(20_000)
    assert bool((x[:, 0] > 0).all()) and bool((x[:, 1] < 0).any())
    assert 0.9 < float(x[:, 0].median()) / float(incomes.dataset.x[:, 0].median()) < 1.1
    assert incomes.log_prob(torch.tensor([[-1.0, 0.0], [0.0, 0.0]])).tolist() == [-torch.inf, -torch.inf]


def test_density_of_a_run_adds_up_to_one(incomes: Run) -> None:
    """The integral of p is the mean of p / q over draws from q. The tails of q are wider than the tails of p."""
    z = source().standard_t(5, (1000, 2))
    log_q = (stats.t(5).logpdf(z) - np.log(np.stack([np.exp(10 + z[:, 0]), np.cosh(z[:, 1])], axis=1))).sum(1)
    x = torch.from_numpy(np.stack([np.exp(10 + z[:, 0]), np.sinh(z[:, 1])], axis=1))
    ratio = np.exp(incomes.log_prob(x).numpy() - log_q)
    error = ratio.std() / len(z) ** 0.5
    assert error < 0.04 and abs(ratio.mean() - 1) < 3 * error


def test_score_of_a_run_is_the_gradient_of_its_density(incomes: Run) -> None:
    """With zero weights, ``karras`` gives the exact score of normal data, so the density and the score agree."""
    run = load(incomes.folder, precision="float64")
    with torch.no_grad():
        for weight in run.model.parameters():
            weight.zero_()
    x = run.units.decode(torch.from_numpy(source().normal(0, 1.5, (40, 2))))
    h = 1e-4 * torch.exp(-run.units.log_slope(x))
    flow, score = run.flow(rtol=1e-9, atol=1e-9), run.score(x, 0.3)
    for i in range(2):
        step = torch.nn.functional.one_hot(torch.tensor(i), 2) * h
        up, down = (flow.log_prob(x + sign * step, Exact()).log_p for sign in (1, -1))
        torch.testing.assert_close(score[:, i] * h[:, i], (up - down) / 2, rtol=1e-3, atol=1e-7)


def test_units_of_a_run_are_stored_and_latents_come_back(incomes: Run) -> None:
    state = incomes.units.state()
    assert incomes.units.equals(restored(state)) and incomes.units.equals(quantile_units(*parts(incomes.dataset), None))
    assert not incomes.units.equals(restored({**state, "slopes": 2 * state["slopes"]}))
    assert not incomes.units.equals(Affine(torch.zeros(2).double(), torch.ones(2).double()))
    x = incomes.dataset.x[:50]
    torch.testing.assert_close(incomes.decode(incomes.encode(x)), x, rtol=1e-3, atol=1e-3)


def parts(dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor | None]:
    return dataset.x, dataset.held_out


def linear(folder: Path, path: str | None = None) -> dict[str, Any]:
    """Returns the configuration of guidance=linear, and saves its matrix in a folder."""
    np.save(folder / "matrix.npy", np.ones((1, 2)))
    matrix = {"_target_": "sdegen.guidance.Linear", "path": str(folder / "matrix.npy")}
    method = {"_target_": "sdegen.guidance.Moments"}
    return {"_target_": "sdegen.guidance.Posterior", "measurement": matrix, "method": method, "path": path, "image": 0}


def test_measurements_and_exact_laws_are_refused_where_the_units_bend(incomes: Run, tmp_path: Path) -> None:
    node, words = (
        linear(tmp_path),
        "guidance=.*measurements must be linear, and dataset.standardize=quantile is not",
    )
    for use in (lambda: planned(incomes, node, None), lambda: planned(incomes, node, None, torch.zeros(1, 1))):
        with pytest.raises(UserError, match=words):
            use()
    with pytest.raises(UserError, match="not known in the network's units: .* dataset.standardize=true"):
        assembly.build(composed("train", ["network=oracle", "dataset.standardize=quantile"]))
    built = assembly.build(composed("train", ["dataset.standardize=quantile"]))
    assert built.dataset.law is not None and built.dataset.encoded_law is None


def test_a_measurement_in_the_units_of_columns_of_other_scales_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", source().normal(0, (1, 30), (50, 2)))
    np.save(tmp_path / "y.npy", np.zeros(1))
    run = trained(tmp_path, "trainer.steps=1")
    with pytest.raises(UserError, match="guidance.path=.*scaled differently .* dataset.standardize=false"):
        planned(run, linear(tmp_path, str(tmp_path / "y.npy")), None)


def test_robust_units_do_not_see_a_few_rows() -> None:
    units = robust_units(OUTLIERS)
    bulk = robust_units(OUTLIERS[:1995])
    assert float(units.scale) == pytest.approx(float(bulk.scale), rel=0.02)
    low, middle, high = np.quantile(OUTLIERS.numpy(), (0.05, 0.5, 0.95))
    np.testing.assert_allclose((units.shift, units.scale), ([middle], [(high - low) / (2 * stats.norm.ppf(0.95))]))
    few = robust_units(column(np.zeros(99), 7.0, np.zeros(100)))
    assert float(few.shift) == 0 and float(few.scale) == pytest.approx(np.std([7.0] + 199 * [0.0]))
    assert float(robust_units(column(np.ones(9))).scale) == 1


def test_robust_units_of_images_are_of_the_whole_and_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.from_numpy(source().integers(0, 200, (300, 1, 4, 4)).astype(np.uint8))
    units = robust_units(x)
    assert units.uniform and units.shape == (1, 4, 4) and float(units.shift.mean()) == float(np.median(x))
    monkeypatch.setattr("sdegen.datasets.columns.SAMPLE", 50 * 16)
    x[1::6] = 255
    torch.testing.assert_close(robust_units(x).shift, torch.full((1, 4, 4), float(np.median(x[::6]))).double())
    with pytest.raises(ValueError, match="standardize=quantile is for vectors, not for images"):
        Dataset(x, standardize="quantile")


ORDINARY: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda r, n: r.normal(size=n),
    "uniform": lambda r, n: r.uniform(size=n),
    "exponential": lambda r, n: r.exponential(size=n),
    "far mode of a tenth": lambda r, n: np.where(np.arange(n) % 10 > 0, 0, 50) + r.normal(size=n),
    "lognormal": lambda r, n: r.lognormal(0, 1, n),
    "student, 5 degrees": lambda r, n: r.standard_t(5, n),
    "a rare yes": lambda r, n: (np.arange(n) % 200 == 0).astype(float),
    "constant": lambda r, n: np.ones(n),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_columns_are_not_said_to_be_carried_by_a_few_rows(name: str) -> None:
    assert [carried_by_few(column(ORDINARY[name](source(), n))) for n in (20, 100, 1000, 10_000)] == 4 * [[]]


def test_rows_that_carry_the_scale_are_counted_and_weighed() -> None:
    other = column(source().normal(size=2000))
    (found,) = carried_by_few(torch.cat([other, OUTLIERS], dim=1))
    said = re.fullmatch(
        r"column 2: 5 of 2000 rows contribute (.*)% of the variance; .* deviation is (.*) times as large", found
    )
    # If five rows are 1 and the others are 0, the variance is w (1 - w) with w = 5 / 2000. The five rows
    # contribute w (1 - w)².
    assert said is not None and float(said[1]) == pytest.approx(100 * (1 - 5 / 2000), abs=0.06)
    assert float(said[2]) == pytest.approx(float(OUTLIERS[:1995].std() / OUTLIERS.std()), rel=0.05)
    for n in (20, 100, 1000):
        assert "column 1: 1 of" in carried_by_few(column(source().normal(size=n - 1), 1000.0))[0]
    assert "use dataset.standardize=quantile, or robust, which ignores these rows" in Dataset(OUTLIERS).concerns()[0]
    assert (
        "ignores these rows: use dataset.standardize=quantile" in Dataset(OUTLIERS, standardize="robust").concerns()[0]
    )
    assert [Dataset(OUTLIERS, standardize=choice).concerns() for choice in (False, "quantile")] == [[], []]


def test_tied_columns_are_refused_or_dequantised_by_their_step() -> None:
    counts = column(source().poisson(3, 2000)) * 0.25
    x = torch.cat([column(source().normal(size=2000)), counts], dim=1)
    with pytest.raises(ValueError, match=r"^standardize=quantile: column 2: 2\d\.\d% of the rows .* 5%: .*deq"):
        Dataset(x, x, standardize="quantile")
    dataset = Dataset(x, x, standardize="quantile", dequantize=True)
    assert dataset.cells is not None and dataset.cells.tolist() == [0, 0.25]
    points = Points(0, dataset, 200, dtype=torch.float64)
    seen = points.take(range(10), range(10), 200)[0].flatten(0, 1)
    for inner in seen.T:
        assert stats.kstest(inner.numpy(), "norm").pvalue > 0.01
    back = dataset.units.decode(seen)
    assert float((back[:, 0, None] - x[:, 0]).abs().amin(1).max()) < 1e-9
    torch.testing.assert_close(dataset.rounded(back[:2000]).sort(0).values, x.sort(0).values, rtol=0, atol=1e-9)
    for name, entry in measure_points(dataset, back[:500]).items():
        assert entry["value"] < 1.5 * entry["floor"], name
    off = (back[:, 1, None] / 0.25).round() * 0.25 - back[:, 1, None]
    assert stats.kstest((off / 0.25 + 0.5).flatten().numpy(), "uniform").pvalue > 0.01
    torch.testing.assert_close(((back[:, 1] / 0.25).round() * 0.25).mean(), counts.mean(), rtol=1e-3, atol=0)


def test_columns_without_quantiles_or_a_step_are_refused() -> None:
    zeros = column(np.zeros(200), source().normal(size=1800))
    with pytest.raises(ValueError, match="^dequantize=true: column 1: 10.0% of the rows are 0, .*=robust"):
        Dataset(zeros, standardize="quantile", dequantize=True)
    with pytest.raises(ValueError, match="standardize=quantile: column 1 never changes: leave it out"):
        Dataset(torch.ones(9, 1), standardize="quantile")
    # One tied row in twenty is allowed, and so is a column of three points.
    assert Dataset(column(np.zeros(100), source().normal(size=1900)), standardize="quantile").units.shape == (1,)
    assert float(Dataset(column([1, 2, 4]), standardize="quantile").units.encode(column([2]))) == pytest.approx(
        0, abs=1e-9
    )


def test_one_value_of_the_held_out_points_decides_whether_logarithms_are_taken(tmp_path: Path) -> None:
    x = column(source().lognormal(size=500))
    assert bool(quantile_units(x, None, None).logarithm)
    assert not bool(quantile_units(x, column([0.0]), None).logarithm)
    # A point with density zero can be encoded, for figures and metrics.
    assert float(quantile_units(x, None, None).encode(column([-1.0]))) < -10


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("choice", ["robust", "quantile"])
def test_distances_see_that_the_bulk_is_lost(choice: str, split: int) -> None:
    """The samples lose the bulk of one of two columns. Sliced W1 of standardised points would not show it."""
    random = np.random.default_rng(split)
    order = random.permutation(2000)

    def beside(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, torch.from_numpy(random.normal(size=(len(x), 1)))], dim=1)

    dataset = Dataset(beside(OUTLIERS[order[:1600]]), beside(OUTLIERS[order[1600:]]), standardize=choice)
    lost = beside(torch.cat([column(random.normal(0, 200, 1995)), OUTLIERS[1995:]]))
    for name, entry in measure_points(dataset, lost).items():
        assert entry["value"] > 20 * entry["floor"], name
    for name, entry in measure_points(dataset, beside(column(random.gamma(9, 1 / 3, 1995), np.full(5, 1e6)))).items():
        assert entry["value"] < 1.5 * entry["floor"], name


def test_a_run_begins_by_saying_which_rows_carry_the_scale(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "x.npy", OUTLIERS.numpy())
    config = composed("train", ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}"])
    session.Session(config, tmp_path / "run", ()).writers[0].warn()
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "rows contribute 99" in said and "use dataset.standardize=quantile" in said
