"""The base class of data sets: training points, their units, and their exact distribution if it is known."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from sdegen.core.checks import in_range
from sdegen.core.randomness import generator
from sdegen.datasets import columns
from sdegen.datasets.units import Affine, Units
from sdegen.sde.mixture import GaussianMixture

Standardize = bool | Literal["robust", "quantile"]
CHUNK = 2**24
"""Largest number of entries read at once from data that may be larger than memory."""
DRAWN = 64
"""Bytes of memory needed to draw a point of the plane."""


class Dataset:
    r"""Training points in the user's units, with their exact distribution if it is known.

    Vectors are float64. Images keep the type of their file, such as bytes; :meth:`Units.encode` makes them float64,
    batch by batch.

    Args:
        x: training points, ``(N, *)``.
        held_out: points kept from training, for measuring; None if fresh points can be drawn.
        law: the exact distribution, if it is a Gaussian mixture.
        standardize: units of the network, in which the points are centred and scaled, vectors by coordinate and images
            as a whole: ``true`` by mean and standard deviation, ``false`` not at all, ``robust`` by the median and the
            5 and 95 % quantiles, ``quantile`` (for vectors only) by a map of the quantiles of each column to those of a
            normal distribution, for skewed columns and outliers: see
            :func:`sdegen.datasets.columns.quantile_units`.
        levels: number of values of an entry of quantised points, which are 0 to ``levels - 1``. Likelihoods are then
            those of dequantised points; nothing else changes.
        units: the network's units; None for the units of ``standardize``.
        y: the class of each training point, ``(N,)`` integers from 0; None if there are no classes.
        held_out_y: the class of each point kept from training.
        classes: the number of classes, if there are labels.
        dequantize: if true, train on the points plus :math:`U(-\tfrac12, \tfrac12)` in the user's units, drawn anew at
            every step. Without ``levels``, under ``standardize=quantile``, only columns with tied values are
            dequantised, and the noise is scaled by the distance between their values.
        mapped: True if the points stay on the disk, and batches are copied from there.
        draw: function that draws n independent points of the exact distribution; None if it is not known.
        modes: function that returns the mode of each point, ``(N,)`` integers; None if there are no distinct modes.
        off_support: function that returns True for points off the support, ``(N,)``; None if no point is off it.

    Raises:
        ValueError: values, labels and levels do not fit each other.
    """

    def __init__(
        self,
        x: Tensor,
        held_out: Tensor | None = None,
        law: GaussianMixture | None = None,
        standardize: Standardize = True,
        levels: int | None = None,
        *,
        units: Units | None = None,
        y: Tensor | None = None,
        held_out_y: Tensor | None = None,
        classes: int | None = None,
        dequantize: bool = False,
        mapped: bool = False,
        draw: Callable[[int, torch.Generator], Tensor] | None = None,
        modes: Callable[[Tensor], Tensor] | None = None,
        off_support: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.x, self.held_out, self.law, self.levels = x.double() if x.ndim == 2 else x, held_out, law, levels
        self.y, self.held_out_y, self.classes = y, held_out_y, classes
        self.dequantize, self.mapped = dequantize, mapped
        self._draw, self._modes, self._off_support = draw, modes, off_support
        for points, labels in ((self.x, y), (held_out, held_out_y)):
            if points is None:
                continue
            if levels is not None:
                check_levels(levels, points)
            if labels is not None or classes is not None:
                check_labels(classes, points, labels)
        if dequantize and levels is None and standardize != "quantile":
            raise ValueError("dequantize=true needs quantised values: give their number with levels=")
        if standardize == "quantile" and self.x.ndim != 2:
            raise ValueError("standardize=quantile is for vectors, not for images: use standardize=true or robust")
        self.standardize = standardize if units is None else False
        self.cells: Tensor | None = None
        if dequantize:
            one = torch.ones(self.x.shape[1:], dtype=torch.float64)
            self.cells = one if levels is not None else columns.tied_cells(self.x)
        self.units = self._chosen_units() if units is None else units

    def _chosen_units(self) -> Units:
        if self.standardize == "robust":
            return columns.robust_units(self.x)
        if self.standardize == "quantile":
            return columns.quantile_units(self.x, self.held_out, self.cells)
        if self.standardize:
            return standard_units(self.x)
        return Affine(*(fill(self.x.shape[1:], dtype=torch.float64) for fill in (torch.zeros, torch.ones)))

    def concerns(self) -> list[str]:
        """Returns a warning for each column in which a few distant rows determine the scale of the units."""
        remedies = {
            True: "use dataset.standardize=quantile, or robust, which ignores these rows",
            "robust": "dataset.standardize=robust ignores these rows: use quantile to keep them",
        }
        if self.standardize not in remedies or self.x.ndim != 2:
            return []
        return [f"{found}: {remedies[self.standardize]}" for found in columns.carried_by_few(self.x)]

    @property
    def encoded_law(self) -> GaussianMixture | None:
        """The exact distribution in the network's units; None if it is not known, or if the units are not affine."""
        affine = self.units.affine
        return None if self.law is None or affine is None else self.law.affine(affine.shift, affine.scale)

    def rounded(self, x: Tensor) -> Tensor:
        """Returns points in the user's units, with dequantised columns in the middle of their cells: ``(N, *)``."""
        if self.cells is None:
            return x
        first, step = self.x[0].double(), torch.where(self.cells > 0, self.cells, 1.0)
        return torch.where(self.cells > 0, first + step * ((x - first) / step).round(), x)

    def dequantized(self, x: Tensor, source: torch.Generator) -> Tensor:
        """Returns points in the user's units, with dequantised columns spread over their cells: ``(N, *)``."""
        if self.cells is None:
            return x
        return x.double() + self.cells * (torch.rand(x.shape, generator=source, dtype=torch.float64) - 0.5)

    def draw(self, n: int, source: torch.Generator) -> Tensor | None:
        """Draws ``n`` independent points of the exact distribution, ``(n, *)``; None if it is not known."""
        return None if self._draw is None else self._draw(n, source)

    def modes(self, x: Tensor) -> Tensor | None:
        """Returns the mode of each point, ``(N,)`` integers; None if there are no distinct modes."""
        return None if self._modes is None else self._modes(x)

    def off_support(self, x: Tensor) -> Tensor | None:
        """Returns True for points off the support, ``(N,)`` booleans; None if no point is off the support."""
        return None if self._off_support is None else self._off_support(x)


