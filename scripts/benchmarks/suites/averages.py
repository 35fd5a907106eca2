"""Averages of the weights of any width: their accuracy, their cost, and the score with each of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.config.assembly import build
from sdegen.config.components import Components
from sdegen.metrics import score_error
from sdegen.models import ScoreModel
from sdegen.training.averages import Average, combination, power
from sdegen.training.loop import Training
from suites.base import Row, composed, interleaved, over, row

TRACKED = "trainer.widths=[0.05,0.10]"


def measure(
    tasks: Mapping[str, Mapping[str, Any]], rounds: int, recipe: Sequence[str], widths: Sequence[float], seeds: int
) -> list[Row]:
    """Returns the rows of three questions.

    The time of a step is relative to that without averages, and the distance of an average from snapshots to that of
    the two stored ones.

    Args:
        tasks: trainings whose steps are timed, each with ``options`` of train.yaml and the ``steps`` in a round.
        rounds: number of rounds.
        recipe: options of train.yaml of the training whose averages are compared.
        widths: widths of averages, each tracked as well as computed from the snapshots of the two tracked ones.
        seeds: number of seeds.
    """
    torch.set_num_threads(1)
    rows = [row("relative time of a step", "", name, cost(**own, rounds=rounds), "") for name, own in tasks.items()]
    constant, cosine = (
        [trained([*recipe, f"optimizer.decay={decay}", f"seed={seed}"], widths) for seed in range(seeds)]
        for decay in ("constant", "cosine")
    )
    for decay, found in (("constant", constant), ("cosine", cosine)):
        panel = "relative distance from a tracked average against width"
        rows += [row(panel, decay, width, [one.errors[width] for one in found], "") for width in widths]
    panel, ends = "error of the score against width", (min(widths), max(widths))
    rows += [row(panel, "any width", width, [one.scores[width] for one in constant], "") for width in widths]
    beside = {"trainer.ema": [one.ema for one in constant], "not averaged": [one.raw for one in constant]}
    beside |= {"cosine, trainer.ema": [one.ema for one in cosine]}
    return [*rows, *(row(panel, name, end, values, "") for name, values in beside.items() for end in ends)]


def cost(options: Sequence[str], steps: int, rounds: int) -> list[float]:
    """Returns the CPU time of steps with tracked averages over that of steps without, a ratio for each round."""

    def stepping(*more: str) -> Callable[[], None]:
        training = build(composed(*options, "trainer.device=cpu", "trainer.threads=1", *more)).training()
        coming = training.stream.steps(0, 2**31)

        def work() -> None:
            for chunks in itertools.islice(coming, steps):
                training.advance(chunks)

        return work

    works = {"without": stepping(), "with": stepping(TRACKED)}
    return over(interleaved(works, rounds, time.process_time), "without")["with"]


class Trained(NamedTuple):
    """Result of a training.

    Attributes:
        errors: distance of the average from snapshots and the tracked one, over that of the two stored ones, by width.
        scores: error of the score with the average from snapshots, by width.
        ema: error of the score with the average of ``trainer.ema``.
        raw: error of the score without an average.
    """

    errors: dict[float, float]
    scores: dict[float, float]
    ema: float
    raw: float


def trained(options: Sequence[str], widths: Sequence[float]) -> Trained:
    """Trains a network, and compares averages that were tracked with those from the snapshots of two."""
    parts = build(composed(*options, TRACKED))
    training, stored = parts.training(), list[tuple[tuple[int, float], Tensor]]()
    kept = dict(training.tracked)
    training.tracked |= {width: Average(training.models, power(width)) for width in widths if width not in kept}

    def snapshot() -> None:
        stored.extend(((training.step, width), own.vector.clone()) for width, own in kept.items())

    training.run(lambda step, values: None, lambda: None, lambda: None, snapshot=snapshot)
    low, high = (own.vector for own in kept.values())
    found = Trained({}, {}, error(parts, training), raw=error(parts, training, training.vector.data))
    for width in widths:
        coefficients, _ = combination([key for key, _ in stored], training.step, width)
        vector = sum(x * own.double() for x, (_, own) in zip(coefficients, stored, strict=True))
        assert isinstance(vector, Tensor)
        found.errors[width] = float((vector - training.tracked[width].vector).norm() / (high - low).norm())
        found.scores[width] = error(parts, training, vector.to(low))
    return found


def error(parts: Components, training: Training, vector: Tensor | None = None) -> float:
    """Returns the error of the score with the weights in a vector; None for those of ``trainer.ema``."""
    model = training.averages[0]
    assert isinstance(model, ScoreModel)
    before = training.average_vector.clone()
    if vector is not None:
        training.average_vector.copy_(vector)
    found = score_error(parts.dataset, parts.sde, lambda x, t: model(x.to(before), t.to(before)))
    training.average_vector.copy_(before)
    assert found is not None
    return found
