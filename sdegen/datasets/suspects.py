"""Columns and rows that may not be what the user thinks, each with the option or the change that mends it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import numpy as np

from sdegen.datasets.table import setting, title

LEAST_ROWS = 20
"""Smallest number of rows for which columns are examined."""
MOST_LABELS = 10
"""Largest number of different integers in a column that may be labels."""
ROWS_PER_LABEL = 5
"""Smallest number of rows for each of these integers."""
REPEATED = 0.05
"""Smallest share of the rows that repeat an earlier row and are named."""


def suspects(columns: Mapping[str, np.ndarray], labelled: bool) -> tuple[str, ...]:
    """Returns warnings for suspicious columns, which are indices, constants, copies and labels, and for copied rows.

    Args:
        columns: coordinates of the points by name, ``(N,)`` finite numbers, in the order of the file.
        labelled: True if the points have labels.
    """
    if len(columns) < 2 or len(next(iter(columns.values()))) < LEAST_ROWS:
        return ()
    found: list[str] = []
    constant = [name for name, values in columns.items() if (values == values[0]).all()]
    index = [name for name, values in columns.items() if _is_index(name, values)]
    copies = _copies(columns, {*constant})
    labels = [name for name, values in columns.items() if name not in constant and _may_be_label(values)]
    found += [f"{title(name)} numbers the rows: {_drop([name])}, if it is an index" for name in index]
    if constant:
        found.append(f"{_all(constant)} never change{'s' * (len(constant) == 1)}: {_drop(constant)}")
    found += [f"{title(name)} is a copy of {title(first)}: {_drop([name])}" for name, first in copies.items()]
    # If half of the columns have few values, these values are more likely grey levels or counts.
    if not labelled and 2 * len(labels) < len(columns) + 1:
        found += [
            f"{title(name)} has only {len(np.unique(columns[name]))} different values, all integers: if it is a class, "
            f"use it as the label with {setting('labels', name)}"
            for name in labels
        ]
    if repeated := _repeated(columns):
        found.append(
            f"{repeated} of {len(next(iter(columns.values())))} rows repeat an earlier row: if they are copies, remove "
            f"them, because the held-out rows would then be rows of the training, and the measures too good"
        )
    return tuple(found)


def _repeated(columns: Mapping[str, np.ndarray]) -> int:
    """Returns the number of rows that repeat an earlier row, and 0 if they are few, or coarse values explain them."""
    values, finest = list(columns.values()), 0
    for column in values:
        finest = max(finest, len(np.unique(column)))
        if finest > (1 - REPEATED) * len(column):
            return 0
    different = len(np.unique(np.stack(values, axis=1), axis=0))
    # Rows of rounded numbers may be equal by chance. Then even the finest column has the same value in many rows.
    return len(values[0]) - different if 2 * finest >= different else 0


def _is_index(name: str, values: np.ndarray) -> bool:
    """Returns True if a column counts the rows from 0 or 1, in any order, or has the name of an index of pandas."""
    if re.fullmatch(r"Unnamed: \d+|__index_level_\d+__", name):
        return True
    first = values.min()
    return first in (0, 1) and values.max() == first + len(values) - 1 and len(np.unique(values)) == len(values)


def _copies(columns: Mapping[str, np.ndarray], skipped: set[str]) -> dict[str, str]:
    """Returns the columns that are equal to an earlier column, with the name of the first."""
    firsts: dict[bytes, str] = {}
    copies = {}
    for name, values in columns.items():
        if name not in skipped:
            # Adding 0 turns -0 into 0.
            first = firsts.setdefault(hashlib.blake2b((values + 0.0).tobytes()).digest(), name)
            if first != name:
                copies[name] = first
    return copies


def _may_be_label(values: np.ndarray) -> bool:
    # A few rows show most other columns, and sorting all rows of many columns takes long.
    if len(np.unique(values[:200])) > MOST_LABELS or (values != np.round(values)).any():
        return False
    return len(np.unique(values)) <= min(MOST_LABELS, len(values) // ROWS_PER_LABEL)


def _drop(names: list[str]) -> str:
    return f"leave {'it' if len(names) == 1 else 'them'} out with {setting('drop', *names)}"


def _all(names: list[str]) -> str:
    return (
        title(names[0]) if len(names) == 1 else f"columns {', '.join(title(n).removeprefix('column ') for n in names)}"
    )
