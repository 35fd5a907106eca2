"""Posteriors that are learned from simulations: their distance from exact draws, their calibration, and the time."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

import sdegen
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.runs import posteriors
from suites.base import Row, row

PROBLEMS = {
    "linear-Gaussian, d = 2": ["dataset=linear_gaussian"],
    "linear-Gaussian, d = 8": ["dataset=linear_gaussian", "dataset.dimensions=8"],
    "mixture, linear": ["dataset=observed_mixture"],
    "mixture, quadratic": ["dataset=observed_mixture", "dataset.observation=quadratic"],
    "two moons": ["dataset=two_moons"],
}
"""Options of train.yaml for each problem. The recipe was not chosen on these problems."""
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
    each = found["sliced_w1"]["classes"].values()
    return {
        "C2ST": found["c2st"]["value"],
        "C2ST, floor": found["c2st"]["floor"],
        "sliced W1": found["sliced_w1"]["value"],
        "sliced W1 over its floor, mean over observations": statistics.fmean(e["value"] / e["floor"] for e in each),
        "calibration, p-value of SBC": found["sbc"]["p_value"],
        "calibration, p-value of TARP": found["tarp"]["p_value"],
        "CPU seconds of training": seconds,
    }
