"""The parts of a sampler on a time grid: predictors and correctors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol

from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.samplers.grids import Grid
from sdegen.sde.base import SDE, ReverseSDE, S, Score

Memory = tuple[Tensor, ...]
"""Tensors that a multistep scheme keeps from one step for the next; empty before the first."""


class Step(Protocol):
    """One step of a plan, from a time t to s < t, with all numbers that do not depend on the state."""

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        """Returns the state at s, and the memory for the next step.

        Args:
            reverse: the reverse process.
            x: the state at t, ``(B, *)``.
            noise: draws standard normal numbers in the shape of its argument.
            memory: the memory that the previous step returned.
        """


class Predictor(ABC, Generic[S]):
    """A scheme for the reverse process.

    All numbers that depend only on the process and the grid are computed once, by :meth:`plan`. A step then costs
    little more than its evaluations of the score.

    Attributes:
        process: the type of process that it works with.
        eta: the member of the family of reverse processes that it discretises (see :class:`ReverseSDE`).
        order: its order of convergence on smooth problems; for eta > 0, the weak order.
        grid: the grid on which it has this order.
        evaluations: number of evaluations of the score in a step.
        memory: number of steps that it uses, the present one included; a grid must have at least as many.
        revises: True if each step corrects the one before, which would undo the moves of a corrector.
    """

    process: type[SDE] = SDE
    eta: float = 1.0
    order: int = 1
    grid: Grid = "uniform"
    evaluations: int = 1
    memory: int = 1
    revises: bool = False

    @abstractmethod
    def plan(self, sde: S, times: Tensor) -> Sequence[Step]:
        """Returns the steps along the grid ``times``, ``(N + 1,)`` float64."""


class Moved(NamedTuple):
    """The state after a corrector ``(B, *)``, and the accepted share of its moves, ``()``, or None."""

    x: Tensor
    acceptance: Tensor | None = None


class Corrector(ABC, Generic[S]):
    """A Markov chain that moves x within the marginal p_t, at every new time.

    Attributes:
        process: the type of process that it works with.
        evaluations: number of evaluations of the score at each time.
    """

    process: type[SDE] = SDE
    evaluations: int

    @abstractmethod
    def sizes(self, sde: S, times: Tensor) -> Tensor:
        """Returns the step size at each time of a grid but the first: ``(N + 1,)`` to ``(N,)`` float64.

        A size may depend on the time before, from which the predictor came.
        """

    @abstractmethod
    def __call__(self, score: Score, x: Tensor, t: Tensor, size: float, noise: RandnLike) -> Moved:
        """Moves ``x`` ``(B, *)`` at the time ``t`` ``()`` with a step size, so that p_t is unchanged or nearly so."""


def columns(*tensors: Tensor) -> list[tuple[float, ...]]:
    """Returns the entries of tensors ``(N,)`` side by side as plain numbers, which need no kernel in a step."""
    return list(zip(*(tensor.tolist() for tensor in tensors), strict=True))
