"""Share of the time of a training that its held-out losses take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sdegen.config.assembly import build
from sdegen.runs.learning import AFFORDED
from sdegen.training.learning import Curve
from suites.base import Row, composed, row


def measure(tasks: Mapping[str, Sequence[str]], rounds: int) -> list[Row]:
    """Returns the share for each task, whose value has options of train.yaml."""
    panel, rows = "share of held-out losses in the time of a training", []
    for task, options in tasks.items():
        rows.append(row(panel, "", task, [share(composed(*options)) for _ in range(rounds)], ""))
    return rows


def share(config: dict) -> float:
    """Trains with held-out losses as a run does, and returns their share of the time that they and the steps take."""
    parts = build(config)
    training, spent = parts.training(), 0.0
    curve = Curve(training.steps)
    held_out = parts.held_out().within(max(1, curve.every // AFFORDED))
    every = curve.interval(training.steps)

    def evaluate() -> None:
        nonlocal spent
        began = time.perf_counter()
        losses = held_out.losses(training.averages[0])
        assert losses is not None
        curve.add(training.step, losses)
        spent += time.perf_counter() - began

    evaluate()
    training.run(lambda step, values: None, lambda: None, lambda: None, evaluate=evaluate, evaluate_every=every)
    return spent / (spent + training.seconds)
