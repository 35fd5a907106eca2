"""Measurement of samplers at equal numbers of score evaluations. Each sampler has its best setting."""

from __future__ import annotations

import functools
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from arena.problem import Problem
from sdegen.sde import LinearSDE
from sdegen.sde.base import Score
from sdegen.sde.scores import Counted

TOLERANCES = [10 ** (-k / 4) for k in range(-2, 25)]
"""Tolerances that are tried for a sampler that chooses its own steps."""

FINALISTS = 2
"""Number of settings of a sampler that are measured on all samples."""

Row = dict[str, Any]
Run = Callable[[LinearSDE, Score, Tensor, int, int], Tensor]
"""Function ``(sde, score, x, steps, seed) -> samples``. Draws ``x`` of the prior and samples are ``(B, *)``."""


class Contestant(NamedTuple):
    """A sampler with one setting.

    Attributes:
        name: name of the library and of the sampler.
        setting: time grid or tolerance.
        run: function that draws samples, see :data:`Run`; an adaptive sampler ignores the number of steps.
        adaptive: True if the sampler chooses its own steps.
        alone: True if the sampler must have each target apart, because it is fitted to the score.
    """

    name: str
    setting: str
    run: Run
    adaptive: bool = False
    alone: bool = False


class Measured(NamedTuple):
    """Mean distance over problems, and the largest number of evaluations per sample on any problem."""

    value: float
    nfe: float


def once(contestant: Contestant, problem: Problem, steps: int) -> Measured:
    """Returns the mean distance over the targets; infinity if a sample is not finite."""
    ends, nfe = walk(contestant, problem, steps)
    if not bool(ends.isfinite().all()):
        return Measured(math.inf, nfe)
    return Measured(statistics.mean(distance(x) for distance, x in zip(problem.distances, ends, strict=True)), nfe)


def walk(contestant: Contestant, problem: Problem, steps: int) -> tuple[Tensor, float]:
    """Returns samples ``(K, B, *)`` and the number of evaluations for each sample."""
    score, x = Counted(problem.score), problem.x.flatten(0, 1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = contestant.run(problem.sde, score, x, steps, 0).reshape(problem.x.shape)
    return ends, score.rows / len(x)


def fitting(contestant: Contestant, problem: Problem, budget: int) -> int:
    """Returns the largest number of steps within ``budget`` evaluations; 0 if even one step needs more."""
    few = problem.head(4)
    if contestant.adaptive:
        return int(walk(contestant, few, 1)[1] <= budget)
    steps = budget
    while steps and (count := walk(contestant, few, steps)[1]) > budget:
        steps = min(steps - 1, int(steps * budget / count))
    while 0 < steps < budget and 0 < walk(contestant, few, steps + 1)[1] <= budget:
        steps += 1
    return steps


class Race:
    """Measurement of samplers on the problems of one family, with a cache of results.

    Args:
        problems: problems over which distances are averaged.
        search: number of samples on which the settings of a sampler are compared.
    """

    def __init__(self, problems: Sequence[Problem], search: int) -> None:
        heads = [problem.head(search) for problem in problems]

        def measured(contestant: Contestant, steps: int, head: bool) -> Measured:
            results = [once(contestant, problem, steps) for problem in (heads if head else problems)]
            return Measured(statistics.mean(r.value for r in results), max(r.nfe for r in results))

        self._measured = functools.cache(measured)
        self._fitting = functools.cache(lambda contestant, budget: fitting(contestant, problems[0], budget))

    def rows(self, contestants: Sequence[Contestant], budgets: Sequence[int]) -> Iterator[Row]:
        """Yields a row for each sampler: its results with the best setting for each number of evaluations."""
        for name in dict.fromkeys(contestant.name for contestant in contestants):
            own = [contestant for contestant in contestants if contestant.name == name]
            results = {budget: self.best(own, budget) for budget in budgets}
            yield {"name": name, "at": {str(b): result for b, result in results.items() if result["value"] < math.inf}}

    def best(self, own: Sequence[Contestant], budget: int) -> dict[str, Any]:
        """Returns the result of a sampler with its best setting, among the :data:`FINALISTS` of the first samples."""
        finalists = list(own)
        if len(own) > FINALISTS:
            tried = [self.measure(contestant, budget, head=True).value for contestant in own]
            order = sorted(range(len(own)), key=tried.__getitem__)[:FINALISTS]
            finalists = [own[i] for i in order if tried[i] < math.inf]
        final = [(self.measure(contestant, budget), contestant.setting) for contestant in finalists]
        (value, nfe), setting = min(final, default=(Measured(math.inf, 0), ""))
        return {"value": value, "nfe": nfe, "setting": setting}

    def measure(self, contestant: Contestant, budget: int, head: bool = False) -> Measured:
        """Returns the mean over problems with the most steps that ``budget`` allows; infinity if it allows no step."""
        steps = self._fitting(contestant, budget)
        if not steps:
            return Measured(math.inf, 0)
        result = self._measured(contestant, steps, head)
        return result if result.nfe <= budget else Measured(math.inf, result.nfe)
