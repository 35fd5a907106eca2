"""Arrays of NumPy: points, labels and names of a ``.npy`` or ``.npz`` file."""

from __future__ import annotations

import contextlib
import math
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from sdegen.core.errors import nearest
from sdegen.datasets import disk
from sdegen.datasets import table as tables
from sdegen.datasets.checks import check_memory, prefixed
from sdegen.datasets.labels import Labels
from sdegen.datasets.table import Choice, Table

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Functions that read the header, by the version of NumPy's format."""
LONGEST = 300
"""Largest number of characters quoted from the error message of another library."""
OURS = ("names", "classes")
"""Arrays of an ``.npz`` file with the names of the columns and of the classes."""

WIDER = {"u2": np.int32, "u4": np.float64}
"""Types that replace unsigned integers in memory."""


class Arrays(NamedTuple):
    """Arrays of a file.

    Attributes:
        x: points, signals or images, or records with named fields.
        names: names of the columns; empty if the file has none.
        classes: names of the classes; empty if the file has none.
        beside: shapes of the other arrays of an ``.npz`` file, by name.
        read: function that reads one of these arrays.
    """

    x: np.ndarray
    names: list[str]
    classes: list[str]
    beside: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]

    def fit(self, name: str) -> bool:
        """Returns True if an array beside the points has an entry for each point."""
        return self.beside[name][:1] == self.x.shape[:1]

    def labels(self, name: str) -> Labels:
        """Returns the labels in the array ``name``; the file may name the classes.

        Raises:
            ValueError: there is not one label for each point, or not one name for each class.
        """
        if self.beside[name] != self.x.shape[:1]:
            raise ValueError(
                f"{name} must have one label for each of {len(self.x)} points, not the shape {self.beside[name]}: if "
                f"it has no labels, leave it out with {tables.setting('drop', name)}"
            )
        return Labels(name, _named(self.read(name), self.classes))


def read_arrays(path: Path, large: bool) -> Arrays:
    """Returns the arrays of a file. Points in a ``.npy`` file are mapped from the disk if they are ``large``."""
    if not path.stat().st_size:
        raise ValueError("is empty: save the array again, by numpy.save or numpy.savez")
    with _explained():
        if zipfile.is_zipfile(path):
            arrays = _read_npz(path)
        else:
            x = disk.mapped(path)
            # In Fortran's order, a row is spread over the whole file.
            if not (large and x.flags.c_contiguous):
                check_memory(x.nbytes)
                x = np.array(x)
            arrays = Arrays(x, [], [], {}, x.__getitem__)
    x = arrays.x
    if not x.dtype.names and not (np.issubdtype(x.dtype, np.number) and np.isrealobj(x)):
        raise ValueError(f"holds {x.dtype}, not real numbers: convert the values")
    if x.ndim == 0:
        raise ValueError("holds a single number: give an array of points")
    return arrays


def table_of(arrays: Arrays) -> Table:
    """Returns the table of points ``(N,)`` or ``(N, d)``, or of records with named fields."""
    x, names = arrays.x, arrays.names
    if x.dtype.names:
        columns = {str(name): x[name] for name in x.dtype.names}
        if any(values.ndim > 1 for values in columns.values()):
            raise ValueError("has fields with several values each: give each value a field of its own")
        for name, values in columns.items():
            if values.dtype.kind in "SU?b":
                columns[name] = values.astype(str)
            elif values.dtype.kind not in "iuf":
                raise ValueError(f"field {name} has the type {values.dtype}, which is no number: convert or remove it")
    else:
        x = x[:, None] if x.ndim == 1 else x
        columns = dict(zip(names or tables.unnamed([""] * x.shape[1]), x.T, strict=True))
    return Table(columns, bool(names or x.dtype.names), lambda row: f"row {row + 1}")


