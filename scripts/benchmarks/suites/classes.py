"""Cost of classes in a training step, and errors of the scores with a class and without one.

The data are mixtures on a circle in the plane, whose scores are known. A network with ``label_dropout`` learns both
scores; its score without a class is compared with that of a network without classes.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdegen.config.assembly import build
from sdegen.config.components import Components
from sdegen.metrics import score_error
from sdegen.models.score import ScoreModel
from suites.base import Row, composed, interleaved, over, row
from suites.step import our_loop


def measure(
    classes: Sequence[int], dropout: float, options: Sequence[str], steps: int, rounds: int, seeds: int
) -> list[Row]:
    """Returns the times of steps divided by those without classes, and the relative errors of the scores.

    Args:
        classes: numbers of classes.
        dropout: ``network.label_dropout``.
        options: options of train.yaml.
        steps: number of timed steps in a round.
        rounds: number of rounds.
        seeds: number of trained networks for each number of classes, with classes and without.
    """
    torch.set_num_threads(1)
    rows = []
    for count in classes:
        line = [*circle(count), *options, "trainer.preview_every=0", "trainer.device=cpu", "trainer.threads=1"]
        told = [*line, f"network.label_dropout={dropout}"]
        with tempfile.TemporaryDirectory() as folder:
            pair = {"without": build(composed(*line)), "with": build(composed(*told))}
            works = {name: our_loop(parts, Path(folder), steps) for name, parts in pair.items()}
            ratios = over(interleaved(works, rounds), "without")["with"]
        rows.append(row("time of a step divided by its time without classes", "", f"{count} classes", ratios, ""))
        found: dict[tuple[str, str], list[float]] = {}
        for seed in range(seeds):
            for network, options_of in (("with classes", told), ("without classes", line)):
                for score, value in errors(composed(*options_of, f"seed={seed}")).items():
                    found.setdefault((network, score), []).append(value)
        panel = f"error of the score of networks, {count} classes"
        rows += [row(panel, network, score, own, "") for (network, score), own in found.items()]
    return sorted(rows, key=lambda each: each.panel, reverse=True)


def circle(count: int) -> list[str]:
    """Returns the options of a mixture of ``count`` equal components on a circle."""
    angles = [2 * math.pi * i / count for i in range(count)]
    means = ",".join(f"[{4 * math.cos(angle):.6f},{4 * math.sin(angle):.6f}]" for angle in angles)
    each = {"weights": 1 / count, "variances": 0.25}
    equal = [f"dataset.{name}=[{','.join([f'{value:.6f}'] * count)}]" for name, value in each.items()]
    return ["dataset=gaussian_mixture", f"dataset.means=[{means}]", *equal]


def errors(config: dict) -> dict[str, float]:
    """Trains a network and returns the errors of its scores; the error with a class is a mean over the classes."""
    parts: Components = build(config)
    training = parts.training()
    training.run(lambda step, values: None, lambda: None, lambda: None)
    model, dataset = training.averages[0], parts.dataset
    assert isinstance(model, ScoreModel)

    def error(label: int | None) -> float:
        score = model.given(None if label is None else torch.tensor(label))
        data = dataset if label is None else dataset.of_class(label)

        def single(x: Tensor, t: Tensor) -> Tensor:
            return score(x.float(), t.float())

        value = score_error(data, parts.sde, single)
        assert value is not None
        return value

    found = {"p(x)": error(None)}
    if model.network.condition is not None:
        found["p(x | y)"] = statistics.fmean(error(label) for label in range(dataset.classes or 0))
    return found
