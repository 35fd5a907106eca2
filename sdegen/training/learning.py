r"""Held-out losses during a training, and the rule that says whether the training still learns.

The points, times and noises of the loss are the same in every evaluation, and few points have many times and noises
each. An evaluation is an *improvement* if its loss is below the loss of the last improvement by more than the noise,
with

.. math:: \text{noise}^2 = \text{error}^2 + (2.5\, \text{ripple})^2.

The *error* is the standard error of the mean difference between the two losses, over the times and noises of the same
points. If each point has a single time and noise, it is the error over the points. The *ripple* is the standard
deviation of the curve around a smooth line, from the second differences of the last :data:`WINDOW` evaluations: it
shows how much the weights themselves move.

The judgement applies to these points only. Twenty points may miss a region in which the model still improves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

EVALUATIONS = 20
"""Smallest number of evaluations in a run with at least as many steps. The largest number is twice as high."""
SURE = 2.5
"""Number of standard deviations of the ripple in the noise."""
WINDOW = 12
"""Number of the newest evaluations from which the ripple is computed."""
TAIL = 3
"""Number of the last evaluations whose smallest loss decides whether the loss rises."""
QUIET = 0.25
"""Share of the steps of a training without improvement after which the curve counts as flat."""
STRETCH = 500
"""Smallest number of steps without improvement after which a curve counts as flat: a quarter of a short training may be
too few steps for an improvement above the noise."""


class Trend(NamedTuple):
    """Judgement of a training.

    Attributes:
        name: "still falling", "flat", "overfitting" or "too short to say".
        since: step of the last improvement for "flat", step of the smallest loss for "overfitting"; 0 otherwise.
    """

    name: str
    since: int

    def __str__(self) -> str:
        if self.name in ("still falling", "too short to say"):
            return self.name
        noise = ", within the noise of the held-out points" if self.name == "flat" else ""
        return f"{self.name} since step {self.since}{noise}"


class Curve:
    """Held-out losses of a model at steps of its training.

    Args:
        steps: number of the last step, which fixes the number of steps from one evaluation to the next.

    Attributes:
        every: number of steps from one evaluation to the next, in a training to ``steps``.
    """

    def __init__(self, steps: int) -> None:
        self.every = max(1, steps // EVALUATIONS)
        self._steps: list[int] = []
        self._losses: list[float] = []
        self._errors: list[float] = []
        self._rows = torch.zeros(0)

    def interval(self, steps: int) -> int:
        """Returns the number of steps between evaluations in a training that was extended to ``steps``."""
        doublings = max(0, math.ceil(math.log2(max(1, steps) / (2 * EVALUATIONS * self.every))))
        return self.every * 2**doublings

    def add(self, step: int, losses: Tensor) -> float:
        """Records the losses at a step, after the earlier steps, and returns their mean.

        ``losses`` are those of the points, ``(N,)``, or of several times and noises of each point, ``(C, N)``.
        """
        rows = losses.float().cpu()
        change = (rows - self._rows.view_as(rows) if self._rows.shape == (rows.numel(),) else rows).double()
        self._steps.append(step)
        self._losses.append(float(rows.double().mean()))
        self._errors.append(standard_error(change.view(-1, change.shape[-1])))
        if improvements(self._losses, self._errors)[-1] == len(self._losses) - 1:
            self._rows = rows.flatten()
        return self._losses[-1]

    def idle(self, step: int) -> int:
        """Returns the number of steps since the last improvement; 0 without evaluations."""
        return step - self._steps[improvements(self._losses, self._errors)[-1]] if self._steps else 0

    def trend(self) -> Trend | None:
        """Returns the judgement of the training; None without evaluations.

        A training with few evaluations, or with fewer than :data:`STRETCH` steps without improvement before the end of
        a flat curve, is too short to say.
        """
        if not self._steps:
            return None
        short = Trend("too short to say", 0)
        found = trend(self._steps, self._losses, self._errors) if len(self._steps) > TAIL else short
        return short if found.name == "flat" and self._steps[-1] - found.since < STRETCH else found

    def resolution(self) -> dict[str, float]:
        """Returns the noise of the last loss, which hides smaller changes, and the fall of the loss since the start."""
        noise = math.hypot(self._errors[-1], SURE * ripple(self._losses))
        return {"noise": noise, "fall": self._losses[0] - min(self._losses)}

    def state(self) -> dict[str, Tensor]:
        """Returns the records for a checkpoint."""
        return {
            "every": torch.tensor(self.every),
            "steps": torch.tensor(self._steps, dtype=torch.int64),
            "losses": torch.tensor(self._losses, dtype=torch.float64),
            "errors": torch.tensor(self._errors, dtype=torch.float64),
            "rows": self._rows.clone(),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores the records of a checkpoint, after :func:`is_sound` has checked them."""
        self.every, self._rows = int(state["every"]), state["rows"]
        self._steps, self._losses, self._errors = (state[name].tolist() for name in ("steps", "losses", "errors"))


