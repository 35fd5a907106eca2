"""Tables of points, and arrays of points, signals or images, from a file."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.core.tensors import chunks, not_finite
from sdegen.datasets import table as tables
from sdegen.datasets.arrays import Arrays, Beside, Conditioning, choose_beside, read_arrays, table_of, tensor_of
from sdegen.datasets.base import Dataset, Shuffle, Standardize
from sdegen.datasets.checks import check_memory, check_share, prefixed
from sdegen.datasets.description import Description
from sdegen.datasets.dialect import Delimiter
from sdegen.datasets.disk import Disk, once
from sdegen.datasets.labels import classes_of
from sdegen.datasets.layout import Layout, arranged, fitted
from sdegen.datasets.numerals import NAMES, Decimal
from sdegen.datasets.parquet import read_parquet
from sdegen.datasets.suspects import suspects
from sdegen.datasets.table import Choice, Name, Table
from sdegen.datasets.text import DETECTED, Options, read_text

TEXTS = (".csv", ".tsv", ".txt")
"""Endings of text files."""
ARRAYS = (".npy", ".npz")
"""Endings of NumPy's files."""
EVERYTHING = Choice()
"""Choice of all columns."""


class File(Dataset):
    """Points from a table or an array, or signals or images from an array, with labels if there are any.

    A table is a text file (``.csv``, ``.tsv``, ``.txt``) or a ``.parquet`` file; its columns are the coordinates. An
    array is a ``.npy`` file, or ``x`` in an ``.npz`` file, which may also have labels ``y``, conditions ``c``, the
    ``names`` of the columns, and the names ``classes`` of labels that count from 0 or from 1. Points are ``(N,)`` or
    ``(N, d)``, signals of C channels and L steps ``(N, C, L)``, and images ``(N, C, H, W)``.

    Images and signals in a ``.npy`` file larger than :attr:`MAPPED` stay on the disk, and the last ones of the file are
    held out. In all other cases, the held-out points are drawn at random.

    Args:
        seed: seed of the choice of held-out points; from the run.
        path: path of the file.
        columns: columns that are the coordinates, in this order, by names or by numbers from 1; null for all columns
            that are neither ``labels`` nor dropped.
        labels: column, or array of an ``.npz`` file, with the label of each point: words, booleans or numbers. null for
            no labels, except that an array ``y`` of an ``.npz`` file has the labels.
        drop: columns, or arrays of an ``.npz`` file, to leave out.
        delimiter: character between the columns of a text file; null to detect it.
        decimal: decimal sign of a text file; null to detect it.
        header: true if the first row of a text file has the names of the columns, false if it is a point, null to
            detect it.
        condition: columns, or arrays of an ``.npz`` file, with numbers that are known about each point, in this order.
            The network learns the distribution of the coordinates given these numbers. An array ``(N, C, *)`` may hold
            an image or signal for each point, on the grid of the points. If none is named, an array ``c`` of an
            ``.npz`` file has the conditions.
        held_out: share of the points that are used only for metrics, not for training; between 0 and 1.
        standardize: see :class:`Dataset`; samples are returned in the units of the file.
        levels: number of values that an entry of quantised points can have, from 0 to ``levels - 1``; null if the
            points are not quantised.
        dequantize: see :class:`Dataset`.
        layout: order of the axes of images and signals. ``channels_first``: ``(N, C, H, W)`` or ``(N, C, L)``.
            ``channels_last``: ``(N, H, W, C)`` or ``(N, L, C)``. ``grey``: images ``(N, H, W)``. ``auto`` recognises
            the order, and refuses an array that is ambiguous.
        shuffle: see :class:`Dataset`.
    """

    MAPPED = 256 * 2**20
    """Size in bytes above which a file of images or signals stays on the disk."""

    def __init__(
        self,
        seed: int,
        path: str,
        columns: tuple[Name, ...] | None = None,
        labels: Name | None = None,
        drop: tuple[Name, ...] = (),
        delimiter: Delimiter | None = None,
        decimal: Decimal | None = None,
        header: bool | None = None,
        *,
        condition: tuple[Name, ...] = (),
        held_out: float = 0.2,
        standardize: Standardize = True,
        levels: int | None = None,
        dequantize: bool = False,
        layout: Layout = "auto",
        shuffle: Shuffle = "auto",
    ) -> None:
        check_share(held_out)
        choice, options = Choice(columns, labels, drop, condition), Options(delimiter, decimal, header)
        x, y, c, disk, description = read(Path(path), self.MAPPED, choice, options, layout)
        if all(bool((part == x[0]).all()) for part in chunks(x)):
            raise ValueError(
                f"path={path}: all {len(x)} points are equal, so there is nothing to learn: give points that differ"
            )
        kept = min(max(1, round(held_out * len(x))), len(x) - 2)
        # A random choice of points on the disk would copy them into memory.
        train: Tensor | slice = slice(None, -kept)
        test: Tensor | slice = slice(-kept, None)
        if disk is None:
            order = torch.randperm(len(x), generator=generator("cpu", seed, "data"))
            train, test = order[kept:], order[:kept]
        else:
            note = f"the last {kept} entries of the file are held out: if the file is sorted, shuffle it"
            description = description._replace(report=(*description.report, note))
        super().__init__(
            x[train],
            x[test],
            standardize=standardize,
            levels=levels,
            y=None if y is None else y[train],
            c=None if c is None else c[train],
            held_out_c=None if c is None else c[test],
            held_out_y=None if y is None else y[test],
            classes=None if y is None else int(y.max()) + 1,
            dequantize=dequantize,
            disk=disk,
            shuffle=shuffle,
            description=description,
        )