def standard_units(x: Tensor) -> Affine:
    """Returns the units in which points ``(N, *)`` have mean 0 and standard deviation 1, images as a whole."""
    shape = x.shape[1:]
    axes = 0 if len(shape) == 1 else tuple(range(x.ndim))
    pieces = (piece.double() for piece in chunks(x))
    parts = [(len(piece) / len(x), piece.mean(axes), piece.std(axes, correction=0)) for piece in pieces]
    shift = torch.stack([weight * mean for weight, mean, _ in parts]).sum(0)
    deviation = torch.stack([weight * (std**2 + (mean - shift) ** 2) for weight, mean, std in parts]).sum(0).sqrt()
    # A coordinate that never changes has no scale.
    scale = torch.where(deviation > 0, deviation, 1.0)
    return Affine(shift.expand(shape).clone(), scale.expand(shape).clone())


def chunks(x: Tensor) -> tuple[Tensor, ...]:
    """Splits points ``(N, *)`` into pieces of at most :data:`CHUNK` entries and at least one point."""
    return x.split(max(1, CHUNK // max(1, math.prod(x.shape[1:]))))


def check_levels(levels: int, x: Tensor) -> None:
    """Raises ValueError if the points are not whole numbers from 0 to ``levels - 1``."""
    in_range("levels", levels, at_least=2)
    if not x.is_floating_point() and torch.iinfo(x.dtype).min == 0 and torch.iinfo(x.dtype).max < levels:
        return  # The type admits no other values. There may be too many to read.
    for part in (chunk.double() for chunk in chunks(x)):
        foreign = part[(part != part.round()) | (part < 0) | (part > levels - 1)]
        if len(foreign):
            raise ValueError(
                f"levels={levels}: the values must be whole numbers from 0 to {levels - 1}, but one is "
                f"{float(foreign[0]):g}: rescale them, or leave levels=null"
            )


def check_labels(classes: int | None, x: Tensor, y: Tensor | None) -> None:
    """Raises ValueError if a point has no label, or a label is not one of the classes."""
    if y is None or y.shape != x.shape[:1]:
        raise ValueError("y must be a label for each point")
    if classes is None or int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(f"y must be labels from 0 to classes - 1, and classes={classes}")


def count_classes(y: Tensor) -> int:
    """Returns the number of classes of labels ``(N,)``, or raises ValueError if their numbers have gaps."""
    found = y.unique()
    if not torch.equal(found, torch.arange(len(found))):
        raise ValueError(
            f"the labels of {len(found)} classes range from {int(found[0])} to {int(found[-1])}: number the classes "
            f"from 0 to {len(found) - 1}"
        )
    return len(found)


def split(y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Returns the indices of the points to train on and of the points to hold out, ascending.

    ``share`` of each class ``y``, ``(N,)``, is held out, rounded to whole points; at least one is left to train on. The
    split does not depend on the seed of the run, so that no network is trained on held-out points.
    """
    source, kept = generator("cpu", 0, "split"), torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        members = torch.nonzero(y == label).flatten()
        order = torch.randperm(len(members), generator=source)
        kept[members[order[: min(round(share * len(members)), len(members) - 1)]]] = True
    return torch.nonzero(~kept).flatten(), torch.nonzero(kept).flatten()


def check_share(held_out: float) -> float:
    """Returns ``held_out``, or raises ValueError if it is not a share."""
    return in_range("held_out", held_out, above=0, below=1, fix=": try held_out=0.2")


def check_size(size: int) -> int:
    """Returns ``size``, or raises ValueError if it is below 2 or the points do not fit into memory."""
    in_range("size", size, at_least=2)
    if size > memory() / DRAWN:
        raise ValueError(f"size={size} must be at most {memory() / DRAWN:.0f}: more points do not fit into memory")
    return size


@contextlib.contextmanager
def prefixed(prefix: str, suffix: str = "") -> Iterator[None]:
    """Adds a prefix and a suffix to the message of a ValueError that is raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{prefix}{error}{suffix}") from None


def memory() -> float:
    """Returns the bytes of physical memory of this machine; infinity if the system does not report them."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_memory(size: int) -> None:
    """Raises ValueError if ``size`` bytes do not fit into memory."""
    if size > memory():
        raise ValueError(f"needs {size / 2**30:.3g} GiB, but this machine has {memory() / 2**30:.3g} GiB of memory")
