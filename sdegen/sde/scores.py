"""Guided scores, and scores that count how many rows they evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.sde.base import Score


class Parts(NamedTuple):
    """Parts of a guided score: the score and the pull of the guidance, ``(B, *)``, and the log-likelihood, ``(B,)``."""

    score: Tensor
    pull: Tensor
    log_likelihood: Tensor


class GuidedScore(ABC):
    """A guided score with a known likelihood, so that weights can correct its error."""

    @abstractmethod
    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """Returns the score, the gradient of the log-likelihood (the pull), and the log-likelihood."""

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
        """Returns the score given a class; its rows are counted here as well."""
        score = self.score.given(y)  # type: ignore[attr-defined]

        def conditional(x: Tensor, t: Tensor) -> Tensor:
            self.rows += len(x)
            return score(x, t)

        return conditional

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """Returns the parts of the score; without guidance, the pull and the log-likelihood are zero."""
        self.rows += len(x)
        if isinstance(self.score, GuidedScore):
            return self.score.parts(x, t)
        score = self.score(x, t)
        return Parts(score, torch.zeros_like(score), score.new_zeros(len(x)))
