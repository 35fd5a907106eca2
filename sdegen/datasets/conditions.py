"""Conditions of data: numbers, images or signals that are known beside each point, in the units of the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.datasets.units import Affine, is_sound


class Conditions(NamedTuple):
    """Map from the user's units of conditions to the network's units, and the range of the training conditions.

    Attributes:
        units: map to the network's units, in which the training conditions have mean 0 and standard deviation 1.
        low: smallest training value of each entry, in the user's units and in the shape of one condition.
        high: largest training value of each entry.
    """

    units: Affine
    low: Tensor
    high: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one condition: ``(k,)`` for numbers, ``(C, H, W)`` for images, ``(C, L)`` for signals."""
        return self.units.shape

    def encode(self, c: Tensor) -> Tensor:
        """Converts conditions ``(N, *)`` or ``(*)`` from the user's to the network's units, float64."""
        return self.units.encode(c)

    def beyond(self, c: Tensor) -> Tensor:
        """Returns how far each entry of conditions lies outside of the training range, in standard deviations."""
        low, high = self.low.to(c.device), self.high.to(c.device)
        return torch.maximum(low - c, c - high).clamp(min=0) / self.units.scale.to(c.device)

    def state(self) -> dict[str, Tensor]:
        """Returns the tensors from which :func:`restored_conditions` rebuilds the object."""
        return {**self.units.state(), "low": self.low, "high": self.high}


def conditions_of(units: Affine, c: Tensor) -> Conditions:
    """Returns the units and the range of conditions ``(N, *)``. All entries of a channel have the same range."""
    axes = (0, *range(2, c.ndim))
    low, high = (end(axes, keepdim=True)[0].expand(c.shape[1:]).clone() for end in (c.amin, c.amax))
    return Conditions(units, low, high)


def restored_conditions(state: Mapping[str, Tensor] | None) -> Conditions | None:
    """Rebuilds conditions from :meth:`Conditions.state`; None for None. Check a file with :func:`are_conditions`."""
    return None if state is None else Conditions(Affine(state["shift"], state["scale"]), state["low"], state["high"])


def are_conditions(state: Mapping[str, Tensor]) -> bool:
    """Returns True if tensors, which may come from a foreign file, are the state of conditions."""
    if state.keys() != {"shift", "scale", "low", "high"}:
        return False
    low, high = state["low"], state["high"]
    if not is_sound({"shift": state["shift"], "scale": state["scale"]}) or math.prod(state["shift"].shape) == 0:
        return False
    ends = low.dtype == high.dtype == torch.float64 and low.shape == high.shape == state["shift"].shape
    return ends and bool((low.isfinite() & high.isfinite() & (low <= high)).all())
