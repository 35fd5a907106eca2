"""Units of the network for points, also for columns with outliers, tied values or skew."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sdegen.core.tensors import chunks
from sdegen.datasets.units import Affine, Quantile

KNOTS = 1000
"""Largest number of knots for each column."""
ROWS_PER_KNOT = 20
"""Number of rows for each knot. A count of 20 rows has a relative error of about 1/5, and so has the slope."""
LEAST_KNOTS = 20
"""Number of knots for a small data set, unless it has fewer distinct values."""
TIES = 0.05
"""Largest share of the rows that may have the same value in a column with a continuous map."""
OUTER = 0.05
"""Share of the rows below the 5 % quantile, and share of the rows above the 95 % quantile."""
BETWEEN = 3.2897072539029457
"""Distance between the 5 % and the 95 % quantile of a standard normal distribution."""
SQUEEZED = 0.1
"""Limit of the standard deviation of a column without a few rows, divided by the standard deviation of all rows.

Below this limit, :func:`carried_by_few` warns.
"""
FEW = 0.01
"""Largest share of all rows that counts as a few rows."""
LEAST_ROWS = 20
"""Smallest number of rows for which the scale is checked."""
SAMPLE = 2**24
"""Largest number of pixels for quantiles. The pixels are from images spread evenly over the data."""


def standard_units(x: Tensor) -> Affine:
    """Returns the units in which the points ``x`` ``(N, *)`` have mean 0 and standard deviation 1.

    Vectors are scaled by coordinate. Signals are scaled by channel, because channels may have different physical units,
    and steps have the same. Images are scaled as a whole.
    """
    shape = x.shape[1:]
    axes = {2: (0,), 3: (0, 2)}.get(x.ndim, tuple(range(x.ndim)))
    pieces = (piece.double() for piece in chunks(x))
    parts = [
        (len(piece) / len(x), piece.mean(axes, keepdim=True)[0], piece.std(axes, correction=0, keepdim=True)[0])
        for piece in pieces
    ]
    shift = torch.stack([weight * mean for weight, mean, _ in parts]).sum(0)
    deviation = torch.stack([weight * (std**2 + (mean - shift) ** 2) for weight, mean, std in parts]).sum(0).sqrt()
    # A constant coordinate has no scale: use 1.
    scale = torch.where(deviation > 0, deviation, 1.0)
    return Affine(shift.expand(shape).clone(), scale.expand(shape).clone())


def robust_units(x: Tensor) -> Affine:
    """Returns the units in which the median is 0 and the 5 and 95 % quantiles are as far apart as for N(0, 1).

    Vectors ``(N, d)`` are scaled by coordinate, signals ``(N, C, L)`` by channel, and images ``(N, C, H, W)`` as a
    whole. If both quantiles are equal, the scale is the standard deviation, or 1 if the standard deviation is 0.
    """
    shape, vectors = tuple(x.shape[1:]), x.ndim == 2
    if not vectors:
        x = x[:: -(-x.numel() // SAMPLE)]
        x = x.transpose(1, 2).reshape(-1, shape[0]) if x.ndim == 3 else x.reshape(-1, 1)
    x = x.double().sort(0).values
    low, middle, high = (_quantile(x, q) for q in (OUTER, 0.5, 1 - OUTER))
    deviation = x.std(0, correction=0)
    scale = torch.where(high > low, (high - low) / BETWEEN, torch.where(deviation > 0, deviation, 1.0))
    if vectors:
        return Affine(middle, scale)
    own = (-1, *[1] * (len(shape) - 1))
    return Affine(*(value.reshape(own).expand(shape).clone() for value in (middle, scale)))


def quantile_units(x: Tensor, held_out: Tensor | None, cells: Tensor | None, names: Sequence[str] = ()) -> Quantile:
    """Returns the map of each column of points ``(N, d)`` to normal scores through at most :data:`KNOTS` quantiles.

    The knots are values of the column, about equally spaced in their normal scores, from the smallest to the largest
    value.
    The slope of a tail is the slope of the outermost piece, or the average slope of all pieces if the average is
    larger, because one distant row does not imply that other rows are even farther away.

    Args:
        x: points, ``(N, d)``.
        held_out: held-out points; the logarithm of a column is used only if these points are positive as well.
        cells: width of the dequantisation noise of each column, ``(d,)``; 0 for no noise.
        names: names of the columns, for messages.

    Raises:
        ValueError: too many rows of a column have the same value.
    """
    check_varied(x, names)
    widths = x.new_zeros(x.shape[1]) if cells is None else cells
    for column, width in enumerate(widths):
        if not width and (tied := _tied(x[:, column])) is not None:
            value, share = tied
            raise ValueError(
                f"standardize=quantile: {_title(names, column)}: {share:.1%} of the rows are {value:.6g}, but a "
                f"continuous map allows at most {TIES:.0%}: spread these rows with dataset.dequantize=true, or use "
                f"dataset.standardize=robust"
            )
    lowest = x.amin(0) if held_out is None else torch.minimum(x.amin(0), held_out.double().amin(0))
    logarithm = lowest - widths / 2 > 0
    columns = []
    for column, width in enumerate(widths):
        values = _spread(x[:, column], float(width)) if width else x[:, column]
        columns.append(_knots(values.log() if logarithm[column] else values))
    most = max(len(part[0]) for part in columns)
    knots, scores, slopes = (
        torch.stack(part) for part in zip(*(_padded(*part, most) for part in columns), strict=True)
    )
    return Quantile(knots, scores, slopes, logarithm)


def tied_cells(x: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Returns the width of the dequantisation noise of each column, ``(d,)``.

    The width is the distance between neighbouring values of a column with tied values, and 0 for all other columns.

    Raises:
        ValueError: the values of a tied column are not multiples of a step.
    """
    check_varied(x, names)
    cells = x.new_zeros(x.shape[1])
    for column, values in enumerate(x.T):
        if (tied := _tied(values)) is None:
            continue
        distinct = values.unique()
        step = distinct.diff().min()
        places = (distinct - distinct[0]) / step
        if bool(((places - places.round()).abs() > 1e-6).any()):
            raise ValueError(
                f"dequantize=true: {_title(names, column)}: {tied[1]:.1%} of the rows are {tied[0]:.6g}, but the "
                f"values are not multiples of one step: use dataset.standardize=robust, or leave the column out"
            )
        cells[column] = step
    return cells


