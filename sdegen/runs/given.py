"""Points that a user gives in a file, an array or a data frame, in the coordinates of a run."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.datasets import Description, File, pictures
from sdegen.datasets import table as tables
from sdegen.datasets.arrays import Arrays, conditioning
from sdegen.datasets.checks import check_memory, prefixed
from sdegen.datasets.dialect import Ambiguous
from sdegen.datasets.file import Opened, opened
from sdegen.datasets.labels import Labels, word
from sdegen.datasets.layout import Layout, fitted
from sdegen.datasets.numerals import is_missing, is_number
from sdegen.datasets.table import Choice, Table, shortened, title
from sdegen.datasets.text import Options
from sdegen.runs.arrays import ArrayLike, Frame, data, points
from sdegen.runs.trained import Trained

log = logging.getLogger("sdegen")

LABELS = ("label", "y")
"""Names of a column of labels, if the run's own data have none. Our ``samples.csv`` has the first."""
COLOURS = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels of a run on pictures."""


class Given(NamedTuple):
    """Points of a user.

    Attributes:
        x: points ``(N, *)`` float64, in the user's units.
        y: class of each point, ``(N,)``; None if the points or the run's data have no labels.
        c: condition of each point, ``(N, *)``; None if the points or the run's data have no conditions.
        columns: all columns of the table of the points, as texts, by name; for images, the names of the files
            or the numbers of the rows.
        single: True for a single point that was given without the batch axis.
        decimal: decimal sign of the numbers in ``columns``, that of the user's file.
    """

    x: Tensor
    y: Tensor | None
    c: Tensor | None
    columns: dict[str, list[str]]
    single: bool = False
    decimal: str = "."


def given(run: Trained, name: str, source: str | Path | ArrayLike | Frame) -> Given:
    """Returns the points of a file, an array or a data frame, for messages under the name ``name``.

    Columns of a table are matched with the run's columns by name if both have names, else by their order. Other columns
    of the table may have the labels of the points, and are no coordinates.

    Raises:
        UserError: the points cannot be read, or do not have the run's coordinates.
    """
    if isinstance(source, str | Path):
        name, source = f"{name}={source}", Path(source)
    try:
        with prefixed(f"{name}: "):
            if isinstance(source, Path) and source.is_dir():
                return _pictures(run, source)
            if (read := opened_by(run, source)) is None:
                x, single = points(name, source, run.units.shape)  # type: ignore[arg-type]
                return Given(x, None, None, _rows(x), single)
            table, arrays = read
            if table is not None:
                return _chosen(run, table, arrays)
            assert arrays is not None
            x = points(name, arranged(run, arrays.x, run.units.shape), run.units.shape)[0]
            return Given(x, classes_of(run, labels_beside(run, arrays)), conditions_beside(run, arrays), _rows(x))
    except ValueError as error:
        raise UserError(str(error)) from None


class Reading(NamedTuple):
    """Options with which the run's own data were read."""

    choice: Choice = Choice()
    options: Options = Options()
    layout: Layout = "auto"


def reading(run: Trained) -> Reading:
    node = run.config["dataset"]
    if not issubclass(schema.resolve(node["_target_"], run.trust), File):
        return Reading()
    columns, drop = ((tuple(node[key]) if node.get(key) else None) for key in ("columns", "drop"))
    choice = Choice(columns, node.get("labels"), drop or (), tuple(node.get("condition", ())))
    return Reading(choice, Options(*map(node.get, Options._fields)), node.get("layout", "auto"))


def opened_by(run: Trained, source: object) -> Opened | None:
    """Returns the content of a file or a data frame, read as the run's own data; None for an array."""
    if not isinstance(source, str | Path):
        label = reading(run).choice.labels
        return None if getattr(source, "columns", None) is None else Opened(_table_of_frame(source, label), None)
    path, options = Path(source), reading(run).options
    try:
        return opened(path, options)
    except Ambiguous:
        # The numbers of a few rows may not show their decimal sign, but the run's own file did.
        if run.dataset.description.decimal is None:
            raise
        return opened(path, options._replace(decimal=run.dataset.description.decimal))


def _pictures(run: Trained, folder: Path) -> Given:
    """Returns the pictures in a folder, in the size and the colours of the run; sub-folders are classes."""
    shape = run.units.shape
    if run.units.kind != "images" or shape[0] not in COLOURS:
        raise ValueError(f"is a folder, but the run's points have the shape {shape}: give a file")
    _, height, width = shape
    try:
        listing = pictures.listed(folder)
        files = [file for group in listing.groups for file in group]
        headers = pictures.headers(files)
        deep = pictures.common_depth(files, headers)
        with prefixed("", ", or smaller images"):
            check_memory(8 * len(files) * run.units.size)
        values = np.stack(list(pictures.arrays(files, COLOURS[shape[0]], (height, width), deep)))
    except ValueError as error:
        raise ValueError(str(error).removeprefix("path=")) from None
    own = run.dataset.levels or (256 if run.dataset.x.dtype == torch.uint8 else 0)
    if deep != (own > 256) or values.max() >= own:
        raise ValueError(
            f"has pictures of {16 if deep else 8} bits per pixel, but the run's images have {own or 'no'} levels: give "
            f"an .npy file with values as in the run's data"
        )
    for sentence in (*pictures.skipped_in_words(listing.skipped), *pictures.in_words(headers, (height, width))):
        log.info(f"{folder}: {sentence}")
    y = None
    if listing.classes:
        names = np.repeat(listing.classes, [len(group) for group in listing.groups])
        y = classes_of(run, Labels("folder", names))
    return Given(
        torch.from_numpy(values).double(), y, None, {"file": [str(file.relative_to(folder)) for file in files]}
    )


