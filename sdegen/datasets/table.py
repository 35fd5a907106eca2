"""Tables: columns of numbers and words, and the choice among them."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from sdegen.core.errors import nearest
from sdegen.datasets.labels import Labels, are_codes, may_be_classes
from sdegen.datasets.numerals import NAMES, OTHER, is_missing, is_number

Name = str | int
"""Name of a column, or its number in the file, from 1."""

UNITS = re.compile(r"^[^\w.,+()\-\u2212\u2013]+|[^0-9.,()\-\u2212\u2013]+$")
"""Pattern of what may stand before and after a number. Parentheses and dashes may be signs."""


class Refused(ValueError):
    """A table that can be read, but whose meaning is not clear; the message says the options that settle it."""


class Table(NamedTuple):
    """Columns of a file.

    Attributes:
        columns: values of each column by its name, ``(N,)`` numbers or texts. A column without a name is called x1 if
            it is the first, x2 if it is the second, and so on.
        named: True if the file has names for its columns.
        where: function that returns the place of row i in the file, such as ``line 12``.
        notes: sentences about what was read.
        concerns: warnings about the file, with the options that mend it.
        decimal: decimal sign of the texts, for messages.
        numbers: number of each column in the file, from 1; empty if no column of the file was left out.
        texts: texts of the columns that the file stores as text, also of columns of numbers.
    """

    columns: dict[str, np.ndarray]
    named: bool
    where: Callable[[int], str]
    notes: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()
    decimal: str = "."
    numbers: tuple[int, ...] = ()
    texts: Mapping[str, Sequence[str]] = MappingProxyType({})

    def name(self, option: str, wanted: Name) -> str:
        """Returns the name of a column, given by its name or by its number in the file, for messages on ``option``."""
        known = list(self.columns)
        if str(wanted) in known:
            return str(wanted)
        numbers = self.numbers or range(1, len(known) + 1)
        if wanted in numbers:
            return known[list(numbers).index(wanted)]  # type: ignore[arg-type]
        raise ValueError(f"{option}: the file has no column {wanted}: {nearest(str(wanted), known)}")

    def words(self, name: str) -> np.ndarray:
        """Returns the values of a column, ``(N,)`` numbers or texts; codes such as 007 are texts."""
        texts = self.texts.get(name, ())
        return np.array([text.strip() for text in texts]) if are_codes(texts) else self.columns[name]


class Choice(NamedTuple):
    """Choice among the columns of a table, by names or numbers.

    Attributes:
        columns: columns that are coordinates, in this order; None for all that are neither labels nor dropped.
        labels: column of labels; None for no labels.
        drop: columns to leave out.
        condition: columns that are the condition, in this order.
    """

    columns: tuple[Name, ...] | None = None
    labels: Name | None = None
    drop: tuple[Name, ...] = ()
    condition: tuple[Name, ...] = ()


class Chosen(NamedTuple):
    """Names of the chosen columns of a table, and of the other columns."""

    coordinates: list[str]
    label: str | None
    left_out: list[str]
    conditions: list[str]


def choose(table: Table, choice: Choice) -> Chosen:
    """Returns the names of the chosen columns; raises ValueError, which begins with the option, if one is not there."""
    known = list(table.columns)
    label = None if choice.labels is None else table.name("labels", choice.labels)
    dropped = [table.name("drop", name) for name in choice.drop]
    conditions = [table.name("condition", name) for name in choice.condition]
    if choice.columns is None:
        coordinates = [name for name in known if name != label and name not in (*dropped, *conditions)]
    else:
        coordinates = [table.name("columns", name) for name in choice.columns]
    named = [*coordinates, *dropped, *conditions, *([] if label is None else [label])]
    for name in named:
        if named.count(name) > 1:
            option = next(
                key
                for key, group in (("columns", coordinates), ("condition", conditions), ("drop", dropped))
                if name in group
            )
            raise ValueError(
                f"{option}: {name} is named twice in dataset.columns, labels, condition and drop: name it once"
            )
    if not coordinates:
        option = "drop" if dropped else "columns" if choice.columns is not None else "labels"
        raise ValueError(f"{option}: no column is left for the coordinates of the points: leave fewer columns out")
    used = [*coordinates, *conditions, label]
    return Chosen(coordinates, label, [name for name in known if name not in used], conditions)


def coordinates(table: Table, names: Sequence[str]) -> np.ndarray:
    """Returns columns as points, ``(N, d)`` float64; raises ValueError for a column with words or missing values."""
    for name in names:
        _check_numbers(table, name)
    return np.stack([table.columns[name].astype(np.float64, copy=False) for name in names], axis=1)


def labels(table: Table, name: str) -> Labels:
    """Returns a column of labels; raises ValueError for missing values."""
    _check_present(table, name, " or remove the rows")
    return Labels(name, table.words(name))


def title(name: str) -> str:
    """Returns the name of a column for messages."""
    return f"column {name[1:]}" if re.fullmatch(r"x[1-9]\d*", name) else f"column {shortened(name)}"


def shortened(text: str) -> str:
    """Returns a text from a file for a message: one line, at most 40 characters."""
    return textwrap.shorten(text, 40, placeholder=" …") if len(text) > 40 or not text.isprintable() else text


def setting(option: str, *names: str) -> str:
    """Returns an option of the data set with names of columns, as it must be typed on the command line."""
    plain = [re.fullmatch(r"[^\W\d]\w*|[1-9]\d*", name) for name in names]
    quoted = [name if ok else '"' + name.replace('"', '\\"') + '"' for name, ok in zip(names, plain, strict=True)]
    value = quoted[0] if option == "labels" else f"[{','.join(quoted)}]"
    text = f"dataset.{option}={value}"
    return text if all(plain) else shlex.quote(text)


def check_names(names: Sequence[str]) -> None:
    """Raises Refused if two columns have the same name."""
    for name in names:
        if names.count(name) > 1:
            raise Refused(f"two columns are named {shortened(name)!r}: rename one")


def unnamed(names: Sequence[str]) -> list[str]:
    """Returns the names of the columns of a file, x1, x2, … for those without a name."""
    filled = [name or f"x{i + 1}" for i, name in enumerate(names)]
    if len(set(filled)) < len(filled):
        check_names(filled)
    return filled


def _check_numbers(table: Table, name: str) -> None:
    """Raises ValueError if a column has words or missing values."""
    values = table.columns[name]
    leave = f"leave the column out with {setting('drop', name)}"
    if values.dtype.kind in "iuf":
        _check_present(table, name, f", remove the rows, or {leave}")
        return
    odd = [i for i, text in enumerate(values) if not (is_missing(text) or is_number(text, table.decimal))]
    text = str(values[odd[0]])
    remedy = _remedy(table, name, odd)
    raise ValueError(f"{table.where(odd[0])}, {title(name)}: {shortened(text)!r} is not a number: {remedy}, or {leave}")


def _remedy(table: Table, name: str, odd: Sequence[int]) -> str:
    """Returns what to do about the rows ``odd`` of a column, which are no numbers."""
    values, other = table.columns[name], OTHER[table.decimal]
    words = [str(values[row]) for row in odd]
    if is_number(words[0], other):
        return f"set dataset.decimal={NAMES[other]}"
    # A currency, a percent sign or another unit, and spaces between groups of digits.
    plain = re.sub(r"(?<=[0-9]) (?=[0-9]{3})", "", re.sub(UNITS, "", words[0]))
    if plain != words[0] and any(is_number(plain, sign) for sign in OTHER):
        return f"write {plain}"
    if 2 * len(odd) >= len(values) and (len(odd) == len(values) or len({*words}) > 1):
        label = f"use it as the label with {setting('labels', name)}"
        return label if may_be_classes(len({*values}), len(values)) else "convert it to numbers"
    row = [str(column[odd[0]]) for column in table.columns.values()]
    if all(map(is_missing, values[: odd[0]])) and not any(is_number(text, sign) for text in row for sign in OTHER):
        return "keep one line of names at the top and nothing above it, since this line has no number"
    return "correct it"


def _check_present(table: Table, name: str, fix: str) -> None:
    """Raises ValueError, with the end of its ``fix``, if a column has missing values."""
    values = table.columns[name]
    if values.dtype.kind in "biu":
        return
    if values.dtype.kind == "f":
        missing = ~np.isfinite(values)
    else:
        missing = np.array([is_missing(text) for text in values])
    rows = np.flatnonzero(missing)
    if len(rows):
        raise ValueError(
            f"{title(name)}: {len(rows)} of {len(values)} values are missing, NaN or infinity, the first in "
            f"{table.where(int(rows[0]))}: fill them{fix}"
        )
