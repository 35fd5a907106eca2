"""Checks of the options and the memory of all data sets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from sdegen.core.capacity import memory
from sdegen.core.checks import in_range
from sdegen.core.tensors import chunks, not_finite

DRAWN = 64
"""Number of bytes of memory needed to draw a point in the plane."""


def check_share(held_out: float) -> float:
    """Returns ``held_out``, or raises ValueError if it is not between 0 and 1."""
    return in_range("held_out", held_out, above=0, below=1, fix=": try held_out=0.2")


def check_size(size: int) -> int:
    """Returns ``size``, or raises ValueError if it is below 2 or the points do not fit into memory."""
    in_range("size", size, at_least=2)
    if size > memory() / DRAWN:
        raise ValueError(f"size={size} must be at most {memory() / DRAWN:.0f}: more points do not fit into memory")
    return size


@contextlib.contextmanager
def prefixed(prefix: str, suffix: str = "") -> Iterator[None]:
    """Adds a prefix and a suffix to the message of a ValueError that is raised in the ``with`` block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}{error}{suffix}") from None


def check_memory(size: int) -> None:
    """Raises ValueError if ``size`` bytes do not fit into memory."""
    if size > memory():
        raise ValueError(
            f"needs {size / 2**30:.3g} GiB, but this process has {memory() / 2**30:.3g} GiB of memory: use fewer points"
        )


def check_conditions(x: Tensor | None, c: Tensor | None) -> None:
    """Raises ValueError if a point has no condition, or a condition is not finite."""
    if x is None:
        return
    if c is None or c.ndim < 2 or len(c) != len(x):
        shape = "missing" if c is None else f"an array of shape {tuple(c.shape)}"
        raise ValueError(
            f"condition: must have a row for each of {len(x)} points, but is {shape}: give one row for each"
        )
    if found := not_finite([c], "rows"):
        raise ValueError(f"condition: {found}: remove or fill them")


def check_levels(levels: int, x: Tensor) -> None:
    """Raises ValueError if the points are not whole numbers from 0 to ``levels - 1``."""
    in_range("levels", levels, at_least=2)
    if not x.is_floating_point() and torch.iinfo(x.dtype).min == 0 and torch.iinfo(x.dtype).max < levels:
        return  # The type allows no other values, and reading all points may take long.
    for part in (chunk.double() for chunk in chunks(x)):
        foreign = part[(part != part.round()) | (part < 0) | (part > levels - 1)]
        if len(foreign):
            raise ValueError(
                f"levels={levels}: the values must be whole numbers from 0 to {levels - 1}, but one is "
                f"{float(foreign[0]):g}: rescale them, or set dataset.levels=null"
            )


def check_labels(classes: int | None, x: Tensor, y: Tensor | None) -> None:
    """Raises ValueError if a point has no label, or a label is not one of the classes."""
    if y is None or y.shape != x.shape[:1]:
        raise ValueError("y must be a label for each point: give one integer for each row of x")
    if classes is None or int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(f"y must be labels from 0 to classes - 1, and classes={classes}: number the classes from 0")
