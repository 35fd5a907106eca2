"""Posteriors that are learned from simulations: their distance from exact draws, their calibration, and the time."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import sdegen
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.metrics.calibration import measure_posteriors
from sdegen.metrics.points import Metrics
from sdegen.runs import posteriors
from sdegen.sde.mixture import GaussianMixture
from suites.base import Row, row

PROBLEMS = {
    "linear-Gaussian, d = 2": ["dataset=linear_gaussian"],
    "linear-Gaussian, d = 8": ["dataset=linear_gaussian", "dataset.dimensions=8"],
    "mixture, linear": ["dataset=observed_mixture"],
    "mixture, quadratic": ["dataset=observed_mixture", "dataset.observation=quadratic"],
    "two moons": ["dataset=two_moons"],
}
"""Options of train.yaml for each problem. The recipe was not chosen on these problems."""
COMPONENTS = {"linear-Gaussian, d = 2": 1, "linear-Gaussian, d = 8": 1, "mixture, linear": 3}
"""Number of Gaussians of which the joint distribution of parameters and observation is a mixture, if it is one."""
STARTS = 5
"""Number of starts of a fit; the fit with the largest likelihood is used."""
TINY = 1e-6
"""Standard deviation with which the fit observes y; the numbers of y are of order 1."""
QUIET = ["figures=false", "trainer.preview_every=0", "count=1", "trainer.threads=1"]


def measure(problems: Sequence[str], options: Sequence[str], pairs: int, seeds: int) -> list[Row]:
    """Returns the rows of a panel for each measure, with a position for each problem.

    Args:
        problems: keys of :data:`PROBLEMS`.
        options: options of train.yaml in addition to ``experiment=posterior``.
        pairs: number of unseen pairs for the tests of calibration.
        seeds: number of seeds of the simulations and the training.
    """
    if foreign := [problem for problem in problems if problem not in PROBLEMS]:
        raise UserError(f"problems={foreign[0]}: no such problem: choose from {'; '.join(PROBLEMS)}")
    rows = []
    for problem in problems:
        found = [one(problem, options, seed, pairs) for seed in range(seeds)]
        rows += [row(name, problem, problem, [each[name] for each in found], "") for name in found[0]]
    return sorted(rows, key=lambda each: each.panel)


def seen(dataset: Dataset) -> Tensor:
    """Returns the observations whose posteriors are compared with exact draws; no run is trained on them."""
    assert dataset.simulate is not None
    return dataset.simulate(posteriors.OBSERVED, generator("cpu", 0, "unseen pairs"))[1]


def one(problem: str, options: Sequence[str], seed: int, pairs: int) -> dict[str, float]:
    """Trains a network on the simulations of a seed, and returns the measures of its posteriors."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        own = ["experiment=posterior", *PROBLEMS[problem], *QUIET, *options, f"seed={seed}"]
        run = sdegen.train(*own, folder=Path(folder) / "run")
        seconds = time.process_time() - started
        found = run.calibration(count=pairs, batch_size=4000).metrics
    fitted = best_fit(run.dataset, COMPONENTS[problem], seed) if problem in COMPONENTS else {}
    return {
        "C2ST": found["c2st"]["value"],
        "C2ST, floor": found["c2st"]["floor"],
        "sliced W1": found["sliced_w1"]["value"],
        "sliced W1 over its floor, mean over observations": over_floors(found),
        **fitted,
        "calibration, p-value of SBC": found["sbc"]["p_value"],
        "calibration, p-value of TARP": found["tarp"]["p_value"],
        "CPU seconds of training": seconds,
    }


def best_fit(dataset: Dataset, components: int, seed: int) -> dict[str, float]:
    """Returns the measures of the posteriors of :func:`fitted`.

    The exact posterior belongs to the family of the fit, so a method that does not know the family is hardly better.
    """
    y, source = seen(dataset), generator("cpu", seed, "fitted")
    given = fitted(dataset, components, seed)
    drawn = torch.stack([given(each).sample(posteriors.SAMPLES, source) for each in y])
    found = measure_posteriors(dataset, y, drawn[:, :, : dataset.x.shape[1]])
    return {
        "C2ST of the fit that knows the family": found["c2st"]["value"],
        "sliced W1 over its floor, of the fit that knows the family": over_floors(found),
    }


def fitted(dataset: Dataset, components: int, seed: int) -> Callable[[Tensor], GaussianMixture]:
    """Fits a mixture of Gaussians to the pairs of parameters θ and observations y by maximum likelihood.

    Args:
        dataset: simulations.
        components: number of components.
        seed: seed of the starts of the fit.

    Returns:
        Function that returns the distribution of (θ, y) given an observation y.
    """
    from sklearn.mixture import GaussianMixture as Fit

    assert dataset.c is not None
    pairs, d = torch.cat([dataset.x, dataset.c], dim=1), dataset.x.shape[1]
    fit = Fit(components, n_init=STARTS, tol=1e-6, max_iter=1000, random_state=seed).fit(pairs.numpy())
    weights, means, covariances = map(torch.from_numpy, (fit.weights_, fit.means_, fit.covariances_))
    joint, observation = GaussianMixture(weights, means, covariances), torch.eye(pairs.shape[1])[d:]
    return lambda y: joint.given(observation, y, TINY)


def over_floors(found: Metrics) -> float:
    """Returns the mean over the observations of sliced W1 divided by its floor."""
    return statistics.fmean(each["value"] / each["floor"] for each in found["sliced_w1"]["classes"].values())
