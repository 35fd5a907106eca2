"""Conversion of the arrays that users have (NumPy, tensors, lists, single points) into the tensors of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdegen.core.errors import UserError

ArrayLike = Tensor | np.ndarray | Sequence[Any] | float


def array(name: str, values: ArrayLike) -> Tensor:
    """Returns the values of the argument ``name`` as a tensor; raises UserError if the values are not real numbers."""
    if isinstance(values, Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise UserError(f"{name}: holds {str(values.dtype).removeprefix('torch.')}, not real numbers: convert it")
        return values.detach()
    try:
        found = np.array(values, order="C")
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        if "inhomogeneous" in reason:
            raise UserError(f"{name}: holds lists of different lengths: give lists of equal length") from None
        raise UserError(f"{name}: not an array: {reason}: give a NumPy array, a tensor or lists of numbers") from None
    if not (np.issubdtype(found.dtype, np.number) and np.isrealobj(found)):
        held = {"U": "text", "S": "text", "O": "Python objects"}.get(found.dtype.kind, str(found.dtype))
        raise UserError(f"{name}: holds {held}, not real numbers: convert it")
    return torch.from_numpy(found.astype(found.dtype.newbyteorder("="), copy=False))


def points(name: str, values: ArrayLike, shape: tuple[int, ...]) -> tuple[Tensor, bool]:
    """Returns points ``(N, *shape)`` in float64, and True if ``values`` is a single point without the batch axis.

    If ``shape`` is ``(1,)``, the axis of the coordinate may be missing: ``values`` may be a number, or ``(N,)``.

    Raises:
        UserError: the shape is neither ``(N, *shape)`` nor ``shape``, or a number is not finite.
    """
    x = array(name, values).double()
    if shape == (1,) and (x.ndim == 0 or (x.ndim == 1 and len(x) > 1)):
        x = x.unsqueeze(-1)
    if single := tuple(x.shape) == shape:
        x = x.unsqueeze(0)
    if tuple(x.shape[1:]) != shape or not len(x):
        wanted = ", ".join(map(str, ("N", *shape)))
        raise UserError(f"{name}: has the shape {tuple(x.shape)}: give points ({wanted}), or one point {shape}")
    bad = torch.nonzero(~x.flatten(1).isfinite().all(1)).flatten()
    if len(bad):
        raise UserError(
            f"{name}: {len(bad)} of {len(x)} points hold NaN or infinity, the first is number {int(bad[0]) + 1}: "
            f"remove these points"
        )
    return x, single