class Contents(NamedTuple):
    """Contents of a file.

    Attributes:
        x: points ``(N, d)`` float64, signals ``(N, C, L)``, or images ``(N, C, H, W)``. Signals and images keep the
            number type of the file if a number takes less than 8 bytes or the file stays on the disk; else they are
            float64.
        y: classes of the points, ``(N,)`` int64; None if there are no labels.
        c: conditions of the points, ``(N, *)`` float64; None if there are no conditions.
        disk: place of the points on the disk; None if they are in memory.
        description: names of the columns and classes, and what was read.
    """

    x: Tensor
    y: Tensor | None
    c: Tensor | None
    disk: Disk | None
    description: Description


class Opened(NamedTuple):
    """Contents of a file before columns are chosen.

    Attributes:
        table: table of points; None for signals and images.
        arrays: arrays of an array file; None for other files.
    """

    table: Table | None
    arrays: Arrays | None


def opened(path: Path, options: Options = DETECTED, largest: float = math.inf) -> Opened:
    """Opens a file of any kind; raises ValueError with the fix if it cannot be read.

    Arrays in a ``.npy`` file of more than ``largest`` bytes stay on the disk. The ``options`` are for text files.
    """
    ending = path.suffix.lower()
    if not os.path.isfile(path):
        folder = path.absolute().parent
        missing = f"no such file in {folder}" if os.path.isdir(folder) else f"no such file: no folder {folder}"
        wrong = "is a folder, not a file" if os.path.isdir(path) else missing
        raise ValueError(f"{wrong}: give a .csv, .parquet, .npy or .npz file")
    if ending in TEXTS:
        return Opened(read_text(path, options), None)
    if ending == ".parquet":
        return Opened(read_parquet(path), None)
    if ending in ARRAYS:
        arrays = read_arrays(path, path.stat().st_size > largest)
        return Opened(table_of(arrays) if arrays.x.ndim < 3 and 0 not in arrays.x.shape[1:] else None, arrays)
    fix = "save the sheet as .csv" if ending in (".xlsx", ".xls", ".ods") else "convert or rename the file"
    fix = "unpack it" if ending in (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z") else fix
    raise ValueError(f"must end in .csv, .tsv, .txt, .parquet, .npy or .npz: {fix}")


def read(
    path: Path,
    largest: float = math.inf,
    choice: Choice = EVERYTHING,
    options: Options = DETECTED,
    layout: Layout = "auto",
) -> Contents:
    """Reads the points of a file; raises ValueError with the reason if this fails.

    A ``.npy`` file of images or signals with more than ``largest`` bytes stays on the disk. The ``options`` are for
    text files, and the ``layout`` is for images and signals.
    """
    with prefixed(f"path={path}: "):
        table, arrays = opened(path, options, largest)
        if options != DETECTED and path.suffix.lower() not in TEXTS:
            raise ValueError("dataset.delimiter, decimal and header are for text files: leave them out")
        beside = Beside(None, None, choice, [])
        if arrays is not None:
            beside = choose_beside(arrays, choice)
        beside.notes.insert(0, f"from {path}")
        if table is None:
            assert arrays is not None
            return _images(arrays.x, beside, layout)
    chosen = tables.choose(table, beside.choice)
    with prefixed(f"path={path}: "):
        return _points(table, chosen, beside)


def _points(table: Table, chosen: tables.Chosen, beside: Beside) -> Contents:
    """Returns the chosen columns of a table, with labels and conditions from columns or ``beside`` the table."""
    labels, conditions, _, notes = beside
    rows, names = len(next(iter(table.columns.values()))), chosen.coordinates
    with prefixed("in float64 "):
        check_memory(8 * rows * len(names))
    x = torch.from_numpy(tables.coordinates(table, names))
    _check_count(x)
    notes = [*notes, *table.notes]
    if chosen.conditions:
        conditions = Conditioning(tables.coordinates(table, chosen.conditions), tuple(chosen.conditions))
        notes.append(f"the condition is {', '.join(map(tables.title, chosen.conditions))}")
    if chosen.label is not None:
        labels = tables.labels(table, chosen.label)
        notes.append(f"{tables.title(chosen.label)} has the labels")
    if chosen.left_out:
        notes.append(f"left out {', '.join(map(tables.title, chosen.left_out))}, as the options say")
    y, classes = (None, ()) if labels is None else classes_of(labels)
    unchanged = not table.named and names == [f"x{i + 1}" for i in range(len(names))]
    concerns = suspects(dict(zip(names, x.T.numpy(), strict=True)), labelled=y is not None)
    own, label = () if unchanged else tuple(names), chosen.label if table.named else None
    described = Description(
        own, classes, tuple(notes), (*table.concerns, *concerns), _names(conditions), label or "", NAMES[table.decimal]
    )
    return Contents(x, y, _numbers(conditions), None, described)


def _numbers(conditions: Conditioning | None) -> Tensor | None:
    return None if conditions is None else torch.from_numpy(conditions.values)


def _names(conditions: Conditioning | None) -> tuple[str, ...]:
    return () if conditions is None else conditions.names


def _images(x: np.ndarray, beside: Beside, layout: Layout) -> Contents:
    """Returns images ``(N, C, H, W)`` or signals ``(N, C, L)``, with the labels and conditions ``beside`` them."""
    labels, conditions, choice, notes = beside
    if choice.condition:
        raise ValueError(f"condition: there is no array {choice.condition[0]} beside x: name an array of the file")
    if choice != EVERYTHING:
        raise ValueError(f"holds an array of shape {x.shape}, without columns: leave out dataset.columns and drop")
    place = Disk.of(x)
    x, layout, report = arranged(x, layout)
    if conditions is not None and conditions.values.ndim > 2:
        # Images and signals must have the grid of the points. Their axes are in the same order if this fits.
        found = fitted(conditions.values, layout, (None, *x.shape[2:]))
        conditions = conditions if found is None else conditions._replace(values=np.ascontiguousarray(found.values))
    images = tensor_of(x, place is not None)
    _check_count(images)
    if images.is_floating_point():
        once(place, "finite", partial(_check_finite, images))
    y, classes = (None, ()) if labels is None else classes_of(labels)
    described = Description((), classes, (*notes, *report), conditions=_names(conditions))
    return Contents(images, y, _numbers(conditions), place, described)


def _check_count(x: Tensor) -> None:
    if len(x) < 3:
        raise ValueError(f"holds {len(x)} points, but training needs at least 3: add points")


def _check_finite(x: Tensor) -> None:
    if found := not_finite(chunks(x), "points"):
        raise ValueError(f"{found}: remove or fill them")
