"""The base class of samplers, and their result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.core.randomness import RandnLike
from sdegen.core.tensors import expand
from sdegen.samplers.parts import Predictor
from sdegen.sde.base import SDE, LinearSDE, Score, most_special
from sdegen.sde.scores import Counted


class Samples(NamedTuple):
    """Result of a sampler.

    Attributes:
        x: the samples, ``(B, *)``.
        nfe: evaluations of the score per sample, counted at the score; a mean where samples differ.
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
        processes: the type of process that each part works with, by the name of its option.
        predictor: the scheme of its steps, if it has one.
        evaluations: number of evaluations of the score for a sample; None if it depends on the sample.
        couples: True if the samples of a batch depend on each other.
        enough: smallest batch size at which guided samples have an accurate distribution.
    """

    processes: dict[str, type[SDE]]
    couples = False
    enough = 1
    predictor: Predictor | None = None
    evaluations: int | None = None

    def __init__(self, denoise: bool = False) -> None:
        self.denoise = denoise
        self.processes = {"denoise": LinearSDE if denoise else SDE}

    @property
    def process(self) -> type[SDE]:
        """The type of process that all its parts work with."""
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
        final = tweedie(sde, counted, walk.x) if self.denoise else walk.x
        return Samples(final, counted.rows / max(len(x), 1), walk.path, walk.times, walk.acceptance)

    @abstractmethod
    def _integrate(self, sde: Any, score: Counted, x: Tensor, noise: RandnLike, frames: int) -> Walk:  # noqa: ANN401
        """Moves ``x`` from T to eps; ``sde`` is a :attr:`process`."""


def tweedie(sde: Any, score: Score, x: Tensor) -> Tensor:  # noqa: ANN401 - linear, as the sampler requires
    """Returns the mean of x(0) given x(eps): ``(B, *)`` to ``(B, *)``."""
    t = torch.tensor(sde.eps, dtype=torch.float64)
    sigma, alpha = expand(sde.sigma(t), x), expand(sde.alpha(t), x)
    return (x + sigma**2 * score(x, t)) / alpha
