"""What a sampler is, and the one loop over a time grid that all step samplers share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.samplers.grids import GRIDS, Grid
from sdegen.sde.base import SDE, ReverseSDE, S, Score
from sdegen.sde.scores import Counted


class Samples(NamedTuple):
    """What a sampler returns.

    Attributes:
        x: the samples, ``(B, *)``.
        nfe: evaluations of the score per sample, counted at the score; a mean where samples differ.
        path: ``frames`` states on the way from T to eps, ``(F, B, *)``.
        times: their times, ``(F,)``.
        acceptance: the share of accepted moves of a corrector with a Metropolis test; None where there is none.
    """

    x: Tensor
    nfe: float
    path: Tensor
    times: Tensor
    acceptance: float | None = None


class Walk(NamedTuple):
    """Where a sampler arrived: the state at eps ``(B, *)``, the path ``(F, B, *)``, its times ``(F,)``, acceptance."""

    x: Tensor
    path: Tensor
    times: Tensor
    acceptance: float | None = None


class Sampler(ABC):
    """Carries draws of the prior at T to samples at eps.

    Args:
        denoise: end with Tweedie's formula, the mean of x(0) given the sample at eps: (x + σ² s) / α. It costs one
            evaluation, and over-shrinks where the grid is too coarse for the smallest noise.

    Attributes:
        kernel: empty where any SDE will do; else the words of what to use in its place where the SDE has no
            closed-form kernel.
        predictor: the scheme of its steps, where it has one.
        evaluations: of the score for a sample; None where that depends on the sample.
        couples: whether the samples of a batch depend on each other.
        enough: samples of a batch below which their law is a poor one under guidance.
    """

    kernel = ""
    couples = False
    enough = 1
    predictor: Predictor | None = None
    evaluations: int | None = None

    def __init__(self, denoise: bool = False) -> None:
        self.denoise = denoise
        if denoise:
            self.kernel = "use sampler.denoise=false"

    def __call__(self, sde: SDE, score: Score, x: Tensor, *, noise: RandnLike, frames: int = 0) -> Samples:
        """Samples from the draws ``x`` of the prior.

        Args:
            sde: the forward process.
            score: ``(x, t) -> ∇ log p_t(x)``.
            x: draws of the prior, ``(B, *)``.
            noise: standard normal draws of the shape of ``x``, a new one at each call.
            frames: how many states of the path to keep, T and eps among them; no more than the sampler passes.
        """
        counted = Counted(score)
        walk = self._integrate(sde, counted, x, noise, frames)
        final = tweedie(sde, counted, walk.x) if self.denoise else walk.x
        return Samples(final, counted.rows / max(len(x), 1), walk.path, walk.times, walk.acceptance)

    @abstractmethod
    def _integrate(self, sde: Any, score: Score, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # noqa: ANN401
        """From ``x`` at T to eps; ``sde`` is linear wherever ``kernel`` says that it must be."""


def tweedie(sde: Any, score: Score, x: Tensor) -> Tensor:  # noqa: ANN401 - linear, as the sampler's kernel says
    """The mean of x(0) given x(eps): ``(B, *)`` to ``(B, *)``."""
    t = torch.tensor(sde.eps, dtype=torch.float64)
    sigma, alpha = expand(sde.sigma(t), x), expand(sde.alpha(t), x)
    return (x + sigma**2 * score(x, t)) / alpha


Row = Any
"""What a step needs to know of the process and the grid: a part's own matter."""
State = Any
"""What a scheme remembers between steps: its own matter, None before the first."""


class Predictor(ABC, Generic[S]):
    """One step of a scheme for the reverse process, from t to s < t.

    All that depends on the process and the grid alone is worked out once, by :meth:`plan`, as plain numbers; a step
    is then little more than its evaluations of the score.

    Attributes:
        eta: which member of the family of reverse processes it discretises (see :class:`ReverseSDE`).
        order: its order of convergence on smooth problems, for eta = 0 that of the solution and else the weak one.
        grid: the grid on which it has this order.
        evaluations: of the score, in a step.
        memory: how many steps it uses, the present one among them; no grid may have fewer.
        revises: whether it goes back over a step in the next, which would undo a corrector's move.
        kernel: see :class:`Sampler`.
    """

    eta: float = 1.0
    order: int = 1
    grid: Grid = "uniform"
    evaluations: int = 1
    memory: int = 1
    revises: bool = False
    kernel: str = ""

    @abstractmethod
    def plan(self, sde: S, times: Tensor) -> Sequence[Row]:
        """For each step of the grid ``times`` ``(N + 1,)``, what :meth:`step` needs to know of it."""

    @abstractmethod
    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, row: Row, state: State, noise: RandnLike
    ) -> tuple[Tensor, State]:
        """The state at s, and what the scheme remembers for its next step.

        Args:
            reverse: the reverse process.
            x: the state at t, ``(B, *)``.
            t: the time, ``()``.
            row: of the plan, for this step.
            state: what the last step remembered; None at the first.
            noise: standard normal draws like its argument.
        """


