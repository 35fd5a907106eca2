"""Summary of a data set: what was read, what is held out, and the units of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdegen.core.tensors import chunks
from sdegen.datasets.base import Dataset
from sdegen.datasets.table import shortened

SHOWN = 12
"""Largest number of columns, or of classes, in the text of a summary."""
UNITS = {
    True: "mean 0 and standard deviation 1",
    "robust": "median 0, and 5 and 95 % quantiles as of a normal distribution",
    "quantile": "quantiles as of a normal distribution",
}
"""Units of the network for each value of ``standardize``."""
SCALED = {"vectors": "each column has", "signals": "each channel has", "images": "all pixels together have"}
"""Entries that share a scale, for each kind of points."""
NOUNS = {"signals": "values", "images": "pixels"}
"""Entries of points that are no vectors."""


def summary(dataset: Dataset) -> dict[str, Any]:
    """Returns the summary of a data set as plain data; ``text`` has the lines for the log.

    ``columns`` has the name and the lowest, mean and highest value of each column, over training and held-out rows. For
    images and signals, one entry stands for all values; it is missing if they stay on the disk, since reading takes
    long.
    """
    parts = [part for part in (dataset.x, dataset.held_out) if part is not None]
    found: dict[str, Any] = {
        "rows": sum(map(len, parts)),
        "held_out": 0 if dataset.held_out is None else len(dataset.held_out),
        "shape": list(dataset.x.shape[1:]),
        "kind": dataset.units.kind,
        "columns": [] if dataset.mapped else _columns(dataset, parts),
        "classes": _counts(dataset),
        "conditions": _conditions(dataset),
        "units": _units(dataset),
        "report": [*dataset.description.report, *_on_the_disk(dataset)],
        "concerns": dataset.concerns(),
    }
    entries = _entries(found, generated=dataset.held_out is None)
    return {**found, "text": [f"{name:10}{text}" for name, text in entries]}


def _columns(dataset: Dataset, parts: Sequence[Tensor]) -> list[dict[str, Any]]:
    vectors, edges = dataset.units.kind == "vectors", []
    for piece in (piece for part in parts for piece in chunks(part)):
        rows = piece if vectors else piece.reshape(-1, 1)
        edges.append((rows.amin(0).double(), rows.sum(0, dtype=torch.float64), rows.amax(0).double(), len(rows)))
    lows, sums, highs, counts = zip(*edges, strict=True)
    low, high = torch.stack(lows).amin(0).tolist(), torch.stack(highs).amax(0).tolist()
    mean = (torch.stack(sums).sum(0) / sum(counts)).tolist()
    names = [dataset.description.column(i) for i in range(len(low))] if vectors else [NOUNS[dataset.units.kind]]
    values = zip(names, low, mean, high, strict=True)
    return [{"name": name, "lowest": least, "mean": middle, "highest": most} for name, least, middle, most in values]


def _conditions(dataset: Dataset) -> list[dict[str, Any]]:
    """Returns the name and the range of each number of the conditions; one entry for images and signals."""
    if dataset.conditions is None:
        return []
    low, high = dataset.conditions.low, dataset.conditions.high
    if low.ndim > 1:
        shape = " × ".join(map(str, low.shape))
        return [{"name": f"array of {shape}", "lowest": float(low.min()), "highest": float(high.max())}]
    values = zip(low.tolist(), high.tolist(), strict=True)
    names = map(dataset.description.condition, range(len(low)))
    return [{"name": name, "lowest": least, "highest": most} for name, (least, most) in zip(names, values, strict=True)]


def _on_the_disk(dataset: Dataset) -> list[str]:
    """Returns a sentence about data that stay on the disk."""
    if dataset.disk is None:
        return []
    order = "rows" if dataset.block is None else f"blocks of {dataset.block}"
    return [f"{dataset.x.nbytes / 2**30:.3g} GiB for training stay on the disk, shuffled by {order}"]


def _counts(dataset: Dataset) -> dict[str, int]:
    """Returns the number of rows of each class by its label."""
    labels = [part for part in (dataset.y, dataset.held_out_y) if part is not None]
    if not labels:
        return {}
    counts = torch.bincount(torch.cat(labels), minlength=dataset.classes or 0).tolist()
    return {dataset.description.label(i): count for i, count in enumerate(counts)}


def _units(dataset: Dataset) -> str:
    affine = dataset.units.affine
    if text := UNITS.get(dataset.standardize):
        return f"{SCALED[dataset.units.kind]} {text}"
    if affine is None or not affine.uniform:
        return "units of the data set's own"
    shift, scale = float(affine.shift.flatten()[0]), float(affine.scale.flatten()[0])
    return "those of the data" if (shift, scale) == (0, 1) else f"(x - {shift:g}) / {scale:g}"


def _entries(found: dict[str, Any], generated: bool) -> list[tuple[str, str]]:
    """Returns a title, or none if it is the title of the line before, and a text for each line.

    Columns of generated points have no table, because the user knows the distribution.
    """
    entries, vectors = [("data", _size(found))], found["kind"] == "vectors"
    if vectors and not generated:
        entries += _table(found["columns"])
    elif not vectors and found["columns"]:
        (entry,) = found["columns"]
        entries.append((entry["name"], f"{_number(entry['lowest'])} to {_number(entry['highest'])}"))
    if found["classes"]:
        counts = [f"{shortened(name)} ({count})" for name, count in found["classes"].items()]
        more = [f"… {len(counts)} in all"] * (len(counts) > SHOWN)
        entries.append(("labels", ", ".join([*counts[:SHOWN], *more])))
    if found["conditions"]:
        ranges = [
            f"{shortened(c['name'])} ({_number(c['lowest'])} to {_number(c['highest'])})" for c in found["conditions"]
        ]
        more = [f"… {len(ranges)} in all"] * (len(ranges) > SHOWN)
        entries.append(("condition", ", ".join([*ranges[:SHOWN], *more])))
    entries += [("" if i else "read", sentence) for i, sentence in enumerate(found["report"])]
    return [*entries, ("units", f"of the network: {found['units']}")]


def _size(found: dict[str, Any]) -> str:
    shape, rows, held_out = found["shape"], found["rows"], found["held_out"]
    if found["kind"] == "vectors":
        size = f"{rows} rows of {shape[0]} column{'s' * (shape[0] != 1)}"
    else:
        size = f"{rows} {found['kind']} of {' × '.join(map(str, shape))}"
    if not held_out:
        return f"{size}, all for training"
    return f"{size}: {rows - held_out} for training, {held_out} held out for the measures"


def _table(columns: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Returns the columns with their ranges, aligned."""
    width = max(len(shortened(column["name"])) for column in columns[:SHOWN])
    rows = [f"{'':{width}}{'lowest':>12}{'mean':>12}{'highest':>12}"]
    for column in columns[:SHOWN]:
        values = "".join(f"{_number(column[key]):>12}" for key in ("lowest", "mean", "highest"))
        rows.append(f"{shortened(column['name']):{width}}{values}")
    if len(columns) > SHOWN:
        rows.append(f"… {len(columns)} columns in all, see data.json")
    return [("columns" if i == 0 else "", row) for i, row in enumerate(rows)]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) < 1e9 and value == round(value) else f"{value:.4g}"