def tensor_of(values: np.ndarray, mapped: bool) -> Tensor:
    """Returns the points as :class:`sdegen.datasets.file.Contents` describes them."""
    if values.ndim > 2 and (mapped or values.itemsize < 8):
        if not mapped:
            # Turned axes are copied into order. Torch lacks many functions for unsigned numbers of 16 and 32 bits.
            values = np.ascontiguousarray(values, dtype=WIDER.get(values.dtype.str[1:]))
        try:
            return disk.shared(values)
        except (TypeError, ValueError):
            # Numbers of a type that torch does not have, such as another byte order, must be copied.
            if mapped:
                raise ValueError(f"too large to be read as {values.dtype.str}: save it as uint8 or float32") from None
    with prefixed("in float64 "):
        check_memory(8 * values.size)
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


class Beside(NamedTuple):
    """Labels and conditions in arrays beside the points, or None; the choice among columns that is left; and notes."""

    labels: Labels | None
    conditions: Conditioning | None
    choice: Choice
    notes: list[str]


class Conditioning(NamedTuple):
    """Conditions ``(N, *)`` of all points, and their names, or no names."""

    values: np.ndarray
    names: tuple[str, ...]


def choose_beside(arrays: Arrays, choice: Choice) -> Beside:
    """Returns the arrays beside the points.

    ``choice.labels``, ``choice.condition`` and ``choice.drop`` may name arrays. Without ``choice.labels``, the array y
    has the labels, and without ``choice.condition``, the array c has the conditions.

    Raises:
        ValueError: an array with an entry for each point is neither used nor left out.
    """
    beside, wanted = arrays.beside, choice.labels
    known = [*beside, *arrays.names, *(arrays.x.dtype.names or ())]
    if beside and isinstance(wanted, str) and wanted not in known:
        raise ValueError(f"labels={wanted}: no such column or array: {nearest(wanted, known)}")
    label = str(wanted) if wanted in beside else "y" if wanted is None and "y" in beside else ""
    label = "" if label in choice.drop else label
    # Keep the order of the user, in which the conditions on the command line and in later files are.
    conditions = [str(name) for name in choice.condition or ("c",) if name in beside and name not in choice.drop]
    if twice := [name for name in conditions if conditions.count(name) > 1]:
        raise ValueError(f"condition: {twice[0]} is named twice: name it once")
    for name in beside:
        if name != label and name not in (*conditions, *choice.drop) and arrays.fit(name):
            raise ValueError(
                f"holds the array {name} beside x, with an entry for each point: use it as the label with "
                f"dataset.labels={name}, as the condition with dataset.condition=[{name}], or leave it out with "
                f"dataset.drop=[{name}]"
            )
    left_out = [name for name in beside if name not in (label, *conditions)]
    notes = [f"array {label} has the labels"] if label else []
    notes += [f"array {name} has conditions" for name in conditions]
    if left_out:
        notes.append(f"left out the arrays {', '.join(left_out)}" if len(left_out) > 1 else f"left out {left_out[0]}")
    drop = tuple(name for name in choice.drop if name not in left_out)
    further = tuple(name for name in choice.condition if name not in conditions)
    rest = Choice(choice.columns, None if label else wanted, drop, further)
    if conditions and further:
        raise ValueError(
            f"condition: {further[0]} is no array beside x, as {conditions[0]} is: name arrays, or columns"
        )
    return Beside(arrays.labels(label) if label else None, conditioning(arrays, conditions), rest, notes)


