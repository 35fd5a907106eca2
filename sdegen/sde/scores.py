"""Guided scores, scores that differ from row to row, and scores that count how many rows they evaluate."""

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


class RowScore(ABC):
    """A score of a batch whose rows may have different scores, such as scores given the condition of each row."""

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the scores ``(B, *)`` of all rows of the batch at ``x`` ``(B, *)`` and ``t``, ``()`` or ``(B,)``."""

    @abstractmethod
    def of(self, row: Tensor) -> Score:
        """Returns the score of the rows with the indices ``row``, ``(b,)``."""


class GuidedScore(RowScore):
    """A guided score with a known likelihood, with which importance weights can correct its error."""

    @abstractmethod
    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """Returns the score without guidance, the gradient of the log-likelihood, and the log-likelihood."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        parts = self.parts(x, t)
        return parts.score + parts.pull


def of_rows(score: Score, row: Tensor) -> Score:
    """Returns the score of some rows of a batch; the score itself if all rows have the same score."""
    return score.of(row) if isinstance(score, RowScore) else score


class Counted(RowScore):
    """A score that counts the rows it evaluates.

    Args:
        score: score whose rows are counted.
        report: function that is called with the number of rows so far, before each evaluation; None for no report.
        count: list with the number of rows so far; None to begin with 0.
    """

    def __init__(
        self, score: Score, report: Callable[[int], object] | None = None, count: list[int] | None = None
    ) -> None:
        self.score, self.report, self._rows = score, report, [0] if count is None else count

    @property
    def rows(self) -> int:
        """Number of rows that were evaluated, also by the scores of :meth:`given` and :meth:`of`."""
        return self._rows[0]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self._count(x)
        return self.score(x, t)

    def given(self, y: Tensor | None) -> Counted:
        """Returns the score given a condition, which adds to the same count."""
        return self.beside(self.score.given(y))  # type: ignore[attr-defined]

    def of(self, row: Tensor) -> Counted:
        return self.beside(of_rows(self.score, row))

    def beside(self, score: Score) -> Counted:
        """Returns another score whose rows are added to the same count."""
        return Counted(score, self.report, self._rows)

    def parts(self, x: Tensor, t: Tensor) -> Parts:
        """Returns the parts of the score. Without guidance, the pull and the log-likelihood are zero."""
        self._count(x)
        if isinstance(self.score, GuidedScore):
            return self.score.parts(x, t)
        score = self.score(x, t)
        return Parts(score, torch.zeros_like(score), score.new_zeros(len(x)))

    def moved(self, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Returns the flow map of a model that has one, ``(B, *)``. It counts as one evaluation."""
        self._count(x)
        return self.score.moved(x, s, t)  # type: ignore[attr-defined]

    def _count(self, x: Tensor) -> None:
        if self.report is not None:
            self.report(self.rows)
        self._rows[0] += len(x)
