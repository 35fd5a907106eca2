"""Guidance by a trained regressor: samples of the exact posterior, and mistakes in one line."""

from __future__ import annotations

import json

import pytest
import torch

import sdegen
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.metrics.distances import sliced_w1

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


@pytest.mark.parametrize(
    ("call", "words"),
    [
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
