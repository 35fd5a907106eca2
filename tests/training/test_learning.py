"""The judgement of a training agrees with the shape of synthetic curves, and its unit with simulations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen.config import assembly, rules
from sdegen.config.compose import composed
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.runs import checkpoint, session
from sdegen.sde import VE, VP, SubVP
from sdegen.sde.base import LinearSDE
from sdegen.training import Denoising, Trainer, baseline, held_out, learning, times, weighting
from sdegen.training.batches import Points, Stream
from sdegen.training.learning import Curve
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

EVALUATIONS = 21


def judged(
    shape: Callable[[np.ndarray], np.ndarray], ripple: float, error: float, tries: int = 100
) -> dict[str, float]:
    """Return how often each judgement is made of a curve with independent noise of the weights."""
    source, found = np.random.default_rng(7), {"still falling": 0.0, "flat": 0.0, "overfitting": 0.0}
    curve = shape(np.linspace(0, 1, EVALUATIONS))
    for _ in range(tries):
        losses = list(curve + source.normal(0, ripple, EVALUATIONS))
        found[learning.trend(range(EVALUATIONS), losses, [error] * EVALUATIONS).name] += 1 / tries
    return found


@pytest.mark.parametrize(
    ("expected", "shape"),
    [
        ("still falling", lambda s: 2 - s),
        ("still falling", lambda s: 1 + np.exp(-s / 0.6)),
        ("still falling", lambda s: 1 + (s + 0.02) ** -0.4),
        ("flat", lambda s: np.ones_like(s)),
        ("flat", lambda s: 2 - np.minimum(s / 0.4, 1)),
        ("flat", lambda s: 1 + np.exp(-s / 0.05)),
        ("overfitting", lambda s: 1 + np.exp(-s / 0.05) + 0.5 * np.maximum(s - 0.3, 0)),
        ("overfitting", lambda s: 1 + 2 * (s - 0.4) ** 2),
    ],
)
@pytest.mark.parametrize(("ripple", "error"), [(0.001, 0.005), (0.005, 0.01), (0.01, 0.02)])
def test_a_curve_is_judged_by_its_shape(expected: str, shape: Callable[..., Any], ripple: float, error: float) -> None:
    found = judged(shape, ripple, error)
    assert found[expected] > 0.85, found
    # A false alarm of overfitting would make a user stop.
    assert expected == "overfitting" or found["overfitting"] < 0.05


def test_the_step_of_a_judgement_is_the_step_of_the_change() -> None:
    steps = range(0, 2100, 100)
    fall = [2 - min(step, 800) / 800 for step in steps]
    assert (
        str(learning.trend(steps, fall, [0.01] * 21)) == "flat since step 800, within the noise of the held-out points"
    )
    rise = [1 + ((step - 800) / 1000) ** 2 for step in steps]
    assert str(learning.trend(steps, rise, [0.01] * 21)) == "overfitting since step 800"
    assert str(learning.trend(steps, [2 - step / 2000 for step in steps], [0.01] * 21)) == "still falling"


def judgement(steps: int, shape: Callable[[float], float]) -> str:
    """Returns the judgement of a curve of 21 evaluations over a number of steps, on points with a noise of 0.01."""
    curve, noise = Curve(steps), torch.tensor([-1.0, 1.0]).repeat(50) * 0.1
    for step in range(0, steps + 1, max(1, steps // 20)):
        curve.add(step, shape(step / steps) + noise * (-1) ** step)
    found = curve.trend()
    assert found is not None
    return found.name


def test_a_short_training_is_not_called_flat() -> None:
    """The loss falls as a power of the step, so that a part of a short training may show no fall above the noise."""
    for steps in (2, 20, 480):
        assert judgement(steps, lambda s: 1.0) == "too short to say"
    assert judgement(500, lambda s: 2 - min(s / 0.6, 1)) == "too short to say"
    assert judgement(5000, lambda s: 2 - min(s / 0.6, 1)) == "flat"
    assert judgement(500, lambda s: 2 - s) == "still falling"
    assert judgement(500, lambda s: 1 + 4 * (s - 0.4) ** 2) == "overfitting"


def test_a_difference_within_the_standard_error_of_its_rows_is_no_improvement() -> None:
    """Two models differ by 0.1 in the mean; the differences of the rows have a standard deviation of 1."""
    shift = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    shift = (shift - shift.mean()) / shift.std()
    for count, improved in ((20, False), (10_000, True)):
        curve, part = Curve(100), shift[:count] - shift[:count].mean()
        # Noise that both models share does not count.
        shared = 50 * torch.rand(count, generator=torch.Generator().manual_seed(1))
        curve.add(0, shared)
        curve.add(5, shared - 0.1 + part)
        assert (curve.idle(5) == 0) == improved


@pytest.mark.parametrize(("copies", "improved"), [(2, False), (500, True)])
def test_many_noises_of_few_points_show_a_difference_that_a_few_hide(copies: int, improved: bool) -> None:
    """The loss of 20 points falls by 0.1 in the mean; the points differ by 1, and the noises of a point by 2."""
    source = torch.Generator().manual_seed(2)
    points, noises = (torch.randn(*shape, generator=source) for shape in ((1, 20), (copies, 20)))
    points, noises = points - points.mean(), 2 * (noises - noises.mean())
    curve = Curve(100)
    curve.add(0, torch.zeros(copies, 20))
    curve.add(5, points + noises - 0.1)
    assert (curve.idle(5) == 0) == improved


def test_every_copy_of_a_held_out_point_has_a_noise_of_its_own_and_its_own_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mean over the copies of a point is the loss of this point alone. Each point is farther out than the last."""
    monkeypatch.setattr(held_out, "ROWS", 4096)
    x = torch.arange(1.0, 6.0)[:, None] * torch.tensor([1.0, -1.0])
    (parts,) = assembly.replicated(composed("train", [*SHORT, "dataset=moons"]))

    def losses(points: Tensor, batches: int) -> Tensor:
        data = Dataset(x, points)
        data.units = parts.dataset.units
        found = parts._replace(dataset=data).held_out().within(batches).losses(parts.model.float())
        assert found is not None
        return found

    together = losses(x, 8)
    assert together.shape == (8 * 256 // 5, 5) and torch.equal(together, losses(x, 8))
    assert float(together.std(0).min()) > 0
    alone = torch.stack([losses(point[None], 16).mean() for point in x])
    assert float(alone.diff().abs().min() / alone[0]) > 0.3
    error = together.std(0) / math.sqrt(len(together))
    assert bool(((together.mean(0) - alone).abs() < 5 * error).all())
    # Many points are used once, and only those of the first batches.
    many = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
    assert losses(many, 2).shape == (1, 512)


def test_a_curve_has_at_least_twenty_evaluations_also_after_an_extension() -> None:
    for steps in (1, 19, 20, 39, 40, 1999, 12_000):
        every = Curve(steps).interval(steps)
        assert len({*range(every, steps + 1, every), steps}) >= min(20, steps)
        for longer in (steps, 3 * steps, 1000 * steps):
            every = Curve(steps).interval(longer)
            assert min(20, longer) <= len(range(every, longer + 1, every)) <= 40


VARIANCE, LIKELIHOOD = weighting.Variance(), weighting.Likelihood()
SETTINGS = [
    *((sde, weight, times.Importance()) for sde in (VP(), SubVP(eps=1e-3), VE()) for weight in (VARIANCE, LIKELIHOOD)),
    *((VP(eps=1e-2), LIKELIHOOD, sampler) for sampler in (times.Stratified(), times.Grid(20, 3), times.Levels(50))),
]


@pytest.mark.parametrize(("sde", "weight", "sampler"), SETTINGS)
def test_the_unit_is_the_mean_loss_of_a_gaussian_on_other_data_of_its_covariance(
    sde: LinearSDE, weight: Weighting, sampler: TimeSampler
) -> None:
    """The training's own estimator, on points of two skewed, correlated coordinates with this covariance."""
    source = generator("cpu", 0, "skewed")
    x = -torch.rand(40_000, 2, generator=source, dtype=torch.float64).log() - 1
    x = x @ torch.tensor([[1.0, 0.7], [0.0, 0.2]], dtype=torch.float64)
    x -= x.mean(0)
    covariance = x.T @ x / len(x)

    def score(x: Tensor, t: Tensor) -> Tensor:
        total = sde.alpha(t)[:, None, None] ** 2 * covariance + sde.sigma(t)[:, None, None] ** 2 * torch.eye(2)
        return -torch.linalg.solve(total, x)

    objective, data = Denoising(), type("Data", (), {"fresh": False})()
    data.x, data.y, data.disk, data.block, data.cells = x, None, None, None, None
    data.units = type("Units", (), {"encode": staticmethod(lambda x: x)})
    stream = Stream([Points(3, data, 1000, dtype=torch.float64)], lambda *rows: objective.prepare(*rows[:-2]),
                    weight, sampler, sde)  # fmt: skip
    means = []
    for chunks in stream.steps(0, 40):
        losses = [chunk.weight[0] * objective.loss(score, chunk.of(0).rows) for chunk in chunks]
        means.append(float(sum(part.sum() for part in losses)) / chunks[0].total)
    error = float(np.std(means)) / math.sqrt(len(means))
    expected = baseline.gaussian(sde, weight, sampler, torch.linalg.eigvalsh(covariance))
    assert np.mean(means) == pytest.approx(expected, abs=4 * error) and error < 0.03 * expected


def test_the_unit_of_a_classifier_is_the_cross_entropy_of_guessing() -> None:
    assert baseline.chance(VP(), weighting.Uniform(), times.Stratified(), 10) == pytest.approx(math.log(10))


SHORT = ("network.hidden=[16]", "figures=false", "count=50", "sampler.steps=3", "trainer.preview_every=0")


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "provenance.json").read_text())["learning"]


