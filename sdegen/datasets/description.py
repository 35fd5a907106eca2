"""Names of the columns and classes of data, and the report and the warnings about what was read."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from sdegen.datasets import numerals

LISTED = 10
"""Largest number of labels that a message lists."""


class Description(NamedTuple):
    """Names of the columns and classes of data, and a report of what was read.

    Attributes:
        columns: names of the coordinates of vectors; empty if the coordinates have no names.
        classes: names of the classes, in the order of the class numbers; empty if the names are the numbers.
        report: sentences about the file: what was read, what was left out, and why.
        concerns: warnings about what was read, each with the option that mends it.
        conditions: names of the numbers that are the conditions of vectors; empty if they have no names.
        labels: name of the column with the labels; empty if it has no name.
        decimal: decimal sign of the file; None if the data are not from a table.
    """

    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    labels: str = ""
    decimal: numerals.Decimal | None = None

    def names(self) -> dict[str, list[str]]:
        """Returns the names of columns, classes and conditions as plain data."""
        return {"columns": list(self.columns), "classes": list(self.classes), "conditions": list(self.conditions)}

    def column(self, number: int) -> str:
        """Returns the name of a coordinate; a coordinate without a name is called x1, x2 and so on."""
        return self.columns[number] if self.columns else f"x{number + 1}"

    def condition(self, number: int) -> str:
        """Returns the name of a number of the condition; a number without a name is called y1, y2 and so on."""
        return self.conditions[number] if self.conditions else f"y{number + 1}"

    def label(self, number: int) -> str:
        """Returns the user's label of a class."""
        return self.classes[number] if self.classes else str(number)

    def number(self, label: float | str, classes: int) -> int:
        """Returns the number of the class with a label, written as in the data (red, 7) or in another way (RED, 7.0).

        Raises:
            ValueError: no class has this label.
        """
        names = [self.label(number) for number in range(classes)]
        if str(label) in names:
            return names.index(str(label))
        value = _value(label)
        alike = [n for n in names if n.lower() == str(label).lower() or (value is not None and _value(n) == value)]
        if len(alike) == 1:
            return names.index(alike[0])
        fix = f"choose {' or '.join(alike)}" if alike else _choices(str(label), names)
        raise ValueError(f"label={label} is no class of the data: {fix}")


NAMELESS = Description()
"""Description of data without names."""


def _value(label: float | str) -> float | None:
    """Returns the value of a label that is a number, else None."""
    return numerals.number(str(label), ".") if numerals.is_number(str(label), ".") else None


def _choices(label: str, names: Sequence[str]) -> str:
    """Returns the end of a message about a label that is none of ``names``."""
    if list(names) == [str(i) for i in range(len(names))]:
        return f"choose from 0 to {len(names) - 1}"
    listed = ", ".join(names[:LISTED]) + (f", … ({len(names)} in all)" if len(names) > LISTED else "")
    near = difflib.get_close_matches(label, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}? The labels are {listed}" if near else f"choose from {listed}"
