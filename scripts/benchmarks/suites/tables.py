"""CPU seconds to read a large table as points, beside ``pandas.read_csv`` on the same table in the same round."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from sdegen.core.errors import UserError
from sdegen.datasets.file import read
from suites.base import Row, interleaved, over, row


def measure(points: int, columns: int, rounds: int) -> list[Row]:
    """Returns the CPU seconds, and these divided by those of pandas.

    Args:
        points: number of rows.
        columns: number of columns.
        rounds: number of rounds.
    """
    try:
        import pandas
        import pyarrow  # noqa: F401 - pandas writes Parquet with it
    except ImportError:
        raise UserError("tables: needs pandas and pyarrow: pip install -e '.[dev]'") from None
    table = pandas.DataFrame(
        np.random.default_rng(0).normal(size=(points, columns)), columns=[*map("c{}".format, range(columns))]
    )
    with tempfile.TemporaryDirectory() as temporary:
        plain, comma, parquet = (Path(temporary) / name for name in ("points.csv", "comma.csv", "points.parquet"))
        table.to_csv(plain, index=False)
        table.to_csv(comma, index=False, sep=";", decimal=",")
        table.to_parquet(parquet)
        works: dict[str, Callable[[], object]] = {
            "pandas.read_csv": partial(pandas.read_csv, plain),
            "decimal points": partial(read, plain),
            "decimal commas": partial(read, comma),
            "Parquet": partial(read, parquet),
        }
        seconds = interleaved(works, rounds, time.process_time)
    rows = [row("CPU time to read", "", name, own, "s") for name, own in seconds.items()]
    ratios = over(seconds, "pandas.read_csv").items()
    return [*rows, *(row("time divided by that of pandas.read_csv", "", name, own, "") for name, own in ratios)]
