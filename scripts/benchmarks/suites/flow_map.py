"""Flow maps distilled from exact scores: distance between their end points and the exact end points of the flow."""

from __future__ import annotations

import time

import torch
from arena.problem import problem
from arena.targets import target

from sdegen.config import assembly
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.samplers import FlowMap
from suites.base import Row, composed, row

POINTS = 10_000
"""Number of training points, from which only mean and covariance are used."""


class Contest(Dataset):
    """Points of a mixture of the contest of samplers: see arena/targets.py.

    Args:
        family: family of the mixture.
        seed: seed of the mixture.
    """

    def __init__(self, family: str, seed: int) -> None:
        law = target(family, seed)
        super().__init__(law.sample(POINTS, generator("cpu", seed, "flow map")), None, law, standardize=False)


def measure(families: list[str], targets: int, evaluations: list[int], samples: int, options: list[str]) -> list[Row]:
    """Returns the mean distances of end points in standard deviations of the data, and the CPU seconds of a training.

    A row has the median and the quartiles over the targets of a family.
    """
    rows: list[Row] = []
    for family in families:
        found: dict[int, list[float]] = {count: [] for count in evaluations}
        seconds = []
        for seed in range(targets):
            start = time.process_time()
            model = trained(family, seed, options)
            seconds.append(time.process_time() - start)
            whole = problem("ode", family, [seed], samples)
            x, noise = whole.x[0].float(), torch.zeros_like
            with torch.no_grad():
                for count in evaluations:
                    ends = FlowMap(count)(whole.sde, model, x, noise=noise).x
                    found[count].append(whole.distances[0](ends.double()))
        panel = "distance of end points against evaluations"
        rows += [row(panel, family, count, values, "") for count, values in found.items()]
        rows.append(row("training", family, family, seconds, "CPU s"))
    return sorted(rows, key=lambda each: each.panel)


def trained(family: str, seed: int, options: list[str]) -> torch.nn.Module:
    """Returns a flow map that is trained from the exact score of a mixture."""
    config = composed("experiment=flow_map", f"seed={seed}", "trainer.device=cpu", "trainer.threads=1", *options)
    config["dataset"] = {"_target_": "suites.flow_map.Contest", "family": family}
    (parts,) = assembly.replicated(config)
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    return training.averages[0].eval()
