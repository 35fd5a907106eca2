"""Guided scores, and scores that count how many rows they evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.sde.base import Score


class Parts(NamedTuple):
    """Parts of a guided score.

    Attributes:
        score: score without guidance, ``(B, *)``.
        pull: gradient of the log-likelihood in x, ``(B, *)``.
        log_likelihood: log-likelihood of the class or measurement, ``(B,)``.
    """

    score: Tensor
    pull: Tensor
    log_likelihood: Tensor


class GuidedScore(ABC):
    """A guided score with a known likelihood. Importance weights can therefore correct its error."""

    @abstractmethod
    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """Returns the score without guidance, the gradient of the log-likelihood, and the log-likelihood."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        parts = self.parts(x, t)
        return parts.score + parts.pull


class Counted:
    """A score that counts the rows it evaluates."""

    def __init__(self, score: Score) -> None:
        self.score, self.rows = score, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.rows += len(x)
        return self.score(x, t)

    def given(self, y: Tensor) -> Score:
        """Returns the score given a condition. The rows of this score are added to the same count."""
        score = self.score.given(y)  # type: ignore[attr-defined]

        def conditional(x: Tensor, t: Tensor) -> Tensor:
            self.rows += len(x)
            return score(x, t)

        return conditional

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """Returns the parts of the score. Without guidance, the pull and the log-likelihood are zero."""
        self.rows += len(x)
        if isinstance(self.score, GuidedScore):
            return self.score.parts(x, t)
        score = self.score(x, t)
        return Parts(score, torch.zeros_like(score), score.new_zeros(len(x)))
