"""Calibration of runs whose network is the exact score of a posterior or a wrong score, and on pairs of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

import sdegen
from sdegen.core.errors import UserError
from sdegen.models import Raw, ScoreModel
from sdegen.networks import Network, Numbers
from sdegen.runs import posteriors, results
from sdegen.runs.evaluation import Evaluation
from sdegen.sde.base import LinearSDE

NOISE = 0.5
SHORT = ("figures=false", "count=5", "trainer.steps=2", "trainer.preview_every=0")


class Exact(Network):
    """Exact score of θ ~ N(0, 1) given y = cos(1) θ + noise, for conditions in the network's units.

    ``wide`` multiplies the standard deviation of the posterior.
    """

    def __init__(self, sde: LinearSDE, shift: Tensor, scale: Tensor, wide: float = 1.0) -> None:
        super().__init__()
        self.sde, self.condition, self.shift, self.scale, self.wide = sde, Numbers(1), shift, scale, wide

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        assert y is not None
        a, alpha, sigma = np.cos(1), self.sde.alpha(t).reshape(-1, 1), self.sde.sigma(t).reshape(-1, 1)
        variance = 1 / (1 + a**2 / NOISE**2)
        mean = variance * a / NOISE**2 * (y * self.scale + self.shift)
        return -(x - alpha * mean) / (alpha**2 * variance * self.wide**2 + sigma**2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sdegen.Run:
    options = ("dataset=linear_gaussian", "dataset.dimensions=1", "dataset.standardize=false", "sampler=adams")
    return sdegen.train(*options, *SHORT, "sampler.steps=15", folder=tmp_path_factory.mktemp("exact") / "run")


def exact(run: sdegen.Run, wide: float) -> sdegen.Run:
    assert run.conditions is not None
    units = run.conditions.units
    run.model = ScoreModel(Exact(run.sde, units.shift, units.scale, wide), Raw(), run.sde)
    return run


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posteriors, "OBSERVED", 3)
    monkeypatch.setattr(posteriors, "SAMPLES", 1000)


def test_the_exact_posterior_is_calibrated_and_as_near_as_exact_draws(run: sdegen.Run) -> None:
    metrics = exact(run, 1.0).calibration(count=1000).metrics
    assert min(metrics[test]["p_value"] for test in ("sbc", "tarp")) > 0.01
    assert metrics["sliced_w1"]["value"] < 1.6 * metrics["sliced_w1"]["floor"]
    assert metrics["c2st"]["value"] < metrics["c2st"]["floor"] + 0.02
    assert len(metrics["c2st"]["classes"]) == 3


@pytest.mark.parametrize("wide", [0.75, 1.3])
def test_a_posterior_that_is_too_narrow_or_too_wide_is_found_out(run: sdegen.Run, wide: float) -> None:
    metrics = exact(run, wide).calibration(count=1000).metrics
    assert max(metrics[test]["p_value"] for test in ("sbc", "tarp")) < 0.01
    assert metrics["sliced_w1"]["value"] > 2 * metrics["sliced_w1"]["floor"]


def test_pairs_of_a_table_are_ranked_and_written(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="mass,age,light", comments="")
    options = ("dataset=file", f"dataset.path={tmp_path / 'x.csv'}", "dataset.condition=[light]", "sampler.steps=2")
    sdegen.train(*options, "sampler=adams", *SHORT, folder=tmp_path / "run")
    asked = Evaluation(
        sdegen.load(tmp_path / "run"), count=100, seed=0, batch_size=1000, probes=0, rtol=1e-3, atol=1e-3
    )
    folder, metrics = asked.write("calibration")
    assert set(metrics) == {"sbc", "tarp"}
    assert set(metrics["sbc"]["columns"]) == {"mass", "age"}
    assert asked.run.calibration(count=100).metrics == metrics
    assert (folder / "figures" / "calibration.png").exists()
    # Only the forty held-out rows are unseen pairs.
    with np.load(folder / "calibration.npz") as arrays:
        assert arrays["ranks"].shape == (40, 2)


def test_samples_given_an_impossible_observation_are_kept_without_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No parameters of the prior have this observation, which lies in the range of the simulations."""
    options = ("dataset=two_moons", "dataset.size=100", "network.hidden=[8]", "sampler=adams", "sampler.steps=2")
    run = sdegen.train(*options, *SHORT, folder=tmp_path / "run")
    with caplog.at_level("INFO", "sdegen"):
        written = results.write(run, 5, condition=[-0.8, 0.5])
    assert written.metrics == {} and (written.folder / "samples.npz").is_file()
    assert "no metrics: the distribution given the condition is not known" in caplog.text


def test_a_run_without_conditions_is_refused(tmp_path: Path) -> None:
    plain = sdegen.train("dataset=moons", *SHORT, "sampler=adams", "sampler.steps=2", folder=tmp_path / "run")
    with pytest.raises(UserError, match="metrics=calibration: the network takes no condition: train a run on a sim"):
        plain.calibration(count=100)
