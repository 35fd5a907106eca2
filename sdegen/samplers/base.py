"""Base classes of samplers, predictors and correctors."""

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
"""Tensors that a multistep scheme passes from one step to the next; empty before the first step."""


class Step(Protocol):
    """One step of a plan, from a time t to a time s < t. The step holds all numbers that do not depend on the state."""

    def __call__(self, reverse: ReverseSDE, x: Tensor, noise: RandnLike, memory: Memory) -> tuple[Tensor, Memory]:
        """Returns the state at s, ``(B, *)``, and the memory for the next step.

        Args:
            reverse: reverse process.
            x: state at t, ``(B, *)``.
            noise: function that draws standard normal numbers in the shape of a given tensor.
            memory: memory that the previous step returned.
        """


class Predictor(ABC, Generic[S]):
    """Scheme that integrates the reverse process along a time grid.

    :meth:`plan` computes once all numbers that depend only on the process and the grid. A step then costs little more
    than the evaluations of the score.

    Attributes:
        process: type of process that the scheme works with.
        eta: amount of noise η of the reverse process that the scheme discretises (see :class:`ReverseSDE`).
        order: order of convergence on smooth problems; the weak order if eta > 0.
        grid: time grid on which the scheme has this order.
        evaluations: number of evaluations of the score in each step.
        memory: number of steps from which a step uses values, the present step included. A grid must have at least this
            number of steps.
        revises: True if each step corrects the previous step. This would undo the moves of a corrector.
        fits: True if the steps can be fitted to a score: see :mod:`sdegen.samplers.fitting`.
    """

    process: type[SDE] = SDE
    eta: float = 1.0
    order: int = 1
    grid: Grid = "uniform"
    evaluations: int = 1
    memory: int = 1
    revises: bool = False
    fits: bool = False

    @abstractmethod
    def plan(self, sde: S, times: Tensor) -> Sequence[Step]:
        """Returns the steps along the grid ``times``, ``(N + 1,)`` float64."""


class Moved(NamedTuple):
    """State ``x`` ``(B, *)`` after a corrector, and the share of accepted moves ``()``, or None without a test."""

    x: Tensor
    acceptance: Tensor | None = None


class Corrector(ABC, Generic[S]):
    """Markov chain that moves x at each new time t of a grid and leaves p_t unchanged, at least approximately.

    Attributes:
        process: type of process that the chain works with.
        evaluations: number of evaluations of the score at each time.
    """

    process: type[SDE] = SDE
    evaluations: int

    @abstractmethod
    def sizes(self, sde: S, times: Tensor) -> Tensor:
        """Returns the step sizes ``(N,)`` float64 at all ``times`` ``(N + 1,)`` of a grid except the first.

        A step size may depend on the previous time, at which the step of the predictor began.
        """

    @abstractmethod
    def __call__(self, score: Score, x: Tensor, t: Tensor, size: float, noise: RandnLike) -> Moved:
        """Moves the state ``x`` ``(B, *)`` at the time ``t`` ``()`` with the step size ``size``."""


class Samples(NamedTuple):
    """Result of a sampler.

    Attributes:
        x: samples, ``(B, *)``.
        nfe: number of evaluations of the score per sample, counted at each call of the score; the mean if the samples
            differ in this number.
        path: states at F times from T to eps, ``(F, B, *)``.
        times: times of the states in ``path``, ``(F,)``.
        acceptance: share of accepted moves of a corrector with a Metropolis test; None without a Metropolis test.
    """

    x: Tensor
    nfe: float
    path: Tensor
    times: Tensor
    acceptance: float | None = None


class Walk(NamedTuple):
    """State ``x`` ``(B, *)`` at eps, ``path`` ``(F, B, *)`` at ``times`` ``(F,)``, and the share of accepted moves."""

    x: Tensor
    path: Tensor
    times: Tensor
    acceptance: float | None = None


class Sampler(ABC):
    """Map from draws of the prior at T to samples at eps.

    Args:
        denoise: true for a last step that replaces x(eps) by the mean of x(0) given x(eps), which is (x + σ² s) / α by
            Tweedie's formula. The step costs one evaluation. It shrinks the samples too much if the grid is too coarse
            for the smallest noise.

    Attributes:
        processes: types of process that the parts work with, by the names of the options of the parts.
        predictor: scheme of the steps; None if the sampler has no predictor.
        grid: time grid of the steps; None if the sampler chooses its own steps.
        evaluations: number of evaluations of the score for each sample; None if this number depends on the sample.
        couples: True if the samples of a batch depend on each other.
        smallest_batch: smallest batch size at which guided samples have an accurate distribution.
        maps: True if the sampler evaluates a flow map in place of a score.
    """

    processes: dict[str, type[SDE]]
    couples = False
    smallest_batch = 1
    maps = False
    predictor: Predictor | None = None
    grid: Grid | None = None
    evaluations: int | None = None

    def __init__(self, denoise: bool = False) -> None:
        self.denoise = denoise
        self.processes = {"denoise": LinearSDE if denoise else SDE}

    @property
    def process(self) -> type[SDE]:
        """The type of process that all parts work with."""
        return most_special(*self.processes.values())

    def __call__(self, sde: SDE, score: Score, x: Tensor, *, noise: RandnLike, frames: int = 0) -> Samples:
        """Returns the samples at eps that start from the draws ``x`` of the prior at T.

        Args:
            sde: forward process.
            score: function ``(x, t) -> ∇ log p_t(x)``.
            x: draws of the prior, ``(B, *)``.
            noise: function that draws standard normal numbers in the shape of ``x``.
            frames: number of states of the path to keep, T and eps included. A sampler on a grid keeps at most one
                state for each time of the grid.
        """
        counted = Counted(score)
        walk = self._integrate(sde, counted, x, noise, frames)
        final = _tweedie(sde, counted, walk.x) if self.denoise else walk.x
        return Samples(final, counted.rows / max(len(x), 1), walk.path, walk.times, walk.acceptance)

    def evaluated(self, sde: SDE) -> Tensor | None:
        """Returns the times at which the score is evaluated, ``(N,)`` float64; None if they depend on the score."""
        if self.evaluations is None:
            return None
        times: list[Tensor] = []

        def score(x: Tensor, t: Tensor) -> Tensor:
            times.append(t.double().reshape(()))
            return -x

        self(sde, score, torch.zeros(1, 1, dtype=torch.float64), noise=torch.zeros_like)
        return torch.stack(times)

    @abstractmethod
    def _integrate(self, sde: Any, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # noqa: ANN401
        """Moves ``x`` from T to eps; ``sde`` is an instance of :attr:`process`."""


def _tweedie(sde: Any, score: Score, x: Tensor) -> Tensor:  # noqa: ANN401 - the sampler requires a LinearSDE
    """Returns the mean of x(0) given x(eps) = ``x``."""
    t = torch.tensor(sde.eps, dtype=torch.float64)
    sigma, alpha = expand(sde.sigma(t), x), expand(sde.alpha(t), x)
    return (x + sigma**2 * score(x, t)) / alpha
