"""Held-out losses of the averaged network during a training, in units of the loss of a simple model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, TypeVar

from sdegen.config.components import Components
from sdegen.training.gradient import Model
from sdegen.training.held_out import HeldOut
from sdegen.training.learning import Curve, Trend
from sdegen.training.loop import Training

UNITS = {"gaussian": "a Gaussian with the covariance of the data", "chance": "guessing"}
"""Simple models whose loss is the unit of the loss."""
T = TypeVar("T")

AFFORDED = 30
"""Number of training steps for each batch of a held-out loss. These batches then take 1 to 2 % of the training."""


class Learning:
    """Held-out losses of a run during its training.

    Args:
        parts: parts of the run.
        training: training of the run and of its replicas.
        replica: index of the run in the training.

    Attributes:
        curve: losses so far.
    """

    def __init__(self, parts: Components, training: Training, replica: int) -> None:
        self.parts, self.training, self.average = parts, training, training.averages[replica]
        self._replica, self._processes = replica, training.processes
        self.held_out, self.curve = parts.held_out().shared(self._processes), Curve(training.steps)

    @cached_property
    def _watched(self) -> HeldOut:
        """Held-out loss of the curve. It is made late: the number of batches of a resumed run is in its checkpoint."""
        return self.held_out.within(max(1, self.curve.every // AFFORDED))

    @cached_property
    def _unit(self) -> float | None:
        """Unit of the loss. It is computed late, after the data of a resumed run have been checked."""
        return self.parts.baseline() if self.training.steps else None

    def loss(self) -> float | None:
        """Return the loss on all batches; None without held-out points or steps."""
        if not self.training.steps:
            return None
        return self._shared(self.held_out, self.held_out.loss)

    def _shared(self, held_out: HeldOut, compute: Callable[[Model], T]) -> T:
        """Return what a method of ``held_out`` computes of the averaged network, with the other processes."""
        self._processes.call("losses", self._replica, held_out.batches)
        found = compute(self.average)
        self._processes.returned()
        return found

    def evaluate(self) -> float | None:
        """Add the loss on as many batches as the step can afford to the curve, and return it.

        Return None without held-out points, or if the loss is not finite.
        """
        losses = self._shared(self._watched, self._watched.losses)
        # A loss that overflows is no record: the training fails soon, or recovers.
        if losses is None or not bool(losses.isfinite().all()):
            return None
        return self.curve.add(self.training.step, losses)

    def has_patience_ended(self, step: int) -> bool:
        """Return True if the held-out loss has not improved in ``trainer.patience`` steps before ``step``."""
        patience = self.parts.trainer.patience
        return patience is not None and self.curve.idle(step) >= patience

    def scaled(self, loss: float) -> dict[str, float]:
        """Return a training loss in units of the loss of a simple model, as a scalar; empty without such a model."""
        return {} if self._unit is None else {f"train/loss_over_{self.parts.objective.against}": loss / self._unit}

    def summary(self) -> dict[str, Any]:
        """Return the held-out loss of the trained network, its unit and the trend of the curve; empty if unknown.

        ``over`` names the simple model whose loss is the unit, ``share`` is the loss in this unit, and ``best`` is the
        share of the exact score, if it is known. ``noise`` is the smallest change of the loss that counts, and ``fall``
        the fall of the loss since the start of the training. ``sentence`` says all this.
        """
        loss, training, trend = self.loss(), self.training, self.curve.trend()
        if loss is None:
            return {}
        found: dict[str, Any] = {"held_out_loss": loss}
        if self._unit is not None:
            best = self.parts.best_loss()
            found |= {"over": self.parts.objective.against, "share": loss / self._unit}
            found |= {} if best is None else {"best": best / self._unit}
        ended = self.has_patience_ended(training.step)
        if ended and (trend is None or trend.name in ("still falling", "too short to say")):
            # The patience may be shorter than the stretch after which a curve counts as flat.
            trend = Trend("flat", training.step - self.curve.idle(training.step))
        found |= {} if trend is None else {"trend": str(trend), **self.curve.resolution()}
        if ended:
            found["ended"] = f"trainer.patience={self.parts.trainer.patience}"
        return {**found, "sentence": _sentence(found)}


def _sentence(found: Mapping[str, Any]) -> str:
    text = f"held-out loss {found['held_out_loss']:.4g}"
    if "share" in found:
        text += f", {found['share']:.3f} of the loss of {UNITS[found['over']]}"
        text += f" (exact score: {found['best']:.3f})" if "best" in found else ""
    text += f"; {found['trend']}" if "trend" in found else ""
    if found.get("trend", "").startswith("flat"):
        text += f" ({found['noise']:.2g}; the whole fall was {found['fall']:.2g})"
    if found.get("trend", "").startswith("overfitting"):
        # The checkpoints may be far apart, so that none of them is near this step.
        text += f" (trainer.steps={found['trend'].rpartition(' ')[2]} ends there)"
    return text + (f"; ended by {found['ended']}" if "ended" in found else "")
