"""The parts of a sampler that walks along a time grid: predictors and correctors."""

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
            noise: standard normal draws like its argument.
            memory: what the step before returned.
        """


class Predictor(ABC, Generic[S]):
    """A scheme for the reverse process.

    All that depends on the process and the grid alone is worked out once, by :meth:`plan`, as plain numbers. A step
    then costs little more than its evaluations of the score.

    Attributes:
        process: the type of process that it works with.
        eta: which member of the family of reverse processes it discretises (see :class:`ReverseSDE`).
        order: its order of convergence on smooth problems: of the solution for eta = 0, else the weak order.
        grid: the grid on which it has this order.
        evaluations: of the score, in a step.
        memory: the number of steps it uses, the present one included; a grid must have at least as many.
        revises: True if the next step corrects the last one, which would undo a corrector's move.
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
        evaluations: of the score, at each time.
    """

    process: type[SDE] = SDE
    evaluations: int

    @abstractmethod
    def sizes(self, sde: S, times: Tensor) -> Tensor:
        """Returns the step size at each time of a grid but the first: ``(N + 1,)`` to ``(N,)`` float64.

        The time before it is where the predictor came from.
        """

    @abstractmethod
    def __call__(self, score: Score, x: Tensor, t: Tensor, size: float, noise: RandnLike) -> Moved:
        """Moves ``x`` ``(B, *)`` at the time ``t`` ``()`` with a step size, leaving p_t as it is, or nearly."""


def columns(*tensors: Tensor) -> list[tuple[float, ...]]:
    """Returns the entries of tensors ``(N,)`` side by side, as plain numbers: these cost a step no kernel."""
    return list(zip(*(tensor.tolist() for tensor in tensors), strict=True))
