"""Densities of a user's points beside the densities of points that the model has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import derive
from sdegen.flow.density import check_density
from sdegen.flow.divergence import Divergence
from sdegen.metrics.points import Metrics, unmeasured
from sdegen.metrics.typicality import RARE, Typicality, tail_shares
from sdegen.runs.given import Given
from sdegen.runs.measures import spread_over_cells
from sdegen.runs.steered import Steered
from sdegen.runs.trained import Trained
from sdegen.runs.unseen import Examples, unseen

NAMED = 3
"""Number of most unusual rows that the report names."""


class Comparison(NamedTuple):
    """Typicality of points, the log-densities ``(n,)`` of unseen points, and the kind of the unseen points."""

    typicality: Typicality
    unseen: Tensor
    kind: str


def check(trained: Trained) -> None:
    """Raises UserError if the run's data have no density or no unseen points."""
    if why := unmeasured(trained.dataset):
        raise UserError(f"points: {why}, so there are no unseen points to compare with: hold out a part of the data")
    check_density(trained.dataset)


def compare(
    run: Steered,
    given: Given,
    count: int,
    divergence: Divergence,
    seed: int,
    **settings: Any,  # noqa: ANN401
) -> Comparison:
    """Returns the typicality of points among at most ``count`` unseen points. ``settings`` are those of the flow."""
    check(run)
    found, densities = unseen(run.dataset, count, seed), []
    # With equal seeds, point i of both sets would have the same noise, so that the ranks would not be uniform.
    for (x, y, c, _), own in ((Examples(*given[:3], "given"), seed), (found, derive(seed, "unseen"))):
        spread, flow = spread_over_cells(run.dataset, x.double(), own), run.flow_of(y, c, **settings)
        densities.append(flow.log_prob(spread, divergence, own).log_p.cpu())
    log_p, other = densities
    return Comparison(Typicality(log_p, tail_shares(log_p, other)), other, found.kind)


def summary(found: Comparison) -> Metrics:
    """Returns the mean negative log-density and the share of unusual points, in the form of ``metrics.json``."""
    (log_p, shares), other, kind = found
    size = len(other) + 1
    expected = math.floor(RARE * size + 1e-9) / size
    metrics: Metrics = {
        "nll": {
            "value": -float(log_p.mean()),
            "floor": -float(other.mean()),
            "train": None,
            "floor_from": f"{kind} points",
        }
    }
    if expected:
        # With fewer points, no tail share is so small.
        metrics["unusual"] = {
            "value": float((shares <= RARE).double().mean()),
            "floor": expected,
            "train": None,
            "floor_from": f"expected of points like the {kind} points",
        }
    return metrics


def in_words(found: Comparison, columns: Mapping[str, Sequence[str]]) -> str:
    """Returns sentences about the unusual points, and the rows of the most unusual ones."""
    (log_p, shares), other, kind = found
    rare, least, n = int((shares <= RARE).sum()), 1 / (len(other) + 1), len(log_p)
    lines = [
        f"the tail share of a point is the share of {len(other)} {kind} points that are no denser",
        f"{rare} of {n} points have a tail share of {RARE:.0%} or less; at most {RARE:.0%} of points like the {kind} "
        f"points have",
    ]
    if least > RARE:
        lines.append(
            f"no tail share can be below {least:.2g}: with more {kind} points, smaller tail shares are possible"
        )
    lines.append("most unusual:")
    for i in log_p.argsort()[:NAMED].tolist():
        shown = ", ".join(f"{name} {values[i]}" for name, values in list(columns.items())[:6] if values[i])
        lines.append(f"  row {i + 1}: tail share {float(shares[i]):.2g}, log-density {float(log_p[i]):.4g} ({shown})")
    return "\n".join(lines)