def test_the_exact_score_of_a_gaussian_has_the_loss_one(tmp_path: Path) -> None:
    """Gaussian data, and a parametrization whose first network is nearly their exact score."""
    options = ("dataset=gaussian_mixture", "trainer.steps=40", "trainer.checkpoint_every=20")
    session.train(composed("train", [*SHORT, *options]), tmp_path / "run")
    found = record(tmp_path / "run")
    assert found["over"] == "gaussian" and 0 < found["best"] < found["share"]
    (parts,) = assembly.replicated(composed("train", [*SHORT, "dataset=gaussian_mixture"]))
    assert parts.baseline() is not None and parts.best_loss() is not None
    assert parts.best_loss() / parts.baseline() == pytest.approx(found["best"], rel=1e-6)  # type: ignore[operator]


def test_the_best_loss_of_a_network_that_takes_the_class_is_that_of_the_scores_of_the_classes() -> None:
    """Each class is a Gaussian, whose exact score has a loss in closed form. The classes have equal weights."""
    (parts,) = assembly.replicated(composed("train", [*SHORT, "dataset=gaussian_mixture", "network.label_dropout=0.1"]))
    scale, sde = parts.dataset.units.affine.scale, parts.sde.linear  # type: ignore[union-attr]
    losses = [baseline.gaussian(sde, parts.weighting, parts.times, v / scale**2) for v in (0.25, 1.0)]
    best = parts.best_loss()
    assert best is not None
    assert best == pytest.approx(sum(losses) / 2, rel=0.02)
    (parts,) = assembly.replicated(composed("train", [*SHORT, "dataset=gaussian_mixture"]))
    assert best < 0.9 * parts.best_loss()  # type: ignore[operator]


