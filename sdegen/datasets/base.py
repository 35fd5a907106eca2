"""Base class of data sets, and checks of points and labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets import columns
from sdegen.datasets.checks import check_conditions, check_labels, check_levels
from sdegen.datasets.conditions import Conditions, conditions_of
from sdegen.datasets.description import NAMELESS, Description
from sdegen.datasets.disk import Disk, once
from sdegen.datasets.units import Affine, Units
from sdegen.sde.mixture import GaussianMixture

Simulate = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Function that draws n pairs: points ``(n, *)`` and their conditions ``(n, *)``, both in the user's units."""
Posterior = Callable[[Tensor, int, torch.Generator], Tensor | None]
"""Function that draws n exact points ``(n, *)`` given one condition ``(*)``, both in the user's units."""
Standardize = bool | Literal["robust", "quantile"]
Shuffle = Literal["auto", "rows", "blocks"]


class Dataset:
    r"""Training points in the user's units, with the exact distribution if it is known.

    Vectors are float64. Images keep the number type of the file, such as bytes; :meth:`Units.encode` converts each
    batch to float64.

    Args:
        x: training points, ``(N, *)``.
        held_out: points that are used only for metrics, not for training; None if fresh points can be drawn.
        law: exact distribution, if it is a Gaussian mixture; else None.
        standardize: units of the network. ``true`` centres and scales the points by mean and standard deviation,
            ``robust`` by the median and the 5 and 95 % quantiles. Both scale vectors by coordinate, signals by channel,
            and images as a whole. ``quantile`` is for vectors with skewed columns or outliers: it maps the quantiles of
            each column to the quantiles of a normal distribution (see
            :func:`sdegen.datasets.columns.quantile_units`). ``false`` keeps the user's units.
        levels: number of values that an entry of quantised points can have, from 0 to ``levels - 1``. The only effect
            is that likelihoods are computed for dequantised points.
        units: map to the network's units; None for the units of ``standardize``.
        y: class of each training point, ``(N,)`` integers from 0; None if there are no classes.
        held_out_y: class of each held-out point; None if there are no classes.
        classes: number of classes; None if there are no classes.
        c: conditions of the training points in the user's units: numbers ``(N, k)``, or images or signals on the grid
            of the points, ``(N, C, *)``; None if there are no conditions.
        held_out_c: conditions of the held-out points; None if there are no conditions.
        dequantize: true to add noise :math:`U(-\tfrac12, \tfrac12)`, in the user's units, to the training points. The
            noise is drawn anew at every step. With ``standardize=quantile`` and without ``levels``, only columns with
            tied values are dequantised, and the noise is multiplied by the distance between the values of the column.
        disk: place of the training points on the disk, if they stay there and each batch is copied from there; else
            None.
        shuffle: order of the training points in an epoch. ``rows``: all orders are equally likely. ``blocks``: blocks
            of neighbouring points, each of 1 MiB, are in random order, and the points of 256 successive blocks are in
            random order; the data are then read from the disk ahead of the training. ``auto``: ``blocks`` for data of
            more than 2 GiB on the disk, else ``rows``.
        draw: function that draws n independent points of the exact distribution; None if it is not known.
        draw_labelled: function that draws n such points and their classes; it replaces ``draw`` for data with classes.
        simulate: function that draws n pairs of a point and its condition; it replaces ``draw`` for such data.
        fresh: True if each step trains on new pairs from ``simulate``, instead of on ``x`` and ``c``.
        posterior: function that draws n exact points given one condition, or returns None for a condition that no point
            has; None if this is not known.
        joint: exact distribution of a point and its condition, one after the other in a vector; None if it is not known
            or not a Gaussian mixture.
        modes: function that returns the mode of each point, ``(N,)`` integers; None if there are no distinct modes.
        off_support: function that returns True for points off the support, ``(N,)``; None if this is not tested.
        description: names of columns and classes, and a report of what was read.

    Raises:
        ValueError: the values, the labels and the levels contradict each other.
    """

    ROWS, BLOCK = 2**31, 2**20
    """Size in bytes up to which ``shuffle=auto`` means ``rows`` for data on the disk, and size of a block."""

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
        c: Tensor | None = None,
        held_out_c: Tensor | None = None,
        dequantize: bool = False,
        disk: Disk | None = None,
        shuffle: Shuffle = "auto",
        draw: Callable[[int, torch.Generator], Tensor] | None = None,
        draw_labelled: Callable[[int, torch.Generator], tuple[Tensor, Tensor]] | None = None,
        simulate: Simulate | None = None,
        fresh: bool = False,
        posterior: Posterior | None = None,
        joint: GaussianMixture | None = None,
        modes: Callable[[Tensor], Tensor] | None = None,
        off_support: Callable[[Tensor], Tensor] | None = None,
        description: Description = NAMELESS,
    ) -> None:
        self.x, self.held_out, self.law, self.levels = x.double() if x.ndim == 2 else x, held_out, law, levels
        self.y, self.held_out_y, self.classes = y, held_out_y, classes
        self.dequantize, self.disk, self.shuffle, self.description = dequantize, disk, shuffle, description
        self._draw, self._draw_labelled, self._modes, self._off_support = draw, draw_labelled, modes, off_support
        self.simulate, self.fresh, self._posterior, self.joint = simulate, fresh, posterior, joint
        for part, points, labels in (("train", self.x, y), ("held out", held_out, held_out_y)):
            if points is None:
                continue
            if levels is not None:
                once(disk, (part, points.shape, levels), partial(check_levels, levels, points))
            if labels is not None or classes is not None:
                check_labels(classes, points, labels)
        self.c, self.held_out_c = (None if part is None else part.double() for part in (c, held_out_c))
        self.conditions: Conditions | None = None
        if self.c is not None:
            for points, conditions in ((self.x, self.c), (held_out, self.held_out_c)):
                check_conditions(points, conditions)
            self.conditions = conditions_of(columns.standard_units(self.c), self.c)
        if dequantize and levels is None and standardize != "quantile":
            raise ValueError("dequantize=true needs quantised values: set dataset.levels to the number of values")
        if standardize == "quantile" and self.x.ndim != 2:
            raise ValueError(
                "standardize=quantile is for vectors, not for images or signals: use dataset.standardize=true or robust"
            )
        self.standardize = standardize if units is None else False
        self.cells: Tensor | None = None
        if dequantize:
            one = torch.ones(self.x.shape[1:], dtype=torch.float64)
            self.cells = one if levels is not None else columns.tied_cells(self.x, description.columns)
        self.units = self._chosen_units() if units is None else units

    @property
    def mapped(self) -> bool:
        """True if the training points stay on the disk."""
        return self.disk is not None

    @property
    def block(self) -> int | None:
        """Number of points in a block; None if the points are shuffled by rows."""
        large = self.disk is not None and self.x.nbytes > self.ROWS
        blocks = large if self.shuffle == "auto" else self.shuffle == "blocks"
        return max(1, self.BLOCK // self.x[0].nbytes) if blocks else None

    def _chosen_units(self) -> Units:
        if self.standardize == "robust":
            return columns.robust_units(self.x)
        if self.standardize == "quantile":
            return columns.quantile_units(self.x, self.held_out, self.cells, self.description.columns)
        if self.standardize:
            return once(self.disk, ("units", self.x.shape), partial(columns.standard_units, self.x))
        return Affine(*(fill(self.x.shape[1:], dtype=torch.float64) for fill in (torch.zeros, torch.ones)))

    def concerns(self) -> list[str]:
        """Returns warnings about what was read, and about columns in which a few distant rows determine the scale."""
        remedies = {
            True: "use dataset.standardize=quantile, or robust, which ignores these rows",
            "robust": "dataset.standardize=robust ignores these rows: use dataset.standardize=quantile to keep them",
        }
        found = [*self.description.concerns]
        if self.y is not None:
            rows = torch.bincount(self.y, minlength=self.classes or 0).tolist()
            empty = [self.description.label(number) for number, count in enumerate(rows) if not count]
            found += [f"label {name} has no row to train on: add rows, or remove those of this label" for name in empty]
        if self.conditions is not None and self.conditions.low.ndim == 1:
            constant = torch.nonzero(self.conditions.low == self.conditions.high).flatten().tolist()
            named = [self.description.condition(i) for i in constant]
            found += [
                f"condition {name} is the same in all rows, so nothing can be learned from it: leave it out"
                for name in named
            ]
        if self.standardize in remedies and self.units.kind == "vectors":
            carried = columns.carried_by_few(self.x, self.description.columns)
            found += [f"{concern}: {remedies[self.standardize]}" for concern in carried]
        return found

    @property
    def encoded_law(self) -> GaussianMixture | None:
        """Exact distribution in the network's units; None if it is not known or the units are not affine."""
        affine = self.units.affine
        return None if self.law is None or affine is None else self.law.affine(affine.shift, affine.scale)

    def rounded(self, x: Tensor) -> Tensor:
        """Returns the points ``x`` ``(N, *)``, in the user's units, with dequantised columns rounded to levels."""
        if self.cells is None:
            return x
        first, step = self.x[0].double(), torch.where(self.cells > 0, self.cells, 1.0)
        return torch.where(self.cells > 0, first + step * ((x - first) / step).round(), x)

    def dequantized(self, x: Tensor, source: torch.Generator) -> Tensor:
        """Returns the points ``x`` ``(N, *)``, in the user's units, with uniform noise added to dequantised columns."""
        if self.cells is None:
            return x
        return x.double() + self.cells * (torch.rand(x.shape, generator=source, dtype=torch.float64) - 0.5)

    def draw(self, n: int, source: torch.Generator) -> Tensor | None:
        """Draws ``n`` independent points of the exact distribution, ``(n, *)``; returns None if it is not known."""
        if self._draw_labelled is not None:
            return self._draw_labelled(n, source)[0]
        if self.simulate is not None:
            return self.simulate(n, source)[0].double()
        return None if self._draw is None else self._draw(n, source)

    def draw_labelled(self, n: int, source: torch.Generator) -> tuple[Tensor, Tensor] | None:
        """Draws the points of :meth:`draw` and their classes, ``(n,)``; returns None if these are not known."""
        return None if self._draw_labelled is None else self._draw_labelled(n, source)

    def posterior(self, c: Tensor, n: int, source: torch.Generator) -> Tensor | None:
        """Draws ``n`` exact points ``(n, *)`` given one condition ``c`` ``(*)``; returns None if this is not known.

        Points and conditions are in the user's units.
        """
        drawn = None if self._posterior is None else self._posterior(c, n, source)
        return None if drawn is None else drawn.double()

    def given(self, c: Tensor) -> Dataset | None:
        """Returns a data set of exact points given one condition ``c``, in the same units; None if they are unknown."""
        points = self.posterior(c, len(self.x), generator("cpu", 0, "given"))
        if points is None:
            return None
        own = copy.copy(self)
        own.x, own.c, own.conditions, own.law, own.simulate, own.fresh = points, None, None, None, None, False
        own._draw, own._modes = lambda n, source: self.posterior(c, n, source), None  # type: ignore[assignment, return-value]
        return own

    @property
    def encoded_conditions(self) -> Tensor | None:
        """Conditions of the training points in the network's units, ``(N, *)`` float64; None if there are none."""
        return None if self.c is None or self.conditions is None else self.conditions.encode(self.c)

    @property
    def encoded_joint(self) -> GaussianMixture | None:
        """Joint distribution in the network's units; None if it is not known or the units are not affine."""
        points = self.units.affine
        if self.joint is None or self.conditions is None or points is None:
            return None
        both = (points, self.conditions.units)
        return self.joint.affine(*(torch.cat([getattr(u, part) for u in both]) for part in ("shift", "scale")))

    def of_class(self, label: int) -> Dataset:
        """Returns the points of a class, in the same units, with the draws and the exact distribution of the class."""
        assert self.y is not None
        own, rows = copy.copy(self), _rows_of(label, self.y)
        own.x, own.y, own.c = self.x[rows], self.y[rows], None if self.c is None else self.c[rows]
        if self.held_out is not None and self.held_out_y is not None:
            rows = _rows_of(label, self.held_out_y)
            own.held_out, own.held_out_y = self.held_out[rows], self.held_out_y[rows]
            own.held_out_c = None if self.held_out_c is None else self.held_out_c[rows]
            if not len(own.held_out):
                own.held_out = own.held_out_y = own.held_out_c = None
        own.law = None if self.law is None or self.law.labels is None else self.law.of_class(label)
        draws, share = self._draw_labelled, len(own.x) / len(self.x)

        def draw(n: int, source: torch.Generator) -> Tensor:
            parts, size = [self.x[:0].double()], math.ceil(n / share)
            while sum(map(len, parts)) < n:
                x, y = draws(size, source)  # type: ignore[misc]
                parts.append(x[y == label])
            return torch.cat(parts)[:n]

        own._draw, own._draw_labelled = draw if draws is not None and share else None, None
        return own

    def modes(self, x: Tensor) -> Tensor | None:
        """Returns the mode of each point, ``(N,)`` integers; None if there are no distinct modes."""
        return None if self._modes is None else self._modes(x)

    def off_support(self, x: Tensor) -> Tensor | None:
        """Returns True for points off the support, ``(N,)`` booleans; None if this is not tested."""
        return None if self._off_support is None else self._off_support(x)


def _rows_of(label: int, y: Tensor) -> Tensor | slice:
    """Returns the rows with a label: a slice if they follow each other, which copies nothing from the disk."""
    rows = torch.nonzero(y == label).flatten()
    if len(rows) and int(rows[-1] - rows[0]) == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def split(y: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Returns the indices of the points to train on and of the points to hold out, ascending.

    ``y`` ``(N,)`` holds the classes. The fraction ``share`` of each class is held out, rounded to whole points; at
    least one point of each class is left to train on. The split does not depend on the seed of the run, so that no run
    is trained on the held-out points of another run.
    """
    source, kept = generator("cpu", 0, "split"), torch.zeros(len(y), dtype=torch.bool)
    for label in y.unique():
        members = torch.nonzero(y == label).flatten()
        order = torch.randperm(len(members), generator=source)
        kept[members[order[: min(round(share * len(members)), len(members) - 1)]]] = True
    return torch.nonzero(~kept).flatten(), torch.nonzero(kept).flatten()
