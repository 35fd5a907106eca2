"""Guided scores, and scores that count how many rows they evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
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
    """A score that counts the rows it evaluates.

    Args:
        score: score whose rows are counted.
        report: function that is called with the number of rows so far, before each evaluation; None for no report.
    """

    def __init__(self, score: Score, report: Callable[[int], object] | None = None) -> None:
        self.score, self.rows, self.report = score, 0, report

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self._count(x)
        return self.score(x, t)

    def given(self, y: Tensor) -> Score:
        """Returns the score given a condition. The rows of this score are added to the same count."""
        return self.beside(self.score.given(y))  # type: ignore[attr-defined]

    def beside(self, score: Score) -> Score:
        """Returns another score whose rows are added to the same count."""

        def counted(x: Tensor, t: Tensor) -> Tensor:
            self._count(x)
            return score(x, t)

        return counted

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """Returns the parts of the score. Without guidance, the pull and the log-likelihood are zero."""
        self._count(x)
        if isinstance(self.score, GuidedScore):
            return self.score.parts(x, t)
        score = self.score(x, t)
        return Parts(score, torch.zeros_like(score), score.new_zeros(len(x)))

    def _count(self, x: Tensor) -> None:
        if self.report is not None:
            self.report(self.rows)
        self.rows += len(x)
