"""Samplers, and the parts of a sampler on a time grid: predictors and correctors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.samplers.grids import Grid
from sdegen.sde.base import SDE, LinearSDE, ReverseSDE, S, Score, most_special
from sdegen.sde.scores import Counted

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

    :meth:`plan` computes, once, all numbers that depend only on the process and the grid. A step then costs little
    more than its evaluations of the score.

    Attributes:
        process: the type of process that it works with.
        eta: the member of the family of reverse processes that it discretises (see :class:`ReverseSDE`).
        order: its order of convergence on smooth problems; for eta > 0, the weak order.
        grid: the grid on which it has this order.
        evaluations: number of evaluations of the score in a step.
        memory: number of steps that it uses, the present one included; a grid must have at least as many.
        revises: True if each step corrects the previous one, which would undo the moves of a corrector.
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

        A size may depend on the previous time, at which the predictor's step began.
        """

    @abstractmethod
    def __call__(self, score: Score, x: Tensor, t: Tensor, size: float, noise: RandnLike) -> Moved:
        """Moves ``x`` ``(B, *)`` at the time ``t`` ``()``; the move leaves p_t unchanged, at least approximately."""


class Samples(NamedTuple):
    """Result of a sampler.

    Attributes:
        x: the samples, ``(B, *)``.
        nfe: evaluations of the score per sample, counted at each call of the score; the mean if samples differ.
        path: ``frames`` states on the way from T to eps, ``(F, B, *)``.
        times: their times, ``(F,)``.
        acceptance: the share of accepted moves of a corrector with a Metropolis test; None without one.
    """

    x: Tensor
    nfe: float
    path: Tensor
    times: Tensor
    acceptance: float | None = None


class Walk(NamedTuple):
    """State at eps ``(B, *)``, the path to it ``(F, B, *)``, its times ``(F,)``, and the share of accepted moves."""

    x: Tensor
    path: Tensor
    times: Tensor
    acceptance: float | None = None


class Sampler(ABC):
    """A map from draws of the prior at T to samples at eps.

    Args:
        denoise: end with Tweedie's formula, the mean of x(0) given the sample at eps: (x + σ² s) / α. It costs one
            evaluation, and shrinks samples too much if the grid is too coarse for the smallest noise.

    Attributes:
        processes: for each part, by the name of its option: the type of process that the part works with.
        predictor: the scheme of the steps, if there is one.
        evaluations: number of evaluations of the score for a sample; None if it depends on the sample.
        couples: True if the samples of a batch depend on each other.
        smallest_batch: smallest batch size at which guided samples have an accurate distribution.
    """

    processes: dict[str, type[SDE]]
    couples = False
    smallest_batch = 1
    predictor: Predictor | None = None
    evaluations: int | None = None

    def __init__(self, denoise: bool = False) -> None:
        self.denoise = denoise
        self.processes = {"denoise": LinearSDE if denoise else SDE}

    @property
    def process(self) -> type[SDE]:
        """The type of process that all parts work with."""
        return most_special(*self.processes.values())

    def __call__(self, sde: SDE, score: Score, x: Tensor, *, noise: RandnLike, frames: int = 0) -> Samples:
        """Returns samples from the draws ``x`` of the prior.

        Args:
            sde: the forward process.
            score: ``(x, t) -> ∇ log p_t(x)``.
            x: draws of the prior, ``(B, *)``.
            noise: draws standard normal numbers of the shape of ``x``.
            frames: number of states of the path to keep, T and eps included; at most as many as the sampler has.
        """
        counted = Counted(score)
        walk = self._integrate(sde, counted, x, noise, frames)
        final = _tweedie(sde, counted, walk.x) if self.denoise else walk.x
        return Samples(final, counted.rows / max(len(x), 1), walk.path, walk.times, walk.acceptance)

    @abstractmethod
    def _integrate(self, sde: Any, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # noqa: ANN401
        """Moves ``x`` from T to eps; ``sde`` is an instance of :attr:`process`."""


def _tweedie(sde: Any, score: Score, x: Tensor) -> Tensor:  # noqa: ANN401 - linear, as the sampler requires
    """Returns the mean of x(0) given x(eps)."""
    t = torch.tensor(sde.eps, dtype=torch.float64)
    sigma, alpha = expand(sde.sigma(t), x), expand(sde.alpha(t), x)
    return (x + sigma**2 * score(x, t)) / alpha
