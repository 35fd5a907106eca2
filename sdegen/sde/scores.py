"""Scores that do more than return a value: guided scores and scores that count their evaluations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.sde.base import Score


class Parts(NamedTuple):
    """A guided score apart: the score and the pull of the guidance, ``(B, *)``, and its log-likelihood, ``(B,)``."""

    score: Tensor
    pull: Tensor
    log_likelihood: Tensor


class Steered(ABC):
    """A guided score that tells the likelihood by which it steers, so that what it gets wrong can be weighed."""

    @abstractmethod
    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """The score, the gradient of the log-likelihood, and the log-likelihood itself."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        parts = self.parts(x, t)
        return parts.score + parts.pull


class Counted:
    """A score that counts the rows it is asked for."""

    def __init__(self, score: Score) -> None:
        self.score, self.rows = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.rows += len(x)
        return self.score(x, t)

    def given(self, y: Tensor) -> Score:
        """The score of a class, of one that can be told it, counted as well."""
        score = self.score.given(y)  # type: ignore[attr-defined]

        def conditional(x: Tensor, t: Tensor) -> Tensor:
            self.rows += len(x)
            return score(x, t)

        return conditional

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """The parts of a score that is steered; of any other, itself and nothing."""
        self.rows += len(x)
        if isinstance(self.score, Steered):
            return self.score.parts(x, t)
        score = self.score(x, t)
        return Parts(score, torch.zeros_like(score), score.new_zeros(len(x)))
