"""Points that a user gives in a file, an array or a data frame, in the coordinates of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.datasets import Description, File
from sdegen.datasets import table as tables
from sdegen.datasets.arrays import Arrays, read_arrays, table_of
from sdegen.datasets.base import prefixed
from sdegen.datasets.file import ARRAYS, TEXTS
from sdegen.datasets.numerals import is_missing, is_number
from sdegen.datasets.parquet import read_parquet
from sdegen.datasets.table import Choice, Labels, Table, shortened, title
from sdegen.datasets.text import Options, read_text
from sdegen.runs.arrays import ArrayLike, Frame, data, points
from sdegen.runs.trained import Trained

log = logging.getLogger("sdegen")

LABELS = ("label", "y")
"""Names of a column of labels, if the run's own data have none. Our ``samples.csv`` has the first."""


class Given(NamedTuple):
    """Points of a user.

    Attributes:
        x: points ``(N, *)`` float64, in the user's units.
        y: class of each point, ``(N,)``; None if the points or the run's data have no labels.
        columns: all columns of the table of the points, as texts, by name; for images, the numbers of the rows.
        single: True for a single point that was given without the batch axis.
    """

    x: Tensor
    y: Tensor | None
    columns: dict[str, list[str]]
    single: bool = False


def given(run: Trained, name: str, source: str | Path | ArrayLike | Frame) -> Given:
    """Returns the points of a file, an array or a data frame, for messages under the name ``name``.

    Columns of a table are matched with the run's columns by name if both have names, else by their order. Other columns
    of the table may have the labels of the points, and are no coordinates.

    Raises:
        UserError: the points cannot be read, or do not have the run's coordinates.
    """
    if isinstance(source, str | Path):
        name = f"{name}={source}"
    try:
        with prefixed(f"{name}: "):
            if isinstance(source, str | Path):
                table, arrays = _read(Path(source), *_options(run))
            elif getattr(source, "columns", None) is not None:
                table, arrays = _table_of_frame(source), None
            else:
                x, single = points(name, source, run.units.shape)
                return Given(x, None, _rows(x), single)
            if table is None:
                assert arrays is not None
                x = points(name, _arranged(arrays.x, run.units.shape), run.units.shape)[0]
                return Given(x, _classes(run, arrays.labels), _rows(x))
            return _chosen(run, table, None if arrays is None else arrays.labels)
    except ValueError as error:
        raise UserError(str(error)) from None


def _options(run: Trained) -> tuple[Choice, Options]:
    """Returns the choice of columns and the options of text files with which the run's own data were read."""
    node = run.config["dataset"]
    if not issubclass(schema.resolve(node["_target_"], run.trust), File):
        return Choice(), Options()
    columns, drop = ((tuple(node[key]) if node.get(key) else None) for key in ("columns", "drop"))
    return Choice(columns, node.get("labels"), drop or ()), Options(*map(node.get, Options._fields))


def _read(path: Path, choice: Choice, options: Options) -> tuple[Table | None, Arrays | None]:
    """Returns the table of a file, and the arrays of an array file; images are no table."""
    ending = path.suffix.lower()
    if not path.is_file():
        found = "is a folder: give a file" if path.is_dir() else "no such file: give a file"
        raise ValueError(f"{found} .csv, .parquet, .npy or .npz")
    if ending in TEXTS:
        return read_text(path, options), None
    if ending == ".parquet":
        return read_parquet(path), None
    if ending not in ARRAYS:
        raise ValueError("must end in .csv, .tsv, .txt, .parquet, .npy or .npz: convert or rename the file")
    # Arrays beside the points are no coordinates, and need not be named.
    arrays, _ = read_arrays(path, False, Choice(labels=choice.labels, drop=choice.drop))
    if arrays.x.ndim > 2:
        return None, arrays
    return table_of(arrays), arrays


def _table_of_frame(frame: Frame) -> Table:
    arrays = data(frame, None, None)
    names = [str(name) for name in arrays.pop("names")]
    columns: dict[str, np.ndarray] = {**dict(zip(names, arrays.pop("x").T, strict=True)), **arrays}
    order = [str(column) for column in frame.columns]
    return Table({name: columns[name] for name in order}, True, lambda row: f"row {row + 1}")


