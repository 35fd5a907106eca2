"""Metrics of generated signals: distances between sets of signals as vectors of all steps of all channels.

Reference, floor and ``train`` are as for points: see :mod:`sdegen.metrics.points`.
"""

from __future__ import annotations

import copy

from torch import Tensor

from sdegen.datasets import Dataset
from sdegen.metrics.floors import Floors
from sdegen.metrics.images import part, quantized
from sdegen.metrics.points import Metrics, measure_points

REFERENCE = 2000
"""Largest number of signals of a set that are compared. Of a larger set, a random part is used."""


def measure_signals(dataset: Dataset, x: Tensor, floors: Floors | None = None) -> Metrics:
    """Returns the sliced W1 distance and the energy distance of signals ``x`` ``(N, C, L)``, in the user's units.

    Each channel is divided by its standard deviation. The sliced distance sees the covariance of all steps, and the
    energy distance also sees whole signals that are missing. ``floors`` hold the floors that are known already.
    """
    some = copy.copy(dataset)
    some.x, some.held_out = (
        part(dataset.x, REFERENCE),
        None if dataset.held_out is None else part(dataset.held_out, REFERENCE),
    )
    return measure_points(some, part(quantized(x.detach().cpu(), dataset.levels), REFERENCE), floors=floors)