def conditioning(arrays: Arrays, names: Sequence[str]) -> Conditioning | None:
    """Returns the conditions in arrays beside the points; several arrays must hold a number for each point."""
    if not names:
        return None
    parts = [arrays.read(name) for name in names]
    for name, part in zip(names, parts, strict=True):
        if part.dtype.kind not in "biuf" and part.ndim == 1:
            label = tables.setting("labels", name)
            raise ValueError(
                f"condition: {name} holds words: use it as the label with {label}, or convert it to numbers"
            )
        if part.dtype.kind not in "biuf" or part.ndim == 0 or len(part) != len(arrays.x):
            raise ValueError(
                f"condition: the array {name} is {part.dtype} of shape {part.shape}: give numbers, with a row for each "
                f"of {len(arrays.x)} points"
            )
        bad = np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(1))
        if len(bad):
            raise ValueError(
                f"condition: {len(bad)} of {len(part)} rows of {name} hold NaN or infinity, the first is number "
                f"{bad[0] + 1}: fill or remove them"
            )
    columns = [part[:, None] if part.ndim == 1 else part for part in parts]
    if len(parts) > 1 and any(part.ndim != 2 for part in columns):
        raise ValueError("condition: only arrays with numbers for each point can be joined: name a single array")
    joined = columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)
    named = [
        f"{name}{i + 1}" if part.shape[1] > 1 else name
        for name, part in zip(names, columns, strict=True)
        for i in range(part.shape[1])
    ]
    return Conditioning(joined.astype(np.float64), () if joined.ndim > 2 or list(names) == ["c"] else tuple(named))


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raises ValueError for the errors of NumPy and zipfile about a damaged file, which have many types."""
    try:
        yield
    except tables.Refused:
        raise
    except MemoryError as error:
        raise ValueError(f"not enough memory: {error}: use fewer points") from None
    except Exception as error:
        reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST).rstrip(".")
        raise ValueError(f"not a readable array file: {reason}: save it again, as an array of numbers") from None


def _read_npz(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        found = archive.files
        name = "x" if "x" in found else found[0] if len(found) == 1 else None
        if name is None:
            raise tables.Refused(
                f"holds the arrays {', '.join(found)}: name one of them x"
                if found
                else "holds no array: save the points as numpy.savez(path, x=…)"
            )
        x, beside = _member(archive, name), {n: _shape(archive, n) for n in found if n not in (name, *OURS)}
        names, classes = (_names(archive, own) for own in OURS)
    width = x.shape[1] if x.ndim == 2 else 1
    if names and x.ndim <= 2 and len(names) != width:
        raise tables.Refused(f"names: has {len(names)} names for {width} columns: correct it")
    tables.check_names(names)

    def read(name: str) -> np.ndarray:
        with _explained(), np.load(path, allow_pickle=False) as archive:
            return _member(archive, name)

    return Arrays(x, names, classes, beside, read)


def _named(labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Returns the names of the classes of labels that are integers from 0 or from 1; returns words unchanged.

    Raises:
        ValueError: the classes do not have one name each.
    """
    if not classes or not labels.size or labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        return labels
    numbers = labels if labels.dtype.kind == "f" else labels.astype(np.int64)
    first = int(labels.min() > 0 and labels.max() == len(classes))
    if not np.isin(numbers - first, range(len(classes))).all():
        raise ValueError(
            f"classes: has {len(classes)} names, but the labels range from {numbers.min():g} to {numbers.max():g}: "
            f"number the classes from 0 or from 1, and name each"
        )
    return np.array(classes)[(numbers - first).astype(np.int64)]


def _names(archive: NpzFile, name: str) -> list[str]:
    """Returns the names in an array of an ``.npz`` file; no names if there is no such array."""
    return [str(one) for one in _member(archive, name)] if name in archive.files else []


def _shape(archive: NpzFile, name: str) -> tuple[int, ...]:
    """Returns the shape of an array of an ``.npz`` file from its header."""
    assert archive.zip is not None
    with archive.zip.open(f"{name}.npy") as file:
        return HEADERS[np.lib.format.read_magic(file)](file)[0]


def _member(archive: NpzFile, name: str) -> np.ndarray:
    """Reads an array of an ``.npz`` file, after its size is compared with the header and with the memory."""
    assert archive.zip is not None
    info = archive.zip.getinfo(f"{name}.npy")
    check_memory(info.file_size)
    with archive.zip.open(info) as file:
        shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
        promised, found = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
        if promised != found:
            raise ValueError(f"the header of {name} says {promised} bytes, but the file holds {found}")
    return archive[name]
