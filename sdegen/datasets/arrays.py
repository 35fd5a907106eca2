"""Arrays of NumPy: points, labels and names of a ``.npy`` or ``.npz`` file."""

from __future__ import annotations

import math
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile

from sdegen.core.errors import nearest
from sdegen.datasets import table as tables
from sdegen.datasets.base import check_memory
from sdegen.datasets.table import Choice, Labels, Table

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Functions that read the header, by the version of NumPy's format."""
LONGEST = 300
"""Largest number of characters quoted from the error message of another library."""
OURS = ("names", "classes")
"""Arrays of an ``.npz`` file with the names of the columns and of the classes."""


class Arrays(NamedTuple):
    """Array of points or images, their labels, names of the columns, and sentences about the file."""

    x: np.ndarray
    labels: Labels | None
    names: list[str]
    notes: list[str]


def read_arrays(path: Path, large: bool, choice: Choice) -> tuple[Arrays, Choice]:
    """Returns the arrays of a file, and the choice that is left to make among columns.

    Points are mapped from the disk if they are ``large``.
    """
    try:
        if zipfile.is_zipfile(path):
            arrays, choice = _read_npz(path, choice)
        else:
            # Mapping checks the size of the file against its header before it reads anything. Mode "c" (copy on write)
            # provides the writable memory that torch needs, and leaves the file unchanged.
            mapped = np.load(path, mmap_mode="c", allow_pickle=False)
            arrays = Arrays(mapped if large else np.array(mapped), None, [], [])
    except tables.Refused:
        raise
    except Exception as error:  # NumPy and zipfile raise many types of errors on damaged files.
        reason = textwrap.shorten(str(error) or type(error).__name__, LONGEST)
        raise ValueError(f"not a readable array file: {reason}") from None
    x = arrays.x
    if not x.dtype.names and not (np.issubdtype(x.dtype, np.number) and np.isrealobj(x)):
        raise ValueError(f"holds {x.dtype}, not real numbers: convert the values")
    if x.ndim == 0:
        raise ValueError("holds a single number: give an array of points")
    if arrays.labels is not None and arrays.labels.values.shape != x.shape[:1]:
        name, values = arrays.labels
        raise ValueError(
            f"{name} must have one label for each of {len(x)} points, not the shape {values.shape}: if it has no "
            f"labels, leave it out with {tables.setting('drop', name)}"
        )
    return arrays, choice


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
    return Table(columns, bool(names or x.dtype.names), lambda row: f"row {row + 1}", tuple(arrays.notes))


def _read_npz(path: Path, choice: Choice) -> tuple[Arrays, Choice]:
    """Reads the points, labels and names of an ``.npz`` file; labels and drop may name arrays."""
    with np.load(path, allow_pickle=False) as archive:
        found = archive.files
        name = "x" if "x" in found else found[0] if len(found) == 1 else None
        if name is None:
            raise ValueError(f"holds the arrays {', '.join(found) or '(none)'}: name one of them x")
        x, beside = _member(archive, name), [other for other in found if other not in (name, *OURS)]
        if isinstance(choice.labels, str) and choice.labels not in (known := [*beside, *_names(archive, OURS[0])]):
            raise tables.Refused(f"labels={choice.labels}: no such column or array: {nearest(choice.labels, known)}")
        label = str(choice.labels) if choice.labels in beside else "y" if choice.labels is None else ""
        label = label if label in beside and label not in choice.drop else ""
        left_out = [other for other in beside if other in choice.drop]
        notes = [f"array {label} has the labels"] if label else []
        for other in beside:
            if other in (label, *left_out):
                continue
            if len(x.shape) and _shape(archive, other)[:1] == x.shape[:1]:
                raise tables.Refused(
                    f"holds the array {other} beside x, with an entry for each point: use it as the label with "
                    f"dataset.labels={other}, or leave it out with dataset.drop=[{other}]"
                )
            left_out.append(other)
        y = _member(archive, label) if label else None
        names, classes = (_names(archive, own) for own in OURS)
    if left_out:
        notes.append(f"left out the arrays {', '.join(left_out)}" if len(left_out) > 1 else f"left out {left_out[0]}")
    width = x.shape[1] if x.ndim == 2 else 1
    if names and x.ndim <= 2 and len(names) != width:
        raise tables.Refused(f"names: has {len(names)} names for {width} columns: correct it")
    tables.check_names(names)
    if y is not None and classes and y.dtype.kind in "iu" and y.size and 0 <= y.min() and y.max() < len(classes):
        y = np.array(classes)[y]
    labels = None if choice.labels in (None, label) else choice.labels
    rest = Choice(choice.columns, labels, tuple(name for name in choice.drop if name not in left_out))
    return Arrays(x, None if y is None else Labels(label, y), names, notes), rest


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
            raise ValueError(
                f"the header of {name} says {promised} bytes, but the file holds {found}: save the file again"
            )
    return archive[name]
