"""Text files of tables, as spreadsheets, pandas, NumPy and R write them."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sdegen.datasets import numerals
from sdegen.datasets.checks import check_memory
from sdegen.datasets.dialect import (
    DECIMALS,
    SAMPLE,
    SIGNS,
    Delimiter,
    Rows,
    decimal_of,
    delimiter_of,
    doubtful_pairs,
    rows_of,
    without_empty_ends,
)
from sdegen.datasets.numerals import NAMES, OTHER, Decimal, is_missing, is_number
from sdegen.datasets.table import Table, check_names, shortened, title, unnamed

TEXT = 32
"""Number of bytes of memory needed to read one byte of text."""


class Options(NamedTuple):
    """Options of the reader; None for what is to be detected."""

    delimiter: Delimiter | None = None
    decimal: Decimal | None = None
    header: bool | None = None


DETECTED = Options()


def read_text(path: Path, options: Options = DETECTED) -> Table:
    """Reads a text file in UTF-8, -16, -32 or Windows-1252; raises ValueError with the fix if it is no table."""
    check_memory(TEXT * path.stat().st_size)
    text, notes = _decoded(path.read_bytes())
    lines = list(io.StringIO(text, newline=""))
    delimiter: str | None = options.delimiter
    if lines and (declared := re.fullmatch(r'"?sep=(.)"?\s*', lines[0])):
        # Spreadsheets write and read this line.
        lines[0] = "\n"
        delimiter = delimiter or next((name for name, sign in SIGNS.items() if sign == declared[1]), None)
    hidden = [(number, line) for number, line in enumerate(lines, start=1) if line.startswith("#")]
    comment = _last_comment(lines)
    lines = ["\n" if line.startswith("#") else line for line in lines]
    if not any(line.strip(" ,;|\t\r\n") for line in lines):
        raise ValueError("holds no line of numbers: write each point as a line")
    if delimiter is None and path.suffix.lower() == ".tsv":
        delimiter = "tab"
    delimiter = delimiter or delimiter_of(lines, options.decimal)
    try:
        rows, empty = without_empty_ends(rows_of(lines, SIGNS[delimiter], strict=True))
    except csv.Error as error:
        raise ValueError(f"cannot be read: {error}: check the quotation marks") from None
    decimal = options.decimal or decimal_of(rows, delimiter)
    names, rows, found = _named(rows, DECIMALS[decimal], options.header, _cells(comment, SIGNS[delimiter]))
    if len(names) > 1:
        notes.append(f"{delimiter}s separate the columns")
    notes += [f"the decimal sign is a {decimal}", *([found] if found else [])]
    if empty:
        notes.append(f"left out {empty} row{'s' * (empty > 1)} without values around the table")
    if ignored := len(hidden) - found.startswith("the comment"):
        notes.append(f"left out {ignored} line{'s' * (ignored > 1)} of comments, which begin with #")
    table = _table(names, rows, DECIMALS[decimal], notes, detected=options.decimal is None)
    concerns = [*table.concerns, *_doubtful_comments(hidden, rows.lines[0], SIGNS[delimiter])]
    if delimiter == "comma" and not options.delimiter and not options.decimal and not table.named:
        concerns += doubtful_pairs(rows)
    return table._replace(concerns=tuple(concerns))


def _doubtful_comments(hidden: Sequence[tuple[int, str]], first: int, sign: str) -> list[str]:
    """Returns a warning if comments among the points, from line ``first`` on, look like points."""
    odd = [number for number, line in hidden if number > first and sign in line]
    if not odd:
        return []
    return [
        f"line {odd[0]} begins with # and is left out as a comment: if it is a point, put its first value in quotes"
    ]


def _named(rows: Rows, sign: str, header: bool | None, title: Sequence[str]) -> tuple[list[str], Rows, str]:
    """Returns the names of the columns, the rows of points, and a note about the names.

    Args:
        rows: rows of the file.
        sign: decimal sign.
        header: True if the first row has the names, False if not, None to detect it.
        title: values in the comment before the first row, which may be the names.

    Raises:
        ValueError: a row has more or fewer values than there are columns.
    """
    lines, cells = rows
    width, first = len(cells[0]), lines[0]
    names, note, fit = [""] * width, "", f"line {first} has {width} value{'s' * (width > 1)}"
    if _is_header(cells, sign) if header is None else header:
        names, lines, cells = [name.strip() for name in cells[0]], lines[1:], cells[1:]
        note, fit = f"line {first} has the names", f"line {first} names {width} column{'s' * (width > 1)}"
    elif header is None and len(title) == width and not any(is_number(name, sign) for name in title):
        names, note = [name.strip() for name in title], "the comment before the first row has the names"
    if not cells:
        raise ValueError(f"holds no line of numbers: {fit}, and no row follows: write each point as a line")
    _check_widths(lines, cells, width, fit)
    check_names([name for name in names if name])
    return names, Rows(lines, cells), f"{note} of the columns" if note else ""


def _table(names: list[str], rows: Rows, sign: str, notes: list[str], detected: bool) -> Table:
    """Returns the table of rows with equally many values; columns without name and values are left out.

    ``detected`` is True if the decimal sign was not given.
    """
    lines, concerns = rows.lines, []
    texts = list(zip(*rows.cells, strict=True))
    filled = [i for i, name in enumerate(names) if name or any(map(str.strip, texts[i]))]
    if empty := len(names) - len(filled):
        notes.append(f"left out {empty} column{'s' * (empty > 1)} without name and values")
    if not any(names) and _may_be_header(rows.cells):
        shown = shortened(", ".join(rows.cells[0]))
        concerns.append(
            f"line {lines[0]} ({shown}) is read as a point: if it has the names of the columns, set dataset.header=true"
        )
    heads = unnamed(names)
    if detected:
        for i in filled:
            concerns += _doubtful_separators(heads[i], texts[i], sign)
    cells = {heads[i]: texts[i] for i in filled}
    columns = {name: numerals.values(column, sign) for name, column in cells.items()}
    numbers = tuple(i + 1 for i in filled) if empty else ()
    return Table(
        columns, any(names), lambda row: f"line {lines[row]}", tuple(notes), tuple(concerns), sign, numbers, cells
    )


def _doubtful_separators(name: str, texts: Sequence[str], sign: str) -> list[str]:
    """Returns a warning if all separators of thousands in a column may be decimal signs, as in 48.137."""
    other = OTHER[sign]
    first = next((text for text in texts if other in text), None)
    if first is None:
        return []
    cells = (text for text in texts if other in text or sign in text)
    if any(text.count(other) != 1 or not (is_number(text, ".") and is_number(text, ",")) for text in cells):
        return []
    return [
        f"{title(name)}: {first.strip()} is read as {numerals.number(first, sign):g}: if its sign is a decimal sign, "
        f"set dataset.decimal={NAMES[other]}"
    ]


def _check_widths(lines: Sequence[int], cells: Sequence[Sequence[str]], width: int, fit: str) -> None:
    for line, row in zip(lines, cells, strict=True):
        if len(row) == width:
            continue
        fix = "correct it, or set dataset.delimiter="
        if width == 1:
            fix = "name each column, or set dataset.delimiter="
        elif all(len(other) == len(row) for other in cells) and len(row) > width:
            fix = "name each column, or, if commas are decimal signs, separate the columns by semicolons"
            if len(row) == width + 1:
                fix = "name each column, also that of the row names, which R does with col.names=NA"
        elif len(row) == 2 * width:
            fix = "if commas are decimal signs, separate the columns by semicolons"
        raise ValueError(f"{fit}, but line {line} has {len(row)} value{'s' * (len(row) > 1)}: {fix}")


def _decoded(content: bytes) -> tuple[str, list[str]]:
    """Returns the text of a file, and a note if it is not in UTF-8."""
    head = content[:2000]
    if head[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        encoding = "utf-32"
    elif head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif len(head) > 1 and 3 * head.count(0) > len(head):
        # Without a byte order mark, the zeros of ordinary letters show the order.
        encoding = "utf-16-le" if head[1] == 0 else "utf-16-be"
    elif 0 in head:
        raise ValueError("is not a text file: save the table as text in UTF-8, with commas between the values")
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding), [] if encoding == "utf-8-sig" else [f"the text is in {encoding[:6].upper()}"]
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise ValueError(f"is not a text file ({error.reason}): save the table as text in UTF-8") from None
    try:
        return content.decode("cp1252"), ["the text is not in UTF-8 and is read as Windows-1252 (Latin-1)"]
    except UnicodeDecodeError:
        raise ValueError("is not a text file in UTF-8, UTF-16 or Windows-1252: save it in UTF-8") from None


def _last_comment(lines: Sequence[str]) -> str:
    """Returns the comment directly before the first row, where NumPy and others write the names of the columns."""
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), 0)
    return lines[first - 1].lstrip("# ") if first and lines[first - 1].startswith("#") else ""


def _cells(line: str, sign: str) -> list[str]:
    """Returns the values of one line."""
    return next(csv.reader([line.strip()], delimiter=sign, skipinitialspace=True), [])


def _is_header(cells: Sequence[Sequence[str]], sign: str) -> bool:
    """Returns True if the first row has the names of the columns.

    Names are no numbers, except for the names 0, 1, 2, … after an empty one, which pandas writes.

    Raises:
        ValueError: the first row has numbers and words, and may be a point or names.
    """
    first = [cell.strip() for cell in cells[0]]
    numbers = [is_number(cell, sign) for cell in first]
    missing = any(cell and is_missing(cell) for cell in first)
    if not (any(numbers) or missing) or first == ["", *map(str, range(len(first) - 1))]:
        return True
    for i, (cell, numeric) in enumerate(zip(first, numbers, strict=True)):
        if numeric or is_missing(cell):
            continue
        below = [row[i].strip() for row in cells[1:SAMPLE] if i < len(row)]
        if below and cell not in below:
            raise ValueError(
                f"the first row has numbers and {shortened(cell)!r}: correct it, or set dataset.header=true if it has "
                f"the names of the columns, dataset.header=false if not"
            )
    return False


def _may_be_header(cells: Sequence[Sequence[str]]) -> bool:
    """Returns True for integers with step 1 (0, 1, 2, …, or years) in the first row, and fractions in other rows."""
    first = [cell.strip() for cell in cells[0]]
    if not all(re.fullmatch(r"[0-9]{1,9}", cell) for cell in first):
        return False
    numbers = [int(cell) for cell in first]
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    others = [cell for row in cells[1:SAMPLE] for cell in row]
    if numbers == [*range(len(numbers))] and len(numbers) > 2:
        return True
    return (
        steps <= {1}
        and (len(numbers) > 1 or numbers == [0])
        and sum("." in cell or "," in cell for cell in others) > len(others) / 2
    )
