"""Guidance by a trained regressor: samples of the exact posterior, and mistakes in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import sdegen
from sdegen.config import choices
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.metrics.distances import sliced_w1
from sdegen.runs import results

PRIOR = ("dataset=linear_gaussian", "sampler=adams", "sampler.steps=20", "sampler.denoise=true")
SHORT = ("figures=false", "count=200", "trainer.threads=1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, sdegen.Run]:
    """Trains a prior and regressors. With parametrization=gaussian, the prior is nearly exact from the start."""
    folder = tmp_path_factory.mktemp("regressors")
    options = {
        "prior": (*PRIOR, "network.condition_dropout=null", "trainer.steps=50", "network.hidden=[16]"),
        "posterior": (*PRIOR, "network.hidden=[16]", "trainer.steps=2"),
        "regressor": ("experiment=regressor", "network.hidden=[64,64]", "trainer.steps=1500", "dataset.size=null"),
        "other": ("experiment=regressor", "dataset.noise=1.0", "network.hidden=[8]", "trainer.steps=2"),
    }
    # The units of the points are those of the data, so the data of all runs are the same.
    options["prior"] += ("dataset.size=null",)
    options["posterior"] += ("dataset.size=null",)
    options["other"] += ("dataset.size=null",)
    return {name: sdegen.train(*own, *SHORT, folder=folder / name) for name, own in options.items()}


def test_samples_of_the_guided_prior_are_those_of_the_posterior(runs: dict[str, sdegen.Run]) -> None:
    data, y = runs["prior"].dataset, torch.tensor([[0.3, 1.2], [-1.0, 0.4]], dtype=torch.float64)
    for i, own in enumerate(y):
        samples = runs["prior"].guided("regressor", run=runs["regressor"], condition=own).sample(1000)
        exact, other = (data.posterior(own, 1000, generator("cpu", i, name)) for name in ("a", "b"))
        deviation = exact.std(0)
        error, floor = (float(sliced_w1(x / deviation, exact / deviation)) for x in (samples.cpu(), other))
        assert error < floor + 0.12
        # Without guidance, the samples are far away.
        assert float(sliced_w1(runs["prior"].sample(1000).cpu() / deviation, exact / deviation)) > 5 * floor


def test_the_likelihood_of_almost_clean_points_weighs_samples_rightly(runs: dict[str, sdegen.Run]) -> None:
    """The last weights of ``twisted`` are likelihoods at times that a training hardly ever draws."""
    y = torch.tensor([0.3, 1.2], dtype=torch.float64)
    exact = runs["prior"].dataset.posterior(y, 1000, generator("cpu", 0, "exact"))
    guided = runs["prior"].guided("regressor", run=runs["regressor"], condition=y)
    samples = guided.sample(1000, sampler="twisted", steps=30).cpu()
    assert float(sliced_w1(samples / exact.std(0), exact / exact.std(0))) < 0.15


def test_metrics_are_the_likelihood_over_that_of_the_exact_regressor(runs: dict[str, sdegen.Run]) -> None:
    found = json.loads((runs["regressor"].folder / "metrics.json").read_text())
    assert found["nll"]["floor"] - 0.005 < found["nll"]["value"] < found["nll"]["floor"] + 0.02
    assert found["quantile_error"]["value"] < 2 * found["quantile_error"]["floor"]
    far = json.loads((runs["other"].folder / "metrics.json").read_text())
    assert far["nll"]["value"] > far["nll"]["floor"] + 0.1
    assert far["quantile_error"]["value"] > 2 * far["quantile_error"]["floor"]


def test_each_sample_is_guided_by_the_condition_of_a_point_of_the_data(runs: dict[str, sdegen.Run]) -> None:
    """Samples and conditions are joint draws: regressed on the conditions, they have the residuals of fresh pairs."""
    node = choices.node("guidance", "regressor", {"run": str(runs["regressor"].folder)})
    written = results.write(runs["prior"], 2000, guidance=node, condition="data", figures=False)
    with np.load(written.folder / "samples.npz") as own:
        x, c = torch.from_numpy(own["x"]).double(), torch.from_numpy(own["c"])
    fresh, y = runs["prior"].dataset.simulate(2000, generator("cpu", 7, "fresh"))  # type: ignore[misc]
    line = torch.linalg.lstsq(y, fresh).solution
    left, expected = (one - given @ line for one, given in ((x, c), (fresh, y)))
    # The regressor was trained briefly. With the conditions of other samples, the variances would be 1.5, and not 0.5.
    torch.testing.assert_close(left.T.cov(), expected.T.cov(), rtol=0, atol=0.1)
    assert float(left.mean(0).abs().max()) < 0.15
    assert "sliced_w1" in written.metrics


def test_an_array_of_conditions_guides_as_many_samples(runs: dict[str, sdegen.Run]) -> None:
    rows = [[0.3, 1.2], [-1.0, 0.4], [0.0, 0.0]]
    guided = runs["prior"].guided("regressor", run=runs["regressor"], condition=rows)
    alone = runs["prior"].guided("regressor", run=runs["regressor"], condition=rows[1])
    torch.testing.assert_close(guided.sample(3)[1], alone.sample(3)[1], rtol=1e-4, atol=1e-4)
    x = torch.randn(3, 2, generator=generator("cpu", 0, "x"))
    torch.testing.assert_close(guided.score(x, 0.5)[1], alone.score(x, 0.5)[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda r: r["prior"].guided("regressor", run=r["regressor"], condition=[[1, 2], [3, 4]]).sample(3),
            "condition: has 2 rows for 3 samples: give one for all, or one for each$",
        ),
        (
            lambda r: (
                r["prior"]
                .guided("regressor", run=r["regressor"], condition=[[1, 2], [3, 4]])
                .sample(2, sampler="twisted")
            ),
            "sampler=twisted: moves samples of a batch to other rows, which have other conditions: use another sampler",
        ),
        (
            lambda r: r["prior"].guided("inpaint", condition="data"),
            "condition=data: guidance=inpaint takes no condition for each sample: give label= or condition=$",
        ),
        (
            lambda r: r["prior"].guided("regressor", run=r["regressor"], condition=[[1, 2], [3, 4]]).evaluate(count=2),
            "evaluate: the run has a condition for each sample",
        ),
        (lambda r: r["prior"].guided("regressor", run=r["regressor"]), "guidance=regressor needs a condition: give"),
        (
            lambda r: r["prior"].guided("regressor", run=r["regressor"], label=1),
            "label=1: the data of .* have no labels: leave out label=$",
        ),
        (
            lambda r: r["prior"].guided("regressor", run=r["prior"], condition=[1, 2]),
            "holds no regressor: train one with experiment=regressor$",
        ),
        (
            lambda r: r["prior"].guided("regressor", run=r["other"], condition=[1, 2]),
            "was trained on other data than .*: train on these data$",
        ),
        (
            lambda r: r["prior"].sample(3, condition=[1, 2]),
            "does not take the condition: train one with network.condition_dropout=0, or use guidance=regressor$",
        ),
        (lambda r: r["prior"].log_prob([[1.0, 2.0]] * 2, condition=[[1, 2], [3, 4]]), "does not take the condition"),
        (
            lambda r: r["posterior"].guided("regressor", run=r["regressor"], condition=[1, 2]),
            "has learned no score without a condition: train one with network.condition_dropout=0.1$",
        ),
        (lambda r: r["regressor"].sample(3), "holds a regressor, not a score: use it to guide another run, with gu"),
        (lambda r: r["regressor"].export("score.pt2"), "holds a regressor, not a score"),
    ],
)
def test_what_a_regressor_cannot_do_is_refused_with_the_fix(runs: dict[str, sdegen.Run], call, words: str) -> None:  # noqa: ANN001
    with pytest.raises(UserError, match=words):
        call(runs)
