"""Conversion of what users have (arrays, tensors, lists, data frames, single points) into the arrays of a run."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.tensors import not_finite
from sdegen.datasets.numerals import is_missing
from sdegen.sde.base import SDE

ArrayLike = Tensor | np.ndarray | Sequence[Any] | float
Frame = Any
"""Data frame of pandas or Polars, which are not imported here."""


def array(name: str, values: ArrayLike) -> Tensor:
    """Returns the values of the argument ``name`` as a tensor; raises UserError if the values are not real numbers."""
    if isinstance(values, Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise UserError(f"{name}: holds {str(values.dtype).removeprefix('torch.')}, not real numbers: convert it")
        return values.detach()
    found = _numpy(name, values)
    if not (np.issubdtype(found.dtype, np.number) and np.isrealobj(found)):
        held = {"U": "text", "S": "text", "O": "Python objects"}.get(found.dtype.kind, str(found.dtype))
        raise UserError(f"{name}: holds {held}, not real numbers: convert it")
    return torch.from_numpy(found.astype(found.dtype.newbyteorder("="), copy=False))


def _numpy(name: str, values: ArrayLike) -> np.ndarray:
    try:
        return np.array(values, order="C")
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        if "inhomogeneous" in reason:
            raise UserError(f"{name}: holds lists of different lengths: give lists of equal length") from None
        raise UserError(f"{name}: not an array: {reason}: give a NumPy array, a tensor or lists of numbers") from None


def data(
    x: ArrayLike | Frame,
    y: ArrayLike | None,
    names: Sequence[str] | None,
    c: ArrayLike | Frame | None = None,
    label: int | str | None = None,
) -> dict[str, np.ndarray]:
    """Returns points, labels, names and conditions as the arrays of a file for :class:`sdegen.datasets.File`.

    Columns of a data frame ``x`` that are no numbers become arrays of their own, which ``dataset.labels`` may name. So
    does the column ``label``, if it has booleans, whose names would be lost among numbers, and so do the columns of a
    data frame ``c``, which ``dataset.condition`` must name.

    Raises:
        UserError: an argument is not an array.
    """
    arrays: dict[str, np.ndarray] = {}
    if (heads := columns_of(x)) is not None:
        if twice := [head for head in heads if heads.count(head) > 1]:
            raise UserError(f"x: two columns are named {twice[0]!r}: rename one")
        frame: Frame = x
        values = {head: labels(frame[column]) for head, column in zip(heads, frame.columns, strict=True)}
        own = {head for head, column in values.items() if column.dtype.kind not in "biuf"}
        own |= {head for head, column in values.items() if head == label and column.dtype.kind == "b"}
        arrays = {head: values[head] for head in heads if head in own}
        if (
            reserved := {"x", "names", "classes", *(name for name, part in (("y", y), ("c", c)) if part is not None)}
            & arrays.keys()
        ):
            raise UserError(f"x: column {min(reserved)} holds words: rename it, or leave it out")
        numeric = [head for head in heads if head not in arrays]
        if not numeric:
            raise UserError(f"x: no column of {', '.join(heads) or '(none)'} holds numbers: give the coordinates")
        x, names = np.stack([values[head] for head in numeric], axis=1), names or numeric
        x = x.astype(np.float64) if x.dtype == bool else x
    arrays["x"] = array("x", x).cpu().numpy()
    if y is not None:
        arrays["y"] = labels(y)
    if names is not None:
        arrays["names"] = np.array([str(name) for name in names])
    if (heads := columns_of(c)) is None:
        return arrays if c is None else {**arrays, "c": array("c", c).cpu().numpy()}
    frame = c
    for head, column in zip(heads, frame.columns, strict=True):
        if head in ("x", "y", "names", "classes", *arrays, *(names or ())):
            raise UserError(f"c: column {head} has the name of another column or array: rename it")
        arrays[head] = array(f"c: {head}", frame[column]).cpu().numpy()
    return arrays


def columns_of(values: ArrayLike | Frame | None) -> list[str] | None:
    """Returns the names of the columns of a data frame; None for other values."""
    columns = getattr(values, "columns", None)
    return None if columns is None else [str(column) for column in columns]


def labels(values: ArrayLike) -> np.ndarray:
    """Returns numbers, booleans or words as an array that NumPy stores without pickle.

    Missing numbers become NaN, missing words become empty.
    """
    found = values.detach().cpu().numpy() if isinstance(values, Tensor) else _numpy("y", values)
    if found.dtype.kind in "biufU":
        return found
    missing = [is_missing(str(value)) for value in found.ravel()]
    if found.dtype.kind == "O" and all(
        blank or (isinstance(value, Real) and not isinstance(value, bool))
        for blank, value in zip(missing, found.ravel(), strict=True)
    ):
        known = [np.nan if blank else float(value) for blank, value in zip(missing, found.ravel(), strict=True)]
        return np.array(known).reshape(found.shape)
    words = ["" if blank else str(value) for blank, value in zip(missing, found.ravel(), strict=True)]
    return np.array(words).reshape(found.shape)


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
    if found := not_finite([x], "points"):
        raise UserError(f"{name}: {found}: remove these points")
    return x, single


def times(name: str, values: ArrayLike, sde: SDE, count: int) -> Tensor:
    """Returns times ``()`` or ``(count,)``; raises UserError for another shape, or times outside of the SDE's range."""
    t = array(name, values)
    t = t if t.is_floating_point() else t.double()
    # Compare in the precision of the times: eps is larger than eps rounded to float32.
    low, high = t.new_tensor([sde.eps, sde.T])
    if len(outside := t[~((t >= low) & (t <= high))]):
        raise UserError(
            f"{name}: must lie between {sde.eps:g} (sde.eps) and {sde.T:g}, not {float(outside[0]):g}: the score is "
            f"trained only in this range"
        )
    if t.ndim and t.shape != (count,):
        raise UserError(f"{name}: has the shape {tuple(t.shape)}: give a number, or one for each of {count} points")
    return t
