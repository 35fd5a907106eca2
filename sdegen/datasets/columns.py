"""Units for columns of points with outliers, ties and skew."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdegen.datasets.units import Affine, Quantile

KNOTS = 1000
"""Largest number of knots of a map."""
ROWS_PER_KNOT = 20
"""Number of rows for each knot. A count of 20 rows, and with it the slope of a piece, has a relative error of 1/5."""
LEAST_KNOTS = 20
"""Number of knots for a small data set, unless it has fewer distinct values."""
TIES = 0.05
"""Largest share of the rows that may have the same value in a column with a continuous map."""
OUTER = 0.05
"""Share of the rows below the lower quantile of a robust scale, and above the upper one."""
BETWEEN = 3.2897072539029457
"""Distance between these two quantiles of a standard normal distribution."""
SQUEEZED = 0.1
"""A few rows carry the scale if the deviation of the other rows is below this share of the deviation of all."""
FEW = 0.01
"""Largest share of all rows that counts as a few rows."""
LEAST_ROWS = 20
"""Smallest number of rows for which the scale is checked."""
SAMPLE = 2**24
"""Largest number of pixels for quantiles; they are from images spread evenly through the data."""


def robust_units(x: Tensor) -> Affine:
    """Returns the units in which points have median 0 and the 5 to 95 % interquantile distance of a standard normal.

    Vectors ``(N, d)`` are scaled by coordinate, images ``(N, C, H, W)`` as a whole. If both quantiles are equal, the
    scale is the standard deviation, or 1 if this is 0 too.
    """
    shape, vectors = tuple(x.shape[1:]), x.ndim == 2
    if not vectors:
        x = x[:: -(-x.numel() // SAMPLE)].reshape(-1, 1)
    x = x.double().sort(0).values
    low, middle, high = (_quantile(x, q) for q in (OUTER, 0.5, 1 - OUTER))
    deviation = x.std(0, correction=0)
    scale = torch.where(high > low, (high - low) / BETWEEN, torch.where(deviation > 0, deviation, 1.0))
    if vectors:
        return Affine(middle, scale)
    return Affine(*(value.expand(math.prod(shape)).reshape(shape).clone() for value in (middle, scale)))


def quantile_units(x: Tensor, held_out: Tensor | None, cells: Tensor | None) -> Quantile:
    """Returns the map of each column of points ``(N, d)`` to normal scores through at most :data:`KNOTS` quantiles.

    The knots are rows of the data, about equally spaced in their normal scores, from the smallest to the largest row.
    The slope of a tail is the slope of the outermost piece, or the average slope of all pieces if this is larger: one
    distant row does not imply other rows that are farther still.

    Args:
        x: the points.
        held_out: the points kept from training; the logarithm of a column is used only if they are positive as well.
        cells: the width of dequantisation of each column, ``(d,)``; 0 for none.

    Raises:
        ValueError: too many rows of a column have the same value.
    """
    check_varied(x)
    widths = x.new_zeros(x.shape[1]) if cells is None else cells
    for column, width in enumerate(widths):
        if not width and (tied := _tied(x[:, column])) is not None:
            value, share = tied
            raise ValueError(
                f"standardize=quantile: column {column + 1}: {share:.1%} of the rows are {value:.6g}, but a continuous "
                f"map allows at most {TIES:.0%}: spread them with dataset.dequantize=true, or use "
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


def tied_cells(x: Tensor) -> Tensor:
    """Returns the width of dequantisation of each column, ``(d,)``: the step between tied values, 0 without ties.

    Raises:
        ValueError: the values of a tied column are not multiples of a step.
    """
    check_varied(x)
    cells = x.new_zeros(x.shape[1])
    for column, values in enumerate(x.T):
        if (tied := _tied(values)) is None:
            continue
        distinct = values.unique()
        step = distinct.diff().min()
        places = (distinct - distinct[0]) / step
        if bool(((places - places.round()).abs() > 1e-6).any()):
            raise ValueError(
                f"dequantize=true: column {column + 1}: {tied[1]:.1%} of the rows are {tied[0]:.6g}, but the values "
                f"are not multiples of one step: use dataset.standardize=robust, or leave the column out"
            )
        cells[column] = step
    return cells


def check_varied(x: Tensor) -> None:
    """Raises ValueError if a column of points ``(N, d)`` is constant and so has no quantiles."""
    constant = torch.nonzero(x.amin(0) == x.amax(0)).flatten()
    if len(constant):
        raise ValueError(
            f"standardize=quantile: column {int(constant[0]) + 1} never changes: leave it out, or use "
            f"dataset.standardize=true"
        )


def carried_by_few(x: Tensor) -> list[str]:
    """Returns a line for each column of points ``(N, d)`` in which a few rows carry the scale.

    A few rows are one row, or at most a hundredth of all. They carry the scale if the standard deviation of the other
    rows is below a tenth of the deviation of all rows. Columns in which the other rows are all equal are skipped.
    """
    if len(x) < LEAST_ROWS:
        return []
    most, found = max(1, int(FEW * len(x))), []
    for column, values in enumerate(x.double().T):
        values = values[(values - values.median()).abs().argsort()]
        whole, left = float(values.std(correction=0)), _deviations(values, most)
        if not 0 < left[most] < SQUEEZED * whole:
            continue
        # The smallest number of rows that must be removed to bring the deviation of the other rows near its limit.
        count = int(torch.nonzero(left < min(2 * float(left[most]), SQUEEZED * whole))[0])
        far = (values[-count:] - values.mean()).square().sum() / (values - values.mean()).square().sum()
        found.append(
            f"column {column + 1}: {count} of {len(x)} rows carry {float(far):.1%} of the variance; without them "
            f"the standard deviation is {float(left[count]) / whole:.2g} times as large"
        )
    return found


def _deviations(values: Tensor, most: int) -> Tensor:
    """Returns the deviations of numbers without the last k, for k from 0 to ``most``; the first number is typical."""
    sums = [(values - values[0]).pow(power).cumsum(0)[len(values) - most - 1 :] for power in (1, 2)]
    mean, square = (part / torch.arange(len(values) - most, len(values) + 1) for part in sums)
    return (square - mean**2).clamp(min=0).sqrt().flip(0)


def _quantile(ordered: Tensor, q: float) -> Tensor:
    """Returns quantiles of sorted columns ``(N, d)``, by linear interpolation; torch.quantile takes fewer rows."""
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(ordered) - 1)], at - low)


def _tied(values: Tensor) -> tuple[float, float] | None:
    """Returns the most frequent value and its share, if this is above :data:`TIES` and more than one row."""
    distinct, counts = values.unique(return_counts=True)
    top = int(counts.argmax())
    share = float(counts[top]) / len(values)
    return (float(distinct[top]), share) if counts[top] > 1 and share > TIES else None


def _spread(values: Tensor, width: float) -> Tensor:
    """Returns sorted values, in which tied values are evenly spaced over their cell."""
    ordered = values.sort().values
    distinct, inverse, counts = ordered.unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.arange(len(ordered), dtype=torch.float64) - (counts.cumsum(0) - counts)[inverse]
    return distinct[inverse] + width * ((place + 0.5) / counts[inverse] - 0.5)


def _knots(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns knots, scores and slopes of a column: rows about equally spaced in their normal scores."""
    distinct, counts = values.unique(return_counts=True)
    # Tied rows have their middle rank.
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
    """Returns the same map with ``most`` knots; the added knots lie on its upper tail."""
    added = torch.arange(1, most - len(knots) + 1) * (knots[-1] - knots[0])
    more = scores[-1] + slopes[-1] * added
    return (
        torch.cat([knots, knots[-1] + added]),
        torch.cat([scores, more]),
        torch.cat([slopes, slopes[-1].expand(len(added))]),
    )
