"""Labels of points, and the classes that they stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.datasets import numerals
from sdegen.datasets.numerals import is_missing

FEW_ROWS = 20
"""Number of rows up to which every row may have its own class."""


class Labels(NamedTuple):
    """Labels ``(N,)``, which are words, booleans or numbers, and the name of their column or array."""

    name: str
    values: np.ndarray


def classes_of(labels: Labels) -> tuple[Tensor, tuple[str, ...]]:
    """Returns the class of each label, ``(N,)`` integers from 0, and the names of the classes.

    Classes are sorted, numbers by value. If the labels are the numbers of the classes, the names are empty. Texts are
    words if one has a leading zero, so that 01 and 1 are different.

    Raises:
        ValueError: the labels are no classes.
    """
    name, values = labels
    if values.dtype.kind in "SU":
        values = values.astype(str)
        values = values if are_codes(values) else numerals.values(values.tolist(), ".")
    if values.dtype.kind not in "biufU":
        raise ValueError(f"{name}: holds {values.dtype}, which are no labels: give words, booleans or integers")
    known = np.array([not is_missing(v) for v in values]) if values.dtype.kind == "U" else np.isfinite(values)
    if missing := len(values) - int(known.sum()):
        raise ValueError(f"{name}: {missing} of {len(values)} labels are missing: fill them, or remove these rows")
    found, y = np.unique(values, return_inverse=True)
    if not may_be_classes(len(found), len(values)):
        raise ValueError(
            f"{name}: {len(found)} of {len(values)} labels are different, so they are no classes: choose other labels "
            f"with dataset.labels="
        )
    names = tuple(map(word, found))
    if "all" in names:
        raise ValueError(f"{name}: a class has the label all, but label=all means every class: rename it")
    numbered = names == tuple(map(str, range(len(names))))
    return torch.from_numpy(y.astype(np.int64)), () if numbered else names


def are_codes(texts: Sequence[str] | np.ndarray) -> bool:
    """Returns True if a text begins with a zero and another digit, as codes do and numbers do not."""
    return any(re.match(r"\s*0[0-9]", text) for text in texts)


def word(value: np.generic) -> str:
    """Returns a value as text, whole numbers without a decimal point."""
    if value.dtype.kind != "f":
        return str(value)
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def may_be_classes(different: int, rows: int) -> bool:
    """Returns True if the labels of all rows repeat enough to be classes."""
    return rows <= FEW_ROWS or 2 * different <= rows
