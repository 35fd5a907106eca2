"""What a sampler is, and the one loop over a time grid that all step samplers share."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sdegen.rng import RandnLike
from sdegen.sde.base import SDE, LinearSDE, ReverseSDE, Score
from sdegen.tensor import expand


class Samples(NamedTuple):
    """What a sampler returns.

    Attributes:
        x: the samples, ``(B, *)``.
        nfe: evaluations of the score per sample, counted at the score; a mean where samples differ.
        path: ``frames`` states on the way from T to eps, ``(F, B, *)``.
        times: their times, ``(F,)``.
    """

    x: Tensor
    nfe: float
    path: Tensor
    times: Tensor


class Counted:
    """A score that counts the rows it is asked for."""

    def __init__(self, score: Score) -> None:
        self.score, self.rows = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.rows += len(x)
        return self.score(x, t)


class Sampler(ABC):
    """Carries draws of the prior at T to samples at eps.

    Args:
        denoise: end with Tweedie's formula, the mean of x(0) given the sample at eps: (x + σ² s) / α. It costs one
            evaluation, and over-shrinks where the grid is too coarse for the smallest noise.

    Attributes:
        kernel: empty where any SDE will do; else the words of what to use in its place where the SDE has no
            closed-form kernel.
    """

    kernel = ""

    def __init__(self, denoise: bool = False) -> None:
        self.denoise = denoise

    def __call__(self, sde: LinearSDE, score: Score, x: Tensor, *, noise: RandnLike, frames: int = 0) -> Samples:
        """Samples from the draws ``x`` of the prior.

        Args:
            sde: the forward process.
            score: ``(x, t) -> ∇ log p_t(x)``.
            x: draws of the prior, ``(B, *)``.
            noise: standard normal draws of the shape of ``x``, a new one at each call.
            frames: how many states of the path to keep, T and eps among them.
        """
        counted = Counted(score)
        final, path, times = self._integrate(sde, counted, x, noise, frames)
        if self.denoise:
            t = torch.tensor(sde.eps, dtype=torch.float64)
            sigma, alpha = expand(sde.sigma(t), final), expand(sde.alpha(t), final)
            final = (final + sigma**2 * counted(final, t)) / alpha
        return Samples(final, counted.rows / max(len(x), 1), path, times)

    @abstractmethod
    def _integrate(
        self, sde: LinearSDE, score: Score, x: Tensor, noise: RandnLike, frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The state at eps ``(B, *)``, the path ``(F, B, *)`` and its times ``(F,)``."""


class Predictor(ABC):
    """One step of a scheme for the reverse process, from t to s < t.

    Attributes:
        eta: which member of the family of reverse processes it discretises (see :class:`ReverseSDE`).
        order: its weak order of convergence on smooth problems.
    """

    eta: float
    order: int

    @abstractmethod
    def step(
        self, reverse: ReverseSDE, x: Tensor, t: Tensor, s: Tensor, state: object, noise: RandnLike
    ) -> tuple[Tensor, object]:
        """The state at s, and what the scheme remembers for its next step; ``t`` and ``s`` are ``()``."""


class Corrector(ABC):
    """Moves x within the marginal p_t, after each step of a predictor."""

    @abstractmethod
    def __call__(self, sde: SDE, score: Score, x: Tensor, t: Tensor, noise: RandnLike) -> Tensor:
        """``(B, *)`` to ``(B, *)``, leaving p_t as it is; ``t`` is ``()``."""


class StepSampler(Sampler):
    """A predictor walked along a time grid, with an optional corrector at every point.

    Args:
        predictor: the scheme of one step.
        corrector: run at each new time; None for none.
        steps: number of steps, at least 1.
        grid: ``uniform`` in t, or ``log_snr``: uniform in log(α²/σ²), dense at small t where fine detail is made.
        denoise: see :class:`Sampler`.
    """

    def __init__(
        self,
        predictor: Predictor,
        corrector: Corrector | None = None,
        steps: int = 1000,
        grid: Literal["uniform", "log_snr"] = "uniform",
        denoise: bool = False,
    ) -> None:
        super().__init__(denoise)
        if steps < 1:
            raise ValueError(f"steps={steps} must be at least 1")
        self.predictor, self.corrector, self.steps, self.grid = predictor, corrector, steps, grid

    def times(self, sde: LinearSDE) -> Tensor:
        """The grid, ``(steps + 1,)`` float64, from T down to eps exactly."""
        share = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        ends = torch.tensor([sde.T, sde.eps], dtype=torch.float64)
        if self.grid == "uniform":
            times = torch.lerp(ends[0], ends[1], share)
        else:
            u = sde.log_nsr(ends)
            times = sde.time(torch.lerp(u[0], u[1], share))
        times[0], times[-1] = ends
        return times

    def _integrate(
        self, sde: LinearSDE, score: Score, x: Tensor, noise: RandnLike, frames: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        reverse = sde.reverse(score, self.predictor.eta)
        times = self.times(sde)
        kept = torch.linspace(0, self.steps, frames, dtype=torch.float64).round().long().unique().tolist()
        path = [x] if kept else []
        state: object = None
        for i, (t, s) in enumerate(itertools.pairwise(times), start=1):
            x, state = self.predictor.step(reverse, x, t, s, state, noise)
            if self.corrector is not None:
                x = self.corrector(sde, score, x, s, noise)
            if i in kept[1:]:
                path.append(x)
        return x, torch.stack(path) if path else x.new_zeros(0, *x.shape), times[kept]
