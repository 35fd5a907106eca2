"""The sentence about a training, against the loss on many fresh points that the training does not see.

Each training has few points, of which a fifth is held out. The judgement uses several times and noises of each held-out
point, or a single one.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdegen.config import assembly
from sdegen.config.components import Components
from sdegen.core.randomness import generator
from sdegen.runs.learning import AFFORDED
from sdegen.training.held_out import HeldOut
from sdegen.training.learning import QUIET, Curve
from suites.base import Row, composed, row
from suites.recipes import FILES

FRESH, REPEATS = 4096, 4
"""Number of fresh points, and number of sets of fresh points, or of times and noises for each fresh point."""
UNUSED = 500
"""Number of digits that are kept as fresh points."""
PANEL = "share of the fall after the step"

Draw = Callable[[int, int], Tensor]


def measure(sets: Sequence[str], points: Sequence[int], options: Sequence[str], steps: int, seeds: int) -> list[Row]:
    """Returns the fall of the loss on fresh points after the step since which a curve is flat or rises.

    It is divided by the whole fall, and negative if the loss rises. For a judgement without a step, *still falling*,
    the step is that at three quarters of the training.

    Args:
        sets: names of data sets whose distribution is known, or *columns* or *digits*.
        points: numbers of points of a data set.
        options: options of train.yaml for all trainings.
        steps: number of training steps.
        seeds: number of seeds.
    """
    rows = []
    for name in sets:
        for count in points:
            found: dict[str, list[float]] = {}
            for seed in range(seeds):
                for line, share in judged(name, count, [*options, f"trainer.steps={steps}", f"seed={seed}"], seed):
                    found.setdefault(line, []).append(share)
            rows += [row(PANEL, line, f"{name}, {count}", shares, "") for line, shares in found.items()]
    return rows


def judged(name: str, count: int, options: Sequence[str], seed: int) -> list[tuple[str, float]]:
    """Returns the judgement with a single noise and with several noises of each point, and the fall after its step."""
    draw = drawn(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points.npy"
        np.save(path, draw(count, seed).numpy())
        (parts,) = assembly.replicated(composed("dataset=file", f"dataset.path={path}", *options))
    training, held_out = parts.training(), parts.held_out()
    curves = {"one noise": Curve(training.steps), "several": Curve(training.steps)}
    every = curves["one noise"].every
    batches = max(1, every // AFFORDED)
    losses = [replace(held_out, batches=batches), held_out.within(batches)]
    truth, fresh = [], [fresh_loss(parts, draw, 1000 + k) for k in range(REPEATS)]

    def evaluate() -> None:
        model = training.averages[0]
        for curve, own in zip(curves.values(), losses, strict=True):
            found = own.losses(model)
            assert found is not None
            curve.add(training.step, found)
        truth.append(float(np.mean([own.loss(model) for own in fresh])))

    evaluate()
    training.run(lambda step, values: None, lambda: None, lambda: None, evaluate=evaluate, evaluate_every=every)
    result = []
    for line, curve in curves.items():
        trend = curve.trend()
        assert trend is not None
        late = round((1 - QUIET) * (len(truth) - 1))
        at = truth[late if trend.name == "still falling" else trend.since // every]
        result.append((f"{line}: {trend.name}", (at - truth[-1]) / (truth[0] - min(truth))))
    return result


def drawn(name: str) -> Draw:
    """Returns a function of a number and a seed that draws points of a data set; from seed 1000 on, they are fresh."""
    if name in FILES:
        return lambda count, seed: torch.from_numpy(FILES[name](count, np.random.default_rng([1, seed])))
    (parts,) = assembly.replicated(composed(f"dataset={name}", "trainer.steps=1"))
    dataset = parts.dataset
    if name == "digits":
        assert dataset.held_out is not None
        images = torch.cat([dataset.x, dataset.held_out])
        images = images[torch.randperm(len(images), generator=generator("cpu", 0, "learning"))].float()
        return lambda count, seed: images[:UNUSED] if seed >= 1000 else images[UNUSED:][:count]

    def draw(count: int, seed: int) -> Tensor:
        found = dataset.draw(count, generator("cpu", seed, "learning"))
        assert found is not None
        return found.double()

    return draw


def fresh_loss(parts: Components, draw: Draw, seed: int) -> HeldOut:
    """Returns the loss on fresh points, with its own times and noises."""
    data = copy.copy(parts.dataset)
    data.held_out, data.held_out_y = draw(FRESH, seed).to(parts.dataset.x.dtype), None
    whole = replace(parts._replace(dataset=data).held_out(), seed=seed)
    return whole.within(FRESH // parts.trainer.batch_size)
