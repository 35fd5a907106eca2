"""Parquet files of tables, as pandas, Polars and Spark write them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from sdegen.datasets import numerals
from sdegen.datasets.checks import check_memory
from sdegen.datasets.table import Table, check_names

LONGEST = 200
"""Largest number of characters quoted from a message of pyarrow."""


def read_parquet(path: Path) -> Table:
    """Reads a Parquet file; raises ValueError if pyarrow is missing or the file is damaged."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError("needs pyarrow, which is not installed: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            size = 8 * file.metadata.num_rows * file.metadata.num_columns
            check_memory(max(size, sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))))
            table = file.read()
        names = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]
        check_names(names)
        cells = {name: _cells(table.column(name)) for name in names}
    except ValueError as error:
        if type(error) is ValueError:
            raise
        raise ValueError(_damaged(error)) from None
    except Exception as error:  # pyarrow raises many types of errors on damaged files.
        raise ValueError(_damaged(error)) from None
    if not cells or not table.num_rows:
        raise ValueError("holds no row: write each point as a row")
    texts = {name: found for name, found in cells.items() if isinstance(found, list)}
    columns = {name: numerals.values(found, ".") if isinstance(found, list) else found for name, found in cells.items()}
    notes = ("left out the index of pandas",) * (len(names) < len(table.column_names))
    return Table(columns, True, lambda row: f"row {row + 1}", notes, texts=texts)


def _damaged(error: Exception) -> str:
    reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST)
    return f"is not a readable Parquet file: {reason}: write it again"


def _cells(column: Any) -> np.ndarray | list[str]:  # noqa: ANN401
    """Returns a column of pyarrow as numbers, with NaN for missing values, or as texts, empty for missing values."""
    import pyarrow as arrow

    kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
    if arrow.types.is_decimal(kind):
        column, kind = column.cast(arrow.float64()), arrow.float64()
    if arrow.types.is_floating(kind) or arrow.types.is_integer(kind):
        return column.to_numpy().astype(np.float64)
    return ["" if value is None else str(value) for value in column.to_pylist()]