def _chosen(run: Trained, table: Table, beside: Labels | None) -> Given:
    """Returns the points of a table, with the labels of a column or the labels ``beside`` the table."""
    if len(run.units.shape) > 1:
        raise ValueError(
            f"has a table, but the run's points have the shape {run.units.shape}: give an .npy or .npz file"
        )
    choice, _ = _options(run)
    known = list(table.columns)
    own = [run.names.column(i) for i in range(run.units.shape[0])]
    if table.named and set(own) <= set(known):
        names = own
    elif table.named and run.names.columns:
        missing = next(name for name in own if name not in known)
        listed = ", ".join(map(shortened, known[:20]))
        raise ValueError(f"has no column {shortened(missing)}, which the run was trained on: rename one of {listed}")
    else:
        names = _by_count(known, choice, len(own))
        if run.names.columns:
            log.info(f"the columns have no names and are taken as {', '.join(run.names.columns)}")
    label = next((n for n in (choice.labels, *LABELS) if n in known and n not in names), None)
    if beside is None and isinstance(label, str) and run.classes is not None:
        beside = Labels(label, table.columns[label])
    columns = {name: list(map(_text, values)) for name, values in table.columns.items()}
    return Given(_coordinates(table, names), _classes(run, beside), columns)


def _by_count(known: list[str], choice: Choice, wanted: int) -> list[str]:
    """Returns the columns that are the coordinates of a table without the run's names."""
    own = [name for name in known if name not in LABELS]
    try:
        chosen = tables.choose(Table(dict.fromkeys(known, np.empty(0)), False, str), choice).coordinates
    except ValueError:
        # The choice names columns that this table does not have.
        chosen = known
    for names in (chosen, known, own):
        if len(names) == wanted:
            return names
    raise ValueError(f"has {len(known)} columns, but the run was trained on {wanted}: give {wanted} columns")


def _coordinates(table: Table, names: list[str]) -> Tensor:
    """Returns columns as points ``(N, d)`` float64; raises ValueError for words and missing values."""
    for name in names:
        values = table.columns[name]
        numeric = values.dtype.kind in "biuf"
        bad = ~np.isfinite(values) if numeric else np.array([not is_number(text, table.decimal) for text in values])
        if rows := np.flatnonzero(bad).tolist():
            value = "" if numeric else shortened(str(values[rows[0]]))
            found = "no finite number" if numeric or is_missing(value) else f"{value!r}, which is not a number"
            raise ValueError(f"{table.where(rows[0])}, {title(name)}: has {found}: correct or remove the row")
    return torch.from_numpy(np.stack([table.columns[name].astype(np.float64) for name in names], axis=1))


def _classes(run: Trained, labels: Labels | None) -> Tensor | None:
    """Returns the class of each label, ``(N,)``; raises ValueError for a label that the run's data do not have."""
    if labels is None or run.classes is None:
        return None
    found, index = np.unique(labels.values.astype(str), return_inverse=True)
    numbers = [run.names.number(str(label), run.classes) for label in found]
    return torch.tensor(numbers)[torch.from_numpy(index)]


def _arranged(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns images or signals with the channels on the first axis of ``shape``."""
    if x.shape[1:] == shape:
        return x
    if x.shape[1:] == (*shape[1:], shape[0]):
        return np.moveaxis(x, -1, 1)
    return x[:, None] if x.shape[1:] == shape[1:] and shape[0] == 1 else x


def _rows(x: Tensor) -> dict[str, list[str]]:
    """Returns the columns of vectors ``x``, or the numbers of the rows of images."""
    if x.ndim == 2:
        names = [Description().column(i) for i in range(x.shape[1])]
        return {name: list(map(_text, column)) for name, column in zip(names, x.T.tolist(), strict=True)}
    return {"row": [str(i + 1) for i in range(len(x))]}


def _text(value: Any) -> str:  # noqa: ANN401
    """Returns a value of a table as text. Whole numbers have no decimal point, and a missing number is empty."""
    if isinstance(value, str):
        return value
    number = float(value)
    if number != number:
        return ""
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