def _table_of_frame(frame: Frame, label: int | str | None) -> Table:
    arrays = data(frame, None, None, label=label)
    names = [str(name) for name in arrays.pop("names")]
    columns: dict[str, np.ndarray] = {**dict(zip(names, arrays.pop("x").T, strict=True)), **arrays}
    order = [str(column) for column in frame.columns]
    return Table({name: columns[name] for name in order}, True, lambda row: f"row {row + 1}")


def _chosen(run: Trained, table: Table, arrays: Arrays | None) -> Given:
    """Returns the points of a table, with the labels of a column or of an array beside the points."""
    if run.units.kind != "vectors":
        raise ValueError(
            f"has a table, but the run's points have the shape {run.units.shape}: give an .npy or .npz file"
        )
    known = list(table.columns)
    own = [run.names.column(i) for i in range(run.units.shape[0])]
    if table.named and set(own) <= set(known):
        names = own
    elif table.named and run.names.columns:
        missing = next(name for name in own if name not in known)
        listed = ", ".join(map(shortened, known[:20]))
        raise ValueError(f"has no column {shortened(missing)}, which the run was trained on: rename one of {listed}")
    else:
        names = _by_count(table, reading(run).choice, len(own))
        if run.names.columns:
            log.info(f"the columns have no names and are taken as {', '.join(run.names.columns)}")
    labels = None if arrays is None else labels_beside(run, arrays)
    if labels is None and run.classes is not None:
        label = next((n for n in label_names(run, table) if n not in names), None)
        labels = None if label is None else tables.labels(table, label)
    columns = {}
    for name in table.columns:
        words = table.words(name)
        decimal = table.decimal if words.dtype.kind == "f" else "."
        columns[name] = [_text(word).replace(".", decimal) for word in words]
    given = None if arrays is None else conditions_beside(run, arrays)
    told = () if run.conditions is None else [run.names.condition(i) for i in range(run.conditions.shape[0])]
    if given is None and told and set(told) <= set(known):
        given = coordinates(table, list(told))
    return Given(coordinates(table, names), classes_of(run, labels), given, columns, decimal=table.decimal)


def label_names(run: Trained, table: Table) -> list[str]:
    """Returns the columns of a table that may have the labels, the run's own column of labels first."""
    own = reading(run).choice.labels
    with contextlib.suppress(UserError, ValueError):
        # The number of a column belongs to the order of the columns in the run's own file.
        own = run.dataset.description.labels if isinstance(own, int) and table.named and run.names.columns else own
        own = None if own is None else table.name("labels", own)
    return [name for name in (own, *LABELS) if isinstance(name, str) and name in table.columns]


def labels_beside(run: Trained, arrays: Arrays) -> Labels | None:
    """Returns the labels in an array beside the points; other arrays are no coordinates, and are not read."""
    wanted = (reading(run).choice.labels, *LABELS)
    name = next((name for name in wanted if arrays.beside.get(str(name)) == arrays.x.shape[:1]), None)
    return None if name is None or run.classes is None else arrays.labels(str(name))


def conditions_beside(run: Trained, arrays: Arrays) -> Tensor | None:
    """Returns the conditions in arrays beside the points, ``(N, *)`` float64; None if there are no such arrays."""
    wanted = reading(run).choice.condition or ("c",)
    names = [str(name) for name in wanted if name in arrays.beside]
    if run.conditions is None or (found := conditioning(arrays, names)) is None:
        return None
    values = arranged(run, found.values, run.conditions.shape)
    if values.shape[1:] != run.conditions.shape:
        shape = f"{values.shape[1:]}: give conditions of shape {run.conditions.shape}"
        raise ValueError(f"{' and '.join(names)}: the conditions have the shape {shape}")
    return torch.from_numpy(np.ascontiguousarray(values))


def _by_count(table: Table, choice: Choice, wanted: int) -> list[str]:
    """Returns the columns that are the coordinates of a table without the run's names."""
    known = list(table.columns)
    try:
        chosen = tables.choose(table, choice).coordinates
    except ValueError:
        # The choice names columns that this table does not have.
        chosen = known
    # Beside a column x, a column y is a coordinate.
    beside = LABELS[:1] if "x" in known else LABELS
    for names in (chosen, known, [name for name in known if name not in beside]):
        if len(names) == wanted:
            return names
    raise ValueError(f"has {len(known)} columns, but the run was trained on {wanted}: give {wanted} columns")


def coordinates(table: Table, names: list[str]) -> Tensor:
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


def classes_of(run: Trained, labels: Labels | None) -> Tensor | None:
    """Returns the class of each label, ``(N,)``; raises ValueError for a label that the run's data do not have."""
    if labels is None or run.classes is None:
        return None
    found, index = np.unique(labels.values, return_inverse=True)
    numbers = [run.names.number(word(label), run.classes) for label in found]
    return torch.tensor(numbers)[torch.from_numpy(index)]


def arranged(run: Trained, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns images or signals ``(N, *shape)`` with the channels first: as the run's data, else in an order that fits.

    If no order fits, the result is ``x``.
    """
    found = fitted(x, reading(run).layout, shape)
    if found is None:
        return x
    if found.layout == "channels_last":
        log.info("read with the channels on the last axis")
    return found.values


def _rows(x: Tensor) -> dict[str, list[str]]:
    """Returns the columns of vectors ``x``, or the numbers of the rows of images."""
    if x.ndim == 2:
        names = [Description().column(i) for i in range(x.shape[1])]
        return {name: list(map(_text, column)) for name, column in zip(names, x.T.numpy(), strict=True)}
    return {"row": [str(i + 1) for i in range(len(x))]}


def _text(value: np.generic) -> str:
    """Returns a value of a table as text. Whole numbers have no decimal point, and a missing number is empty."""
    return "" if value != value else word(value)
