"""Conditions in samples and densities: a linear-Gaussian model, whose posterior follows from textbook formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import figures
from sdegen.config.options import SAMPLE, check
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Affine
from sdegen.flow.divergence import by_probes
from sdegen.flow.likelihood import Flow
from sdegen.flow.solvers import DormandPrince
from sdegen.models import Raw, ScoreModel
from sdegen.networks import Network, Numbers
from sdegen.runs import gallery, results
from sdegen.runs.guiding import planned
from sdegen.runs.sampling import draw
from sdegen.samplers import AdaptiveSDE, Dopri5, EulerMaruyama, Sampler, StepSampler
from sdegen.sde import VP
from sdegen.sde.base import LinearSDE

MATRIX = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
NOISE = 0.4


def posterior(y: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean ``(B, 2)`` and the covariance of θ ~ N(0, I) given y = Aθ + noise, by normal equations."""
    precision = torch.eye(2, dtype=torch.float64) + MATRIX.T @ MATRIX / NOISE**2
    covariance = torch.linalg.inv(precision)
    return (covariance @ MATRIX.T @ y.double().reshape(-1, 2).T / NOISE**2).T, covariance


class Exact(Network):
    """Exact score of the posterior given y, and of the prior for hidden rows."""

    def __init__(self, sde: LinearSDE) -> None:
        super().__init__()
        self.sde, self.condition = sde, Numbers(2, 0.1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        alpha, sigma = self.sde.alpha(t).reshape(-1, 1), self.sde.sigma(t).reshape(-1, 1)
        if y is None:
            return -x / (alpha**2 + sigma**2)
        mean, covariance = posterior(y)
        blurred = alpha[:, :, None] ** 2 * covariance + sigma[:, :, None] ** 2 * torch.eye(2, dtype=torch.float64)
        return -torch.linalg.solve(blurred, (x.double() - alpha * mean).unsqueeze(2)).squeeze(2).to(x)


def model(sde: LinearSDE) -> ScoreModel:
    return ScoreModel(Exact(sde), Raw(), sde)


UNITS = Affine(torch.zeros(2).double(), torch.ones(2).double())
OBSERVED = torch.randn(70, 2, generator=generator("cpu", 0, "observed"), dtype=torch.float64) * 2


SAMPLERS = [StepSampler(EulerMaruyama(), steps=20), Dopri5(1e-3, 1e-3), AdaptiveSDE(0.1, 0.1)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_a_condition_of_each_sample_gives_the_same_sample_as_one_condition_for_all(sampler: Sampler) -> None:
    """Samplers whose rows finish at different times must keep each row with its condition."""
    sde = VP()
    together = draw(sde, model(sde), sampler, UNITS, 70, batch_size=40, dtype=torch.float64, told=OBSERVED).x
    for i in (0, 39, 41, 69):
        alone = draw(sde, model(sde), sampler, UNITS, 70, batch_size=40, dtype=torch.float64, told=OBSERVED[i]).x[i]
        torch.testing.assert_close(together[i], alone, rtol=1e-9, atol=1e-9)


def test_densities_given_conditions_are_those_of_the_posterior() -> None:
    # With this rate, almost nothing of the mean is left at T, so that the prior N(0, I) is accurate.
    sde, x = VP(0.1, 60.0), torch.randn(70, 2, generator=generator("cpu", 1, "points"), dtype=torch.float64)
    flow = Flow(
        sde, model(sde).given(OBSERVED), UNITS, DormandPrince(1e-7, 1e-7, 1000), batch_size=30, dtype=torch.float64
    )
    mean, covariance = posterior(OBSERVED)
    exact = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    found = flow.log_prob(x, by_probes(0, 2)).log_p
    torch.testing.assert_close(found, exact, rtol=2e-3, atol=2e-3)
    back = flow.decode(flow.encode(x))
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_hidden_rows_are_chosen_by_the_shares_of_both_parts() -> None:
    """With equal shares, a row loses the class and the numbers together: then it is a row of p(x)."""
    u = torch.tensor([0.05, 0.15, 0.25])
    y = torch.tensor([[1.0, 2.0, 3.0]]).expand(3, 3)
    same = Numbers(2, 0.2, 4, 0.2)
    assert torch.equal(same.hide(y, u)[:, 0], torch.tensor([-1.0, -1.0, 1.0]))
    assert torch.equal(same.hide(y, u).isnan(), torch.tensor([[0, 1, 1], [0, 1, 1], [0, 0, 0]]).bool())
    other = Numbers(2, 0.1, 4, 0.2)
    assert torch.equal(other.hide(y, u)[:, 0], torch.tensor([-1.0, -1.0, 1.0]))
    assert torch.equal(other.hide(y, u).isnan().any(1), torch.tensor([True, False, False]))
    for kind in (same, other, Numbers(2, 0.1), Numbers(2)):
        hidden = kind.hide(y if kind.labelled else y[:, 1:], u)
        labels = hidden[:, 0] >= 0 if kind.labelled else torch.zeros(3, dtype=torch.bool)
        seen = set(zip(labels.tolist(), (~hidden[:, -1].isnan()).tolist(), strict=True))
        shown = [(label, value) for label in (True, False) for value in (True, False) if kind.labelled or not label]
        assert seen == {parts for parts in shown if kind.knows(*parts)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    folder = tmp_path_factory.mktemp("conditions")
    options = ("dataset=linear_gaussian", "sampler=adams", "sampler.steps=10", "network.hidden=[64,64]")
    return sdegen.train(*options, "figures=false", "count=500", folder=folder / "run", steps=1500)


def test_a_trained_network_has_the_posterior_of_each_observation(run: sdegen.Run) -> None:
    data = run.dataset
    theta, y = data.simulate(200, generator("cpu", 5, "new"))
    laws = [data.prior.given(data.matrix, c, data.noise) for c in y]
    exact = torch.cat([law.log_prob(point[None]) for law, point in zip(laws, theta, strict=True)])
    # Without the condition, the mean difference would be the mutual information, 1.1 nats.
    assert abs(float((run.log_prob(theta, condition=y) - exact).mean())) < 0.1
    samples = run.sample(400, condition=y[:3])
    means = torch.cat([law.means for law in laws[:3]])
    torch.testing.assert_close(samples.mean(1), means, rtol=0, atol=0.2)


def test_figures_show_exact_draws_of_each_condition_and_name_it(run: sdegen.Run) -> None:
    asked, data = [[0.3, 0.5], [-0.5, -0.8]], run.dataset
    drawn = results._drawn(run, planned(run, None, None, condition=asked), 400, 0, 400)
    beside, path = gallery._beside(run, drawn, None)
    assert path.title == "the first of 2: given y1 = 0.3, y2 = 0.5, beside exact draws"
    assert beside.dataset.description.classes == ("y1 = 0.3, y2 = 0.5", "y1 = -0.5, y2 = -0.8")
    for label, c in enumerate(asked):
        mean = data.prior.given(data.matrix, torch.tensor(c).to(data.matrix), data.noise).means[0]
        own = beside.dataset.of_class(label).x
        torch.testing.assert_close(own.mean(0), mean, rtol=0, atol=0.2)
        torch.testing.assert_close(drawn.x[beside.y == label].mean(0), mean, rtol=0, atol=0.2)
    torch.testing.assert_close(path.dataset.x.mean(0), beside.dataset.of_class(0).x.mean(0), rtol=0, atol=0.2)


def test_a_list_of_numbers_is_one_condition(tmp_path: Path) -> None:
    """Two numbers for a condition of one number are no two conditions, except in an array, which may have many rows."""
    (tmp_path / "own.csv").write_text("\n".join(["a,size", *(f"{i % 7},{i % 5}.5" for i in range(40))]))
    data = ("dataset=file", f"dataset.path={tmp_path / 'own.csv'}", "dataset.condition=[size]", "network.hidden=[8]")
    own = sdegen.train(*data, "sampler.steps=3", "count=5", "figures=false", folder=tmp_path / "run", steps=2)
    with pytest.raises(UserError, match=r"condition: has the shape \(2,\): give 1 number \(size\) for each condition"):
        own.sample(2, condition=[0.5, 1.0])
    assert own.sample(2, condition=np.array([0.5, 1.0])).shape == own.sample(2, condition=[[0.5], [1.0]]).shape


def test_figures_say_that_no_data_of_a_condition_exist(tmp_path: Path) -> None:
    x = torch.randn(200, 4, generator=generator("cpu", 0, "rows"), dtype=torch.float64).numpy()
    np.savetxt(tmp_path / "own.csv", x, delimiter=",", header="a,b,c,size", comments="")
    own = sdegen.train(
        "dataset=file",
        f"dataset.path={tmp_path / 'own.csv'}",
        "dataset.condition=[size]",
        "sampler=adams",
        "sampler.steps=5",
        "count=20",
        "figures=false",
        folder=tmp_path / "run",
        steps=2,
    )
    drawn = results._drawn(own, planned(own, None, None, condition=[0.5]), 20, 0, 20)
    beside, path = gallery._beside(own, drawn, None)
    assert beside.title == path.title == "given size = 0.5, beside all data" and beside.dataset is own.dataset
    drawn = results._drawn(own, planned(own, None, None, condition=[[0.5], [1.0]]), 20, 0, 20)
    beside, path = gallery._beside(own, drawn, None)
    shown = figures.compare(beside.dataset, drawn.x, beside.y, beside.title)
    assert [text.get_text() for text in shown.legends[0].get_texts()] == ["size = 0.5", "size = 1", "all data"]
    title = figures.trajectories(path.dataset, drawn.samples, own.sde, title=path.title).axes[0].get_title("left")
    assert title == "the first of 2: given size = 0.5, beside all data\nfirst 2 of 3 coordinates"
    # A command takes a single number without brackets, too.
    assert check({"condition": 0.5}, (), SAMPLE, ())["condition"] == 0.5
    assert own.given(0.5).target.name == own.given([0.5]).target.name == "condition=[0.5]"


def test_conditions_are_read_by_name_and_kept_beside_the_samples(run: sdegen.Run, tmp_path: Path) -> None:
    path = tmp_path / "observed.csv"
    path.write_text("y2,y1\n0.5,0.3\n-1,0.2\n")
    read = run.sample(5, condition=path)
    torch.testing.assert_close(read, run.sample(5, condition=[[0.3, 0.5], [0.2, -1]]), rtol=0, atol=0)
    torch.testing.assert_close(read[0], run.given([0.3, 0.5]).sample(5), rtol=0, atol=0)
    saved = next((run.folder / "samples").glob("*/samples.npz"))
    with np.load(saved) as arrays:
        assert arrays["c"].shape == (500, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.sample(3), "condition: the network was trained with a condition for each point: give cond"),
        (lambda run: run.sample(3, condition=[0.3]), r"condition: has the shape \(1,\): give 2 numbers \(y1, y2\)"),
        (lambda run: run.sample(3, condition=[0.3, float("nan")]), "condition: holds NaN or infinity"),
        (lambda run: run.sample(3, label=1), "label=1: the data of .* have no labels"),
        (lambda run: run.log_prob([[0.0, 1.0]], condition=[[1.0, 2.0]] * 3), "condition: has 3 rows for 1 points"),
        (lambda run: run.given([1, 2]).given([1, 2]), "this run has a condition already"),
        (lambda run: run.sample(3, condition="no.csv"), "condition=no.csv: .*no such file"),
        (
            lambda run: run.guided("classifier_free", condition=[0.1, 0.2], scale=2.0),
            r"guidance=classifier_free: .* without a condition.*: train one with network.condition_dropout=0.1, or use "
            r"guidance.scale=1",
        ),
    ],
)
def test_wrong_conditions_are_refused_with_the_fix(run: sdegen.Run, call, words: str) -> None:  # noqa: ANN001
    with pytest.raises(UserError, match=words):
        call(run)


def test_rows_with_labels_have_the_densities_of_their_classes(tmp_path: Path) -> None:
    """The network needs the class of each point: a file gives it in a column, and an array of points lacks it."""
    x, labels = np.random.default_rng(0).normal(size=(60, 2)), np.array(["red", "blue"] * 30)
    options = ("network.label_dropout=0", "figures=false", "sampler=adams", "sampler.steps=5", "count=20")
    run = sdegen.fit(x, labels, *options, "network.hidden=[16]", folder=tmp_path / "run", steps=20)
    rows = [f"{a},{b},{label}" for (a, b), label in zip(x[:6].tolist(), labels, strict=False)]
    (tmp_path / "new.csv").write_text("\n".join(["x1,x2,label", *rows]))
    expected = [run.given(label=label).log_prob(point) for point, label in zip(x[:6], labels, strict=False)]
    assert len({*map(float, expected)}) == 6
    torch.testing.assert_close(run.log_prob(tmp_path / "new.csv"), torch.stack(expected), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="label: the network was trained with the class of each point"):
        run.log_prob(x)
    with pytest.raises(UserError, match="condition: the data of .* have no conditions: leave out condition="):
        run.given([0.3])


def test_a_condition_far_outside_of_the_training_range_is_a_warning(
    run: sdegen.Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.given([0.0, 40.0])
    assert "condition: y2=40 lies" in caplog.text
    caplog.clear()
    run.given([0.0, 0.5])
    assert not caplog.text


def test_simulating_anew_draws_other_pairs_at_each_step_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    options = ("dataset=linear_gaussian", "dataset.size=null", "figures=false", "count=20", "optimizer.decay=constant")
    whole = sdegen.train(*options, "sampler=adams", folder=tmp_path / "whole", steps=60)
    part = sdegen.train(*options, "sampler=adams", folder=tmp_path / "part", steps=30)
    resumed = sdegen.train(f"resume={part.folder}", "trainer.steps=60")
    states = [one.model.network.state_dict() for one in (whole, resumed)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_arrays_of_conditions_keep_the_order_in_which_they_are_named(tmp_path: Path) -> None:
    """The file has a before b. Its own points have the densities of conditions that are typed in the other order."""
    source = np.random.default_rng(0)
    a, b = source.normal(size=60), source.normal(10, 5, size=60)
    x = np.stack([a, b / 5], axis=1) + 0.1 * source.normal(size=(60, 2))
    np.savez(tmp_path / "ab.npz", x=x, a=a, b=b)
    data = ("dataset=file", f"dataset.path={tmp_path / 'ab.npz'}", "dataset.condition=[b,a]")
    run = sdegen.train(*data, "sampler=adams", "sampler.steps=3", "figures=false", folder=tmp_path / "run", steps=2)
    assert run.names.conditions == ("b", "a")
    typed = run.log_prob(x, condition=np.stack([b, a], axis=1))
    torch.testing.assert_close(run.log_prob(tmp_path / "ab.npz"), typed, rtol=1e-5, atol=1e-4)


class OneNumber(sdegen.datasets.Simulator):
    """A simulator whose parameter and observation are numbers ``(n,)``."""

    def __init__(self, seed: int, size: int | None = 100) -> None:
        super().__init__(seed, size)

    def pairs(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        theta = torch.randn(n, generator=source, dtype=torch.float64)
        return theta, theta + torch.randn(n, generator=source, dtype=torch.float64)


def test_pairs_of_single_numbers_are_columns_wherever_they_are_drawn() -> None:
    data = OneNumber(0)
    x, c = data.simulate(5, generator("cpu", 0, "new"))  # type: ignore[misc]
    theta, y = data.pairs(5, generator("cpu", 0, "new"))
    assert torch.equal(x, theta[:, None]) and torch.equal(c, y[:, None])
    assert data.x.shape == (100, 1) and data.conditions is not None and data.conditions.shape == (1,)


def test_a_guided_run_has_no_density_also_for_points_with_conditions(run: sdegen.Run, tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("x1,x2,y1,y2\n0.1,0.2,0.3,0.5\n")
    guided = run.guided("classifier_free", condition=[0.3, 0.5])
    for call in (guided.log_prob, guided.typicality):
        with pytest.raises(UserError, match="a guided run has no latents and no density"):
            call(path)
