"""Checks of the parts of a checkpoint, which may come from a stranger, before anything is built from them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdegen.training.averages import WIDEST
from sdegen.training.history import BINS


def are_averages(content: object, ema: dict[str, Any]) -> bool:
    """Returns True for a dictionary from widths to states with the names, shapes and types of ``ema``."""
    if not isinstance(content, dict) or not all(type(width) is float and 0 < width <= WIDEST for width in content):
        return False
    like = _layout(ema)
    return all(
        isinstance(state, dict)
        and _layout(state) == like
        and all(is_stored(state[name]) for name, kind in like.items() if kind)
        for state in content.values()
    )


def _layout(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the shape and type of each tensor, by name; None for extra state."""
    return {name: (x.shape, x.dtype) if isinstance(x, Tensor) else None for name, x in state.items()}


def are_names(
    content: dict[str, Any], shape: tuple[int, ...], classes: int | None, conditions: dict[str, Tensor] | None
) -> bool:
    """Returns True for a name of each column, of each class and of each number of a condition, or for no names."""
    if content.keys() != {"columns", "classes", "conditions"} or not all(
        isinstance(names, list) for names in content.values()
    ):
        return False
    told = () if conditions is None else tuple(conditions["shift"].shape)
    counts = {kind: (0, *(own if len(own) == 1 else ())) for kind, own in (("columns", shape), ("conditions", told))}
    counts["classes"] = (0, classes or 0)
    known = all(isinstance(name, str) for names in content.values() for name in names)
    return known and all(len(names) in counts[kind] for kind, names in content.items())


def is_history(content: dict[str, Any], step: int) -> bool:
    """Returns True if :meth:`sdegen.training.history.History.restore` accepts the content."""
    if content.keys() != {"losses", "norms", "by_t"} or not all(map(is_stored, content.values())):
        return False
    losses, norms, by_t = content["losses"], content["norms"], content["by_t"]
    fits = losses.shape == norms.shape and losses.ndim == 1 and len(losses) <= step and by_t.shape == (2, BINS)
    return fits and all(value.is_floating_point() for value in content.values())


def is_stored(value: object) -> bool:
    """Returns True for a dense tensor on the CPU if the file contains all its numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    return value.nbytes <= value.untyped_storage().nbytes()