PATIENT = (*SHORT, "dataset=moons", "optimizer.lr=1e-12", "trainer.steps=2000", "trainer.patience=300",
           "trainer.checkpoint_every=250")  # fmt: skip


def test_patience_ends_a_run_that_learns_nothing_and_a_resumed_run_ends_at_the_same_step(tmp_path: Path) -> None:
    session.train(composed("train", PATIENT), tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run")
    assert saved.step == 300 and checkpoint.read(tmp_path / "run", "best").held_out is not None
    found = record(tmp_path / "run")
    assert (found["ended"], found["trend"]) == (
        "trainer.patience=300",
        "flat since step 0, within the noise of the held-out points",
    )
    with pytest.raises(UserError, match=r"finished at step 300; set a larger trainer\.patience than 300, or null"):
        session.resume(tmp_path / "run", {})
    # The run is continued as if it had been killed after step 250, and once before its samples were drawn.
    (tmp_path / "run" / "metrics.json").unlink()
    session.resume(tmp_path / "run", {})
    for name in ("metrics.json", "checkpoints/last.pt", "checkpoints/step-00000300.pt"):
        (tmp_path / "run" / name).unlink()
    session.resume(tmp_path / "run", {})
    again = checkpoint.read(tmp_path / "run")
    assert again.step == 300
    assert all(torch.equal(value, again.weights[name]) for name, value in saved.weights.items())
    assert all(torch.equal(value, again.curve[name]) for name, value in saved.curve.items())
    session.resume(tmp_path / "run", {"trainer.patience": None, "trainer.steps": 350})
    assert checkpoint.read(tmp_path / "run").step == 350 and "ended" not in record(tmp_path / "run")


def test_held_out_losses_do_not_change_the_weights(tmp_path: Path) -> None:
    config = composed("train", [*SHORT, "dataset=moons", "trainer.steps=60", "trainer.checkpoint_every=60"])
    session.train(config, tmp_path / "run")
    (parts,) = assembly.replicated(config)
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    saved = checkpoint.read(tmp_path / "run")
    assert len(saved.curve["steps"]) == 21
    assert all(
        torch.equal(value, saved.weights[name]) for name, value in training.models[0].network.state_dict().items()
    )


def test_patience_needs_one_network_and_held_out_points() -> None:
    with pytest.raises(UserError, match="patience=5 works only with one network, and replicas=2: set patience="):
        assembly.replicated(composed("train", [*SHORT, "trainer.patience=5", "trainer.replicas=2"]))
    parts = {"trainer": Trainer(patience=5), "dataset": Dataset(torch.randn(9, 2))}
    (fault,) = rules.faults({}, parts)
    assert fault.startswith("trainer.patience=5: ") and fault.endswith("set dataset.held_out, or trainer.patience=null")
    assert not rules.faults({}, {**parts, "dataset": Dataset(torch.randn(9, 2), held_out=torch.randn(4, 2))})


def test_metrics_of_an_earlier_end_do_not_pass_for_those_of_a_longer_run(tmp_path: Path) -> None:
    """A run that was resumed to more steps and killed before its metrics were written is not finished."""
    folder = tmp_path / "run"
    session.train(composed("train", [*SHORT, "dataset=moons", "trainer.steps=20"]), folder)
    before = (folder / "metrics.json").read_bytes()
    saved = checkpoint.newest(folder)
    config = {**saved[0].config, "trainer": {**saved[0].config["trainer"], "steps": 40}}
    going = session.Session(config, folder, (), saved)
    going.prepare("")
    assert not (folder / "metrics.json").exists()
    session.resume(folder, {"trainer.steps": 40})
    assert checkpoint.read(folder).step == 40 and (folder / "metrics.json").read_bytes() != before


def test_held_out_rows_of_striped_labels_have_every_class() -> None:
    """Every tenth row of such data has the same class."""
    x, y = torch.randn(40_960, 1, generator=torch.Generator().manual_seed(0)), torch.arange(40_960) % 10
    (parts,) = assembly.replicated(composed("train", [*SHORT, "dataset=moons"]))
    own = parts._replace(dataset=Dataset(x[:100], x, y=y[:100], held_out_y=y, classes=10)).held_out()
    assert own._stream is not None
    shares = torch.bincount(own._stream.points[0].y, minlength=10).double()
    assert float(shares.min() / shares.sum()) > 0.04
