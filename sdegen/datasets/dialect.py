"""Dialects of text files: the character between the columns, and the decimal sign of the numbers."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sdegen.datasets.numerals import NAMES, NUMBERS, Decimal, is_number, number

Delimiter = Literal["comma", "semicolon", "tab", "bar", "space"]
SIGNS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "space": " "}
"""Character of each delimiter."""
DECIMALS = {name: sign for sign, name in NAMES.items()}
"""Character of each decimal sign."""
SAMPLE = 1000
"""Number of lines from which the delimiter is detected."""


class Ambiguous(ValueError):
    """Numbers that may be meant with a decimal point or with a decimal comma."""


class Rows(NamedTuple):
    """Rows of a file that are not empty, and the number of the last line of each row."""

    lines: list[int]
    cells: list[list[str]]


def rows_of(lines: Sequence[str], sign: str, strict: bool = False) -> Rows:
    """Returns the rows of lines; raises csv.Error if the quotation marks are wrong and ``strict`` is True.

    Blank lines are not rows, but lines of delimiters are rows, whose values are missing.
    """
    # Columns of fixed width begin with spaces.
    given = [line.strip(" ") for line in lines] if sign == " " else lines
    found, reader = Rows([], []), csv.reader(given, delimiter=sign, skipinitialspace=sign != "\t", strict=strict)
    try:
        for row in reader:
            if len(row) > 1 or (row and given[reader.line_num - 1].strip()):
                # A delimiter at the end of columns of fixed width is no column.
                found.cells.append(row[:-1] if sign == " " and len(row) > 1 and not row[-1] else row)
                found.lines.append(reader.line_num)
    except csv.Error as error:
        raise csv.Error(f"line {reader.line_num}: {error}") from None
    return found


def without_empty_ends(rows: Rows) -> tuple[Rows, int]:
    """Returns the rows from the first to the last one with a value, and the number of the other rows.

    Spreadsheets write rows without values around a table.
    """
    filled = [i for i, row in enumerate(rows.cells) if any(map(str.strip, row))]
    if not filled:
        return Rows([], []), len(rows.cells)
    kept = slice(filled[0], filled[-1] + 1)
    return Rows(rows.lines[kept], rows.cells[kept]), len(rows.cells) - (kept.stop - kept.start)


def delimiter_of(lines: Sequence[str], decimal: Decimal | None) -> str:
    """Returns the delimiter with which most rows have equally many values, and most values are numbers."""
    sample = list(itertools.islice((line for line in lines if line.strip(" ,;|\t\r\n")), SAMPLE))
    found: dict[str, tuple[float, bool, int]] = {}
    # Commas that are decimal signs and delimiters at once need quotation marks.
    signs = {name: sign for name, sign in SIGNS.items() if sign != "," or decimal != "comma" or '"' in "".join(sample)}
    for name, sign in signs.items():
        try:
            cells = rows_of(sample, sign).cells
        except csv.Error:
            continue
        # The last row may continue after the sample.
        cells = cells[:-1] if len(sample) == SAMPLE and len(cells) > 1 else cells
        body = list(itertools.chain.from_iterable(cells[1:] or cells))
        width, rows = Counter(map(len, cells)).most_common(1)[0]
        numbers = sum(is_number(cell, ".") or is_number(cell, ",") for cell in body)
        # If there is one column, its name has none of the delimiters.
        sound = width > 1 or not any(other in sample[0] for other in {*signs.values()} - {" "})
        # A cell such as 1;a or 5 a was probably cut at the wrong places, as in 5,1;a and 0,5 a.
        left = re.compile(rf"[{';|	'.replace(sign, '')}]|^[0-9]+ +[^ ]")
        uncut = sum(left.search(cell) is not None for cell in body)
        found[name] = sound * rows / len(cells) * numbers / max(1, len(body)), width > 1, -uncut
    return max(found, key=lambda name: found[name], default="comma")


def decimal_of(rows: Rows, delimiter: str) -> Decimal:
    """Returns the decimal sign that all numbers of a file have.

    Raises:
        ValueError: the numbers have different signs.
        Ambiguous: it is not clear whether the sign separates thousands.
    """
    only: dict[str, tuple[int, str]] = {}
    commas, unclear = any("," in cell for row in rows.cells for cell in row), ""
    if not commas and delimiter != "semicolon":
        return "point"
    for line, row in zip(*rows, strict=True):
        for cell in row:
            # A cell with one sign only matters until the sign is known.
            signs = [sign for sign in ".," if sign in cell]
            if not signs or signs[0] in only and len(signs) == 1:
                continue
            fits = [sign for sign in NUMBERS if is_number(cell, sign)]
            if len(fits) == 1:
                only.setdefault(fits[0], (line, cell))
            elif len(fits) == 2 and number(cell, ".") != number(cell, ","):
                # In a file with semicolons, spreadsheets may write 1.234 for 1234; other programs do not.
                unclear = unclear or (cell if "," in cell or delimiter == "semicolon" else "")
    if len(only) == 2:
        (line, cell), (other, second) = sorted(only.values())
        raise ValueError(
            f"line {line} has {cell.strip()} and line {other} has {second.strip()}, with different decimal signs: use "
            f"one sign, or set dataset.decimal=point or comma"
        )
    if not only and unclear:
        values = sorted(number(unclear, sign) for sign in NUMBERS)
        raise Ambiguous(f"{unclear.strip()} may be {values[0]:g} or {values[1]:g}: set dataset.decimal=point or comma")
    return "comma" if "," in only else "point"


def doubtful_pairs(rows: Rows) -> list[str]:
    """Returns a warning if rows such as 1,5 are two integers, but may be one number with a decimal comma.

    Raises:
        ValueError: the second integer is 05, as nobody writes 5.
    """
    if not all(len(row) == 2 and all(re.fullmatch(r"\s*[+-]?[0-9]+", cell) for cell in row) for row in rows.cells):
        return []
    for line, row in zip(*rows, strict=True):
        if re.fullmatch(r"0[0-9]+", row[1]):
            raise ValueError(
                f"line {line}: {','.join(row)} may be one number or two: set dataset.decimal=comma if it is one, "
                f"dataset.delimiter=comma if it is two"
            )
    return [
        f"line {rows.lines[0]} ({','.join(rows.cells[0])}) is read as two integers: if the comma is a decimal sign, "
        f"set dataset.decimal=comma"
    ]
