"""How samplers are measured: at equal numbers of score evaluations, each with its best setting."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arena.problem import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from sdegen.sde import LinearSDE
    from sdegen.sde.base import Score

TOLERANCES = [10 ** (-k / 4) for k in range(-2, 25)]
"""The settings of a sampler that chooses its own steps."""

FINALISTS = 2
"""How many settings of a sampler are measured on all samples."""

Row = dict[str, Any]
Run = Callable[["LinearSDE", "Score", "Tensor", int, int], "Tensor"]
"""``(sde, score, x, steps, seed) -> ends``: draws of the prior to samples, both ``(B, d)``."""


class Contestant(NamedTuple):
    """A sampler with one setting.

    Attributes:
        name: library and sampler.
        setting: the time grid, or the tolerance.
        run: see :data:`Run`; an adaptive sampler ignores the number of steps.
        adaptive: whether it chooses its own steps.
    """

    name: str
    setting: str
    run: Run
    adaptive: bool = False


class Measured(NamedTuple):
    """A distance, as a mean over problems, and the most evaluations of the score per sample on any of them."""

    value: float
    nfe: float


def once(contestant: Contestant, problem: Problem, steps: int) -> Measured:
    """The mean distance over the targets; infinite where a sample is no number."""
    ends, nfe = walk(contestant, problem, steps)
    if not bool(ends.isfinite().all()):
        return Measured(math.inf, nfe)
    return Measured(statistics.mean(distance(x) for distance, x in zip(problem.distances, ends, strict=True)), nfe)


def walk(contestant: Contestant, problem: Problem, steps: int) -> tuple[Tensor, float]:
    """The samples ``(K, B, d)`` and the evaluations each took."""
    import torch

    from sdegen.sde.scores import Counted

    score, x = Counted(problem.score), problem.x.flatten(0, 1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends = contestant.run(problem.sde, score, x, steps, 0).reshape(problem.x.shape)
    return ends, score.rows / len(x)


def fitting(contestant: Contestant, problem: Problem, budget: int) -> int:
    """The largest number of steps of one that is not adaptive within ``budget`` evaluations, 0 for none."""
    few = problem.head(4)
    steps = budget
    while steps and (count := walk(contestant, few, steps)[1]) > budget:
        steps = min(steps - 1, int(steps * budget / count))
    while 0 < steps < budget and 0 < walk(contestant, few, steps + 1)[1] <= budget:
        steps += 1
    return steps


class Race:
    """Samplers on the problems of one family; what has been measured is not measured again.

    Args:
        problems: the problems over which distances are averaged.
        search: the samples on which the settings of a sampler are compared.
    """

    def __init__(self, problems: Sequence[Problem], search: int) -> None:
        self.problems = problems
        self.heads = [problem.head(search) for problem in problems]
        self._steps: dict[tuple[Contestant, int], int] = {}
        self._counts: dict[Contestant, float] = {}
        self._results: dict[tuple[Contestant, int, bool], Measured] = {}

    def rows(self, contestants: Sequence[Contestant], budgets: Sequence[int]) -> Iterator[Row]:
        """A row for each sampler: its results with the best setting at each number of evaluations that it can do."""
        for name in dict.fromkeys(contestant.name for contestant in contestants):
            own = [contestant for contestant in contestants if contestant.name == name]
            results = {budget: self.best(own, budget) for budget in budgets}
            yield {"name": name, "at": {str(b): result for b, result in results.items() if result["value"] < math.inf}}

    def best(self, own: Sequence[Contestant], budget: int) -> dict[str, Any]:
        """The best setting of a sampler: the best of the finalists, which do best on the first samples."""
        finalists = list(own)
        if len(own) > FINALISTS:
            tried = [self.measure(contestant, budget, head=True).value for contestant in own]
            order = sorted(range(len(own)), key=tried.__getitem__)[:FINALISTS]
            finalists = [own[i] for i in order if tried[i] < math.inf]
        final = [(self.measure(contestant, budget), contestant.setting) for contestant in finalists]
        (value, nfe), setting = min(final, default=(Measured(math.inf, 0), ""))
        return {"value": value, "nfe": nfe, "setting": setting}

    def measure(self, contestant: Contestant, budget: int, head: bool = False) -> Measured:
        """The mean over problems at as many steps as ``budget`` evaluations allow, infinite where none fits."""
        steps = self._fitting(contestant, budget)
        if not steps:
            return Measured(math.inf, 0)
        if (contestant, steps, head) not in self._results:
            problems = self.heads if head else self.problems
            results = [once(contestant, problem, steps) for problem in problems]
            value, nfe = statistics.mean(r.value for r in results), max(r.nfe for r in results)
            self._results[contestant, steps, head] = Measured(value, nfe)
        result = self._results[contestant, steps, head]
        return result if result.nfe <= budget else Measured(math.inf, result.nfe)

    def _fitting(self, contestant: Contestant, budget: int) -> int:
        if contestant.adaptive:
            if contestant not in self._counts:
                self._counts[contestant] = walk(contestant, self.problems[0].head(4), 1)[1]
            return int(self._counts[contestant] <= budget)
        if (contestant, budget) not in self._steps:
            self._steps[contestant, budget] = fitting(contestant, self.problems[0], budget)
        return self._steps[contestant, budget]