class Moved(NamedTuple):
    """What a corrector returns: the new state ``(B, *)``, and the accepted share of its moves, ``()``, or None."""

    x: Tensor
    acceptance: Tensor | None = None


class Corrector(ABC, Generic[S]):
    """Moves x within the marginal p_t, at every new time.

    Attributes:
        evaluations: of the score, at each time.
        kernel: see :class:`Sampler`.
    """

    evaluations: int
    kernel: str = ""

    @abstractmethod
    def plan(self, sde: S, times: Tensor) -> Sequence[Row]:
        """For each time of the grid ``times`` ``(N + 1,)`` but the first, what a move at it needs to know.

        The time before it is where the predictor came from.
        """

    @abstractmethod
    def __call__(self, score: Score, x: Tensor, t: Tensor, row: Row, noise: RandnLike) -> Moved:
        """``(B, *)`` to ``(B, *)``, leaving p_t as it is, or nearly; ``t`` is ``()``."""


class StepSampler(Sampler):
    """A predictor walked along a time grid, with an optional corrector at every new time.

    Args:
        predictor: the scheme of one step; None leaves the moving to the corrector.
        corrector: run at each new time; None for none.
        steps: number of steps, at least 1; ``auto`` in a configuration is that from a chain's last level to its first.
        grid: how the times are spread: see :mod:`sdegen.samplers.grids`.
        denoise: see :class:`Sampler`.
    """

    def __init__(
        self,
        predictor: Predictor | None,
        corrector: Corrector | None = None,
        steps: int | Literal["auto"] = 1000,
        grid: Literal["uniform", "quadratic", "log_snr", "karras", "logistic"] = "uniform",
        denoise: bool = False,
    ) -> None:
        super().__init__(denoise)
        if predictor is None and corrector is None:
            raise ValueError("predictor=null and corrector=null leave nothing that moves the samples: choose one")
        if steps == "auto":
            raise ValueError("steps=auto is that of a chain such as sde=ddpm, and there is none here: give a number")
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        if predictor is not None and predictor.memory > steps:
            raise ValueError(
                f"steps={steps} is below the {predictor.memory} that this predictor.order needs: take more steps"
            )
        if predictor is not None and predictor.revises and corrector is not None:
            raise ValueError(
                "corrector cannot follow this predictor, which goes back over its steps and would undo its moves: "
                "use sampler/predictor=dpm_solver or stochastic_adams"
            )
        self.predictor, self.corrector, self.steps, self.grid = predictor, corrector, steps, grid
        parts = [part for part in (predictor, corrector) if part is not None]
        self.kernel = next(filter(None, [*(part.kernel for part in parts), GRIDS[grid].kernel, self.kernel]), "")
        self.evaluations = steps * sum(part.evaluations for part in parts) + denoise
        if predictor is None and corrector is not None:
            # With nothing else to move the samples, they are moved at T, too.
            self.evaluations += corrector.evaluations

    def times(self, sde: SDE) -> Tensor:
        """The grid, ``(steps + 1,)`` float64, from T down to eps exactly."""
        times = GRIDS[self.grid].times(sde, torch.linspace(0, 1, self.steps + 1, dtype=torch.float64))
        times[0], times[-1] = sde.T, sde.eps
        return times

    def _integrate(self, sde: Any, score: Score, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # noqa: ANN401
        predictor, corrector = self.predictor, self.corrector
        times = self.times(sde)
        kept = torch.linspace(0, self.steps, frames, dtype=torch.float64).round().long().unique().tolist()
        steps = predictor.plan(sde, times) if predictor else ()
        moves = corrector.plan(sde, torch.cat([times[:1], times])) if corrector else ()
        reverse = sde.reverse(score, predictor.eta if predictor else 0.0)
        path, accepted, state = [x] if kept else [], [], None
        for i, t in enumerate(times):
            if predictor and i:
                x, state = predictor.step(reverse, x, times[i - 1], steps[i - 1], state, noise)
            if corrector and (i or not predictor):
                x, acceptance = corrector(score, x, t, moves[i], noise)
                accepted += [] if acceptance is None else [acceptance]
            if i in kept[1:]:
                path.append(x)
        rate = float(torch.stack(accepted).mean()) if accepted else None
        return Walk(x, torch.stack(path) if path else x.new_zeros(0, *x.shape), times[kept], rate)


def numbers(*columns: Tensor) -> list[tuple[float, ...]]:
    """Columns of a plan as rows of plain numbers: these cost a step nothing, where a tensor costs a kernel."""
    return list(zip(*(column.tolist() for column in columns), strict=True))