def check_varied(x: Tensor, names: Sequence[str] = ()) -> None:
    """Raises ValueError if a column of points ``(N, d)`` is constant and has no distinct quantiles."""
    constant = torch.nonzero(x.amin(0) == x.amax(0)).flatten()
    if len(constant):
        raise ValueError(
            f"standardize=quantile: {_title(names, int(constant[0]))} never changes: leave it out, or use "
            f"dataset.standardize=true"
        )


def carried_by_few(x: Tensor, names: Sequence[str] = ()) -> list[str]:
    """Returns a line of text for each column of the points ``x`` ``(N, d)`` in which a few rows determine the scale.

    A few rows are one row, or at most 1 % of all rows. They determine the scale if the standard deviation of the other
    rows is below a tenth of the standard deviation of all rows. Columns in which the other rows are all equal are
    skipped.
    """
    if len(x) < LEAST_ROWS:
        return []
    most, found = max(1, int(FEW * len(x))), []
    for column, values in enumerate(x.double().T):
        values = values[(values - values.median()).abs().argsort()]
        whole, left = float(values.std(correction=0)), _deviations(values, most)
        if not 0 < left[most] < SQUEEZED * whole:
            continue
        # Find the smallest number of rows without which the deviation of the other rows is close to its smallest value.
        count = int(torch.nonzero(left < min(2 * float(left[most]), SQUEEZED * whole))[0])
        far = (values[-count:] - values.mean()).square().sum() / (values - values.mean()).square().sum()
        found.append(
            f"{_title(names, column)}: {count} of {len(x)} rows contribute {float(far):.1%} of the variance; without "
            f"them the standard deviation is {float(left[count]) / whole:.2g} times as large"
        )
    return found


def _title(names: Sequence[str], column: int) -> str:
    """Returns a column's name, or its number if the columns have no names, for messages."""
    return f"column {names[column] if names else column + 1}"


def _deviations(values: Tensor, most: int) -> Tensor:
    """Returns the standard deviations of ``values`` without the last k numbers, for k from 0 to ``most``.

    The first number must be typical: it is subtracted from all numbers to reduce rounding errors.
    """
    sums = [(values - values[0]).pow(power).cumsum(0)[len(values) - most - 1 :] for power in (1, 2)]
    mean, square = (part / torch.arange(len(values) - most, len(values) + 1) for part in sums)
    return (square - mean**2).clamp(min=0).sqrt().flip(0)


def _quantile(ordered: Tensor, q: float) -> Tensor:
    """Returns quantiles of sorted columns ``(N, d)`` by linear interpolation. torch.quantile accepts fewer rows."""
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], at - low)


def _tied(values: Tensor) -> tuple[float, float] | None:
    """Returns the most frequent value and its share; None if the share is at most :data:`TIES`, or only one row."""
    distinct, counts = values.unique(return_counts=True)
    top = int(counts.argmax())
    share = float(counts[top]) / len(values)
    return (float(distinct[top]), share) if counts[top] > 1 and share > TIES else None


def _spread(values: Tensor, width: float) -> Tensor:
    """Returns the sorted values, with tied values spread evenly over a cell of the width ``width``."""
    ordered = values.sort().values
    distinct, inverse, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.arange(len(ordered), dtype=torch.float64) - (counts.cumsum(0) - counts)[inverse]
    return distinct[inverse] + width * ((place + 0.5) / counts[inverse] - 0.5)


def _knots(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns knots, scores and slopes of a column. The knots are about equally spaced in their normal scores."""
    distinct, counts = values.unique(return_counts=True)
    # Tied rows get the mean of their ranks.
    scores = torch.special.ndtri((counts.cumsum(0) - counts.double() / 2) / len(values))
    most = min(KNOTS, max(LEAST_KNOTS, len(values) // ROWS_PER_KNOT))
    wanted = torch.linspace(float(scores[0]), float(scores[-1]), most, dtype=torch.float64)
    inner = torch.searchsorted(scores, wanted[1:-1])
    chosen = torch.cat([torch.tensor([0]), inner, torch.tensor([len(distinct) - 1])]).unique()
    knots, scores = distinct[chosen], scores[chosen]
    secants = scores.diff() / knots.diff()
    average = (scores[-1] - scores[0]) / (knots[-1] - knots[0])
    ends = [torch.maximum(secants[i], average)[None] for i in (0, -1)]
    return knots, scores, torch.cat([ends[0], (secants[:-1] * secants[1:]).sqrt(), ends[1]])


def _padded(knots: Tensor, scores: Tensor, slopes: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the same map with ``most`` knots; the added knots lie on the upper tail."""
    added = torch.arange(1, most - len(knots) + 1) * (knots[-1] - knots[0])
    more = scores[-1] + slopes[-1] * added
    return (
        torch.cat([knots, knots[-1] + added]),
        torch.cat([scores, more]),
        torch.cat([slopes, slopes[-1].expand(len(added))]),
    )
