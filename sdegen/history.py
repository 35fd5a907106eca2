"""What the steps of a training have cost: their losses, the norms of their gradients, the losses by time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sdegen.errors import UserError
from sdegen.stream import Batch

BINS = 10
"""Of the losses by time."""


class History:
    """What the steps since the last reading have cost, gathered without a synchronisation and rarely added up.

    Args:
        losses: makes the losses of rows: see :meth:`sdegen.gradient.Gradient.losses`.
        by_t: those of each replica by time, to be told of all.

    Attributes:
        norms: of the gradients of each step, ``(R, 1)``; to be appended to.
    """

    KEPT = 2**18

    def __init__(self, losses: Callable[..., Tensor], by_t: Sequence[LossByTime]) -> None:
        self._losses, self._by_t = losses, by_t
        self.norms: list[Tensor] = []
        self._clear()

    def _clear(self) -> None:
        self.norms.clear()
        self._held = 0
        self._rows: list[tuple[Tensor, ...]] = []
        self._steps: list[int] = []
        self._totals: list[int] = []
        self._means: list[Tensor] = []

    def add(self, step: int, batch: Batch, parts: tuple[Tensor, ...]) -> None:
        """What a step's chunk gave."""
        self._rows.append((batch.rows.t, batch.ratio, *parts))
        self._steps.append(step)
        self._totals.append(batch.total)
        self._held += parts[-1].numel()
        if self._held > self.KEPT:
            self._flush()

    def check(self) -> Tensor:
        """The mean loss of each step, ``(K, R)``.

        Raises:
            UserError: a loss, or the norm of its gradient, is not finite.
        """
        self._flush()
        if not self._means:
            return torch.zeros(0, len(self._by_t))
        means, norms = torch.cat(self._means), torch.cat(self.norms, dim=1).T
        first = self._steps[0]
        of_steps = torch.tensor([step - first for step in self._steps], device=means.device)
        losses = torch.zeros_like(norms).index_add(0, of_steps, means)
        bad = torch.nonzero(~(losses.isfinite() & norms.isfinite())).tolist()
        if bad:
            (step, replica), *_ = bad
            raise UserError(
                f"the loss is {float(losses[step, replica])} at step {first + step + 1}, and its gradient's norm "
                f"{float(norms[step, replica])}; the last checkpoint is from before. Try a lower optimizer.lr, or a "
                f"smaller trainer.clip"
            )
        return losses

    def read(self) -> list[dict[str, float]]:
        """The scalars of each replica since the last reading."""
        losses, norms = self.check().mean(0).tolist(), torch.cat(self.norms, dim=1).mean(1).tolist()
        self._clear()
        return [
            {"train/loss": loss, "train/gradient_norm": norm, **by_t.read()}
            for loss, norm, by_t in zip(losses, norms, self._by_t, strict=True)
        ]

    def _flush(self) -> None:
        """Make the losses of the rows held back."""
        if not self._rows:
            return
        axis = len(self._rows[0][0].shape) - 1
        lengths = torch.tensor([row[0].shape[axis] for row in self._rows])
        t, ratio, *parts = (torch.cat(column, dim=axis) for column in zip(*self._rows, strict=True))
        losses = self._losses(*parts)
        t, ratio, losses = (field.reshape(len(self._by_t), -1) for field in (t, ratio, losses))
        for own, by_t in zip(zip(t, losses, ratio, strict=True), self._by_t, strict=True):
            by_t.add(*own)
        totals = torch.tensor(self._totals[-len(self._rows) :], device=losses.device)
        sums = torch.segment_reduce(losses.T.contiguous(), "sum", lengths=lengths.to(losses.device))
        self._means.append(sums / totals.unsqueeze(1))
        self._rows, self._held = [], 0


class LossByTime:
    """The mean weighted loss in equal bins of t.

    A mean over t, however t was drawn: the sum of ratio · λ · loss over the sum of the ratios.

    Args:
        eps: the smallest time.
        T: the largest.
    """

    def __init__(self, eps: float, T: float) -> None:
        self.eps, self.T = eps, T
        self._sums: Tensor | float = 0.0

    def add(self, t: Tensor, losses: Tensor, ratio: Tensor) -> None:
        """Rows, ``(N,)`` each: times, weighted losses, and the uniform density over that of the times."""
        bins = ((t - self.eps) * (BINS / (self.T - self.eps))).long().clamp(0, BINS - 1)
        sums = torch.stack([torch.bincount(bins, weight.double(), BINS) for weight in (losses, ratio)])
        self._sums = self._sums + sums

    def read(self) -> dict[str, float]:
        """The means since the last reading, of the bins that were met."""
        assert isinstance(self._sums, Tensor)
        edges = torch.linspace(self.eps, self.T, BINS + 1).tolist()
        sums, counts = self._sums.tolist()
        self._sums = 0.0
        return {
            f"loss_by_t/{low:.1f}-{high:.1f}": total / count
            for low, high, total, count in zip(edges, edges[1:], sums, counts, strict=False)
            if count
        }
