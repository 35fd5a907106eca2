"""Names of the columns and classes of data, and what is to be said about the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sdegen.core.errors import nearest
from sdegen.datasets import numerals


class Description(NamedTuple):
    """Names of the columns and classes of data, and a report of what was read.

    Attributes:
        columns: names of the coordinates of vectors; empty if the coordinates have no names.
        classes: names of the classes, in the order of the class numbers; empty if the names are the numbers.
        report: sentences about the file: what was read, and what was left out and why.
        concerns: warnings about what was read, each with the option that mends it.
        conditions: names of the numbers that are the conditions of vectors; empty if they have no names.
    """

    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    report: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()

    def names(self) -> dict[str, list[str]]:
        """Returns the names of columns, classes and conditions as plain data."""
        return {"columns": list(self.columns), "classes": list(self.classes), "conditions": list(self.conditions)}

    def column(self, number: int) -> str:
        """Returns the name of a coordinate, such as x1, if it has no name in the data."""
        return self.columns[number] if self.columns else f"x{number + 1}"

    def condition(self, number: int) -> str:
        """Returns the name of a number of the condition, such as y1, if it has no name in the data."""
        return self.conditions[number] if self.conditions else f"y{number + 1}"

    def label(self, number: int) -> str:
        """Returns the user's label of a class."""
        return self.classes[number] if self.classes else str(number)

    def number(self, label: float | str, classes: int) -> int:
        """Returns the number of the class with a label, given as in the data (red, 7) or otherwise (RED, 7.0).

        Raises:
            ValueError: no class has this label.
        """
        names = [self.label(number) for number in range(classes)]
        if str(label) in names:
            return names.index(str(label))
        for number, name in enumerate(names):
            if name.lower() == str(label).lower() or (_value(name) is not None and _value(label) == _value(name)):
                return number
        raise ValueError(f"label={label} is no class of the data: {_choices(str(label), names)}")


NAMELESS = Description()
"""Description of data without names."""


def _value(label: float | str) -> float | None:
    """Returns the value of a label that is a number, else None."""
    return numerals.number(str(label), ".") if numerals.is_number(str(label), ".") else None


def _choices(label: str, names: Sequence[str]) -> str:
    """Returns the end of a message about a label that is none of ``names``."""
    if list(names) == [str(i) for i in range(len(names))]:
        return f"choose from 0 to {len(names) - 1}"
    return nearest(label, names) if len(names) < 30 else f"choose from {names[0]} to {names[-1]}"
