"""Quality of a run against the width of the average of its weights."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

from sdegen.config.construction import construct
from sdegen.config.options import check
from sdegen.core.errors import UserError
from sdegen.core.progress import announced
from sdegen.metrics.points import Metrics
from sdegen.models.score import ScoreModel
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs import measures
from sdegen.runs.averages import Averages
from sdegen.runs.conditions import needs_one
from sdegen.runs.steered import Steered
from sdegen.training.held_out import HeldOut

log = logging.getLogger("sdegen")

OTHERS = ("trainer.ema", "raw")
"""Names of the other weights that are measured: the average of ``trainer.ema``, and the weights without an average."""


class Sweep(NamedTuple):
    """Quality of a run for several averages of its weights. Smaller values are better.

    Attributes:
        widths: widths of the averages, in ascending order.
        tracked: widths of the two averages that were tracked.
        measures: values of each measure, by its name, one for each width. ``score_error`` is known if the exact score
            is. If not, and for a flow map, a distance of samples from the data takes its place. ``held_out_loss`` is
            the loss on held-out points.
        others: values of each measure for the average of ``trainer.ema`` and for the weights without an average.
        floors: ``floor`` of each measure, None if it has none, and ``floor_from``.
    """

    widths: list[float]
    tracked: list[float]
    measures: dict[str, list[float]]
    others: dict[str, dict[str, float]]
    floors: dict[str, dict[str, Any]]

    def best(self, name: str) -> int:
        """Returns the index of the width with the smallest value of a measure."""
        return int(np.argmin(self.measures[name]))

    def summary(self) -> Metrics:
        """Returns the smallest value of each measure, and its ``width``, in the form of ``metrics.json``."""
        return {
            name: {
                "value": values[self.best(name)],
                "train": None,
                **self.floors[name],
                "width": self.widths[self.best(name)],
                **self.others[name],
            }
            for name, values in self.measures.items()
        }

    def in_words(self) -> str:
        """Returns a table of all values as lines of text."""
        names = list(self.measures)
        rows = [(f"{width:g}", [self.measures[name][i] for name in names]) for i, width in enumerate(self.widths)]
        rows += [(other, [self.others[name][other] for name in names]) for other in OTHERS]
        lines = [f"{'width':<12}" + "".join(f"{name:>15}" for name in names)]
        return "\n".join([*lines, *(f"{head:<12}" + "".join(f"{x:>15.5g}" for x in cells) for head, cells in rows)])


def averages_of(run: Steered) -> Averages:
    """Returns the averages of a run; raises UserError if it was trained without, or if its score is exact."""
    if run.model.network.exact:
        raise UserError("ema=sweep: the exact score has no weights: leave out network=oracle")
    return Averages(run.folder, checkpoints.read(run.folder, run.checkpoint))


def sweep(run: Steered, count: int, seed: int, batch_size: int) -> Sweep:
    """Measures a run with averages of several widths that its snapshots determine.

    Args:
        run: run that was trained with ``trainer.widths``.
        count: number of samples for each width, if samples are measured.
        seed: seed of the samples, which is the same for each width.
        batch_size: number of samples computed at once.
    """
    averages = averages_of(run)
    widths, saved, loss = averages.widths, averages.saved, _held_out(run)
    floors: dict[str, dict[str, Any]] = {}

    def values(model: Steered) -> dict[str, float]:
        found = _quality(model, count, seed, batch_size)
        floors.update({name: {key: one[key] for key in ("floor", "floor_from")} for name, one in found.items()})
        known = {name: float(entry["value"]) for name, entry in found.items()}
        if loss is not None and (mean := loss.loss(model.model)) is not None:
            known["held_out_loss"] = mean
            floors["held_out_loss"] = {"floor": None, "floor_from": "the best loss is not known"}
        return known

    with announced(f"measuring averages of {len(widths)} widths"):
        each = zip(widths, averages.each(widths), strict=True)
        swept = [values(run.weighing(state, "ema", width)) for width, state in each]
        others = (values(run.weighing(saved.ema, "ema")), values(run.weighing(saved.weights, "raw")))
    if not swept[0]:
        raise UserError(
            "ema=sweep: the run has no measure, because its data are unknown and none are held out: train with "
            "dataset.held_out=0.2"
        )
    found = {name: [one[name] for one in swept] for name in swept[0]}
    beside = {name: dict(zip(OTHERS, (one[name] for one in others), strict=True)) for name in found}
    return Sweep(widths, averages.tracked, found, beside, floors)


def _quality(run: Steered, count: int, seed: int, batch_size: int) -> Metrics:
    """Returns the error of the score if the exact one is known, else the first metric of samples; empty if unknown.

    A flow map is measured by its samples, because its sampler does not follow the score.
    """
    if not isinstance(run.model, ScoreModel):
        return {}
    found: Metrics = {}
    if run.units.kind == "vectors" and not needs_one(run) and not run.sampler.maps:
        found = measures.score_error(run, None)
    if not found:
        drawn = run.to_compare(count, seed=seed, batch_size=batch_size)
        found = measures.measure(run, drawn.x.cpu(), drawn.y, shares=drawn.truth is not None)
    return dict([*found.items()][:1])


def _held_out(run: Steered) -> HeldOut | None:
    """Returns the held-out loss of the training; None along another path than that of the training.

    The loss of a flow map is None, too, because it needs the run of the teacher.
    """
    config = run.config
    if config["sde"] != run.trained_along or run.model.network.times > 1:
        return None
    groups = ("objective", "weighting", "times", "trainer")
    check({group: config[group] for group in groups}, groups, {}, run.trust)
    objective, weighting, times = (construct(config, group, run.trust) for group in groups[:3])
    rows, condition = max(1, config["trainer"]["batch_size"]), run.model.network.condition
    return HeldOut(
        run.dataset, config["seed"], rows, objective, weighting, times, run.sde, condition, run.device, run.dtype
    )
