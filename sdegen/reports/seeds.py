"""Runs that differ in the seed alone: means and standard deviations, and which settings are as good as the best.

A setting ties with the best one if Welch's t-test, two-sided at :data:`LEVEL`, finds no difference of the means. The
test allows different variances and numbers of seeds. A setting with a single run has no error, so it never ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from sdegen.core.meanings import HIGH, LOW, good
from sdegen.reports.collection import FinishedRun, written

LEVEL = 0.05
"""Significance level of Welch's t-test."""
RULE = f"tie: not distinguishable from the best by Welch's t-test at {LEVEL:.0%}"


class Estimate(NamedTuple):
    """Mean of a metric over seeds.

    Attributes:
        mean: mean.
        deviation: standard deviation over the seeds, with n - 1 in its denominator; None for a single value.
        n: number of values.
        rank: ``best``, ``tie`` for a mean that is not distinguishable from the best one, or an empty text.
    """

    mean: float
    deviation: float | None
    n: int
    rank: Literal["", "best", "tie"] = ""

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.deviation is None else f"{self.mean:.4g} ± {self.deviation:.2g}"


class Group(NamedTuple):
    """Runs of one name and one data set that differ in the seed alone.

    Attributes:
        kind: name of the runs and of their data set: see :attr:`FinishedRun.kind`.
        choice: values of the options in which the groups differ.
        runs: the runs.
    """

    kind: tuple[str, str]
    choice: tuple[str, ...]
    runs: list[FinishedRun]

    def values(self, metric: str) -> list[float]:
        """Returns the values of a metric, of the runs that have it."""
        return [float(run.metrics[metric]["value"]) for run in self.runs if metric in run.metrics]

    def written(self, keys: Sequence[str]) -> str:
        """Returns the options in which the groups differ; ``keys`` are the options that :func:`groups` got."""
        compared = [key for key in keys if key != "seed"]
        return ", ".join(written(zip(compared, self.choice, strict=True)))


def groups(runs: Sequence[FinishedRun], keys: Sequence[str]) -> list[Group]:
    """Returns the groups of runs that have equal values of the options ``keys``, other than the seed."""
    compared = [key for key in keys if key != "seed"]
    found: dict[tuple[tuple[str, str], tuple[str, ...]], list[FinishedRun]] = {}
    for run in runs:
        choice = tuple(run.options.get(key, "–") for key in compared)
        found.setdefault((run.kind, choice), []).append(run)
    return [Group(*key, own) for key, own in found.items()]


def estimates(found: Sequence[Group], metric: str) -> list[Estimate | None]:
    """Returns the mean of a metric for each group, with the best groups of each kind marked; None without values."""
    result: list[Estimate | None] = [None] * len(found)
    for kind in dict.fromkeys(group.kind for group in found):
        measured = [i for i, group in enumerate(found) if group.kind == kind and group.values(metric)]
        ranked = ranks([found[i].values(metric) for i in measured], good(metric))
        for i, estimate in zip(measured, ranked, strict=True):
            result[i] = estimate
    return result


def ranks(samples: Sequence[Sequence[float]], direction: str) -> list[Estimate]:
    """Returns the mean of each sample, and marks the best mean and those that are not distinguishable from it.

    Args:
        samples: values of each setting.
        direction: :data:`~sdegen.core.meanings.LOW` or :data:`~sdegen.core.meanings.HIGH`; nothing is best otherwise.
    """
    found = [Estimate(fmean(own), stdev(own) if len(own) > 1 else None, len(own)) for own in samples]
    pick: Callable[..., Estimate] | None = {LOW: min, HIGH: max}.get(direction)
    if len(found) < 2 or pick is None:
        return found
    best = pick(found, key=lambda estimate: estimate.mean)
    return [one._replace(rank="best" if one.mean == best.mean else "tie" if _ties(one, best) else "") for one in found]


def _ties(one: Estimate, best: Estimate) -> bool:
    """Returns True if Welch's t-test does not distinguish two means."""
    if one.deviation is None or best.deviation is None:
        return False
    # Each entry is the squared standard error of a mean, with its degrees of freedom.
    errors = [(estimate.deviation**2 / estimate.n, estimate.n - 1) for estimate in (one, best) if estimate.deviation]
    if not errors:
        return False
    from scipy.special import stdtr

    variance = sum(error for error, _ in errors)
    freedom = variance**2 / sum(error**2 / degrees for error, degrees in errors)
    return bool(2 * stdtr(freedom, -abs(one.mean - best.mean) / math.sqrt(variance)) >= LEVEL)


def lines(names: Sequence[str], found: Sequence[Estimate], metric: str) -> list[str]:
    """Returns a table as lines of text: a line for each name with its mean of a metric and its rank."""
    several = any(estimate.n > 1 for estimate in found)
    over = ", mean ± standard deviation over seeds" if several else ""
    tied = f"; {RULE}" if any(estimate.rank == "tie" for estimate in found) else ""
    width, wide = max(map(len, names)), max(len(str(estimate)) for estimate in found)
    rows = [
        f"  {name:{width}}  {f'n={one.n}  ' if several else ''}{one!s:{wide}}  {one.rank}".rstrip()
        for name, one in zip(names, found, strict=True)
    ]
    return [f"{metric}{over}{tied}", *rows]