def is_sound(state: Mapping[str, Tensor], step: int) -> bool:
    """Returns True if :meth:`Curve.restore` accepts the content of a checkpoint at a step."""
    kinds = {"every": torch.int64, "steps": torch.int64, "losses": torch.float64, "errors": torch.float64}
    if state.keys() != {*kinds, "rows"} or any(state[name].dtype != kind for name, kind in kinds.items()):
        return False
    every, steps, rows = state["every"], state["steps"], state["rows"]
    fits = every.ndim == 0 and int(every) >= 1 and rows.ndim == 1 and rows.dtype == torch.float32
    fits = fits and steps.ndim == 1 and steps.shape == state["losses"].shape == state["errors"].shape
    return fits and bool((steps.diff() > 0).all()) and all(0 <= int(at) <= step for at in steps[[0, -1][: len(steps)]])


def standard_error(rows: Tensor) -> float:
    """Returns the standard error of the mean of ``rows``, ``(C, N)``: over C draws of each point, or N points."""
    variance = rows.var(0).mean() if len(rows) > 1 else rows.var(correction=0)
    return math.sqrt(float(variance) / rows.numel())


def improvements(losses: Sequence[float], errors: Sequence[float]) -> list[int]:
    """Returns the indices of the improvements: see the module. The first evaluation is the first improvement.

    Whether an evaluation is an improvement does not depend on later evaluations.

    Args:
        losses: loss of each evaluation.
        errors: standard error of its difference from the last improvement before it.
    """
    found = [0]
    for i in range(1, len(losses)):
        if losses[found[-1]] - losses[i] > math.hypot(errors[i], SURE * ripple(losses[: i + 1])):
            found.append(i)
    return found


def ripple(losses: Sequence[float]) -> float:
    """Returns the standard deviation of the newest losses around a smooth line; 0 for fewer than four losses.

    The median of the absolute second differences is not moved by a single jump.
    """
    newest = losses[-WINDOW:]
    if len(newest) < 4:
        return 0.0
    second = [abs(a - 2 * b + c) for a, b, c in zip(newest, newest[1:], newest[2:], strict=False)]
    # The second differences of independent noise have √6 times its deviation; 0.6745 is the median of |N(0, 1)|.
    return median(second) / (0.6745 * math.sqrt(6))


def trend(steps: Sequence[int], losses: Sequence[float], errors: Sequence[float]) -> Trend:
    """Returns the judgement of a curve with more than :data:`TAIL` evaluations.

    - *overfitting*: the last :data:`TAIL` losses are all above the last improvement by more than the noise.
    - *flat*: no improvement in the last :data:`QUIET` of the steps.
    - *still falling*: otherwise.
    """
    last = improvements(losses, errors)[-1]
    rise = min(losses[-TAIL:]) - losses[last]
    if last < len(losses) - TAIL and rise > math.hypot(max(errors[-TAIL:]), SURE * ripple(losses)):
        return Trend("overfitting", steps[min(range(len(losses)), key=losses.__getitem__)])
    if steps[-1] - steps[last] > QUIET * (steps[-1] - steps[0]):
        return Trend("flat", steps[last])
    return Trend("still falling", 0)
