"""Metrics of generated points: distances from the distribution of the data.

The reference is one large set: independent draws from the exact distribution, or the held-out points if the
distribution is not known. The *floor* of a distance is its median over 20 independent sets of exact draws. Each set is
as large as the set of generated points. ``train`` is the distance of the training set. No distance is negative.

If the distribution is not known, random parts of the data replace the sets of exact draws, and each part is compared
with a disjoint part as large as the held-out part. If there are then more generated points than training points, they
are split into parts as large as the training set, and the value is the mean over these parts.

For numbers, distances are in the user's units. For vectors, each coordinate is divided by its standard deviation; for
signals, each channel. ``column_w1`` is the largest of the distances of the single coordinates of vectors; ``column`` is
the name of this coordinate. With
``dataset.standardize=robust`` or ``quantile``, a few rows may dominate the standard deviations. Distances are then in
the network's units, and coordinates are clipped to ±:data:`FARTHEST`, so that a few rows do not dominate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core.randomness import generator, randn_like
from sdegen.core.tensors import squared_norm
from sdegen.datasets import Dataset
from sdegen.metrics.distances import energy, ks, mean_distance, sliced_w1, total_variation, w1
from sdegen.metrics.floors import Floors, Numbers
from sdegen.sde.base import SDE, Score
from sdegen.sde.mixture import marginals

REFERENCE = 10_000
"""Number of exact draws in the reference."""
LEAST_REFERENCE = 2000
"""Smallest number of exact draws of a class in the reference for one of several classes."""
FLOORS = 20
"""Number of sets over which the floor is the median."""
COLUMNS = 8
"""Largest number of columns whose distances are reported by name: the columns that are farthest off."""
FARTHEST = 10.0
"""Bound to which the coordinates of heavy-tailed data are clipped, in the network's units."""

Metrics = dict[str, dict[str, Any]]


def distances(
    dataset: Dataset, reference: Tensor, floors: Floors | None = None
) -> dict[str, Callable[[Tensor], float]]:
    """Returns, by name, the functions that measure the distance of points from ``reference`` for a data set.

    ``floors`` are those of the data, if ``reference`` depends only on its size.
    """
    line, placed = reference[0].numel() == 1, _placing(dataset, reference)
    scaled = placed(reference)
    name = f"mean distance of {len(reference)} points"
    within = None if line else (floors or Floors()).once(name, lambda: mean_distance(scaled, scaled))
    chosen: dict[str, Callable[[Tensor], float]] = {}
    if line:
        chosen["w1"] = lambda x: float(w1(placed(x).flatten(), scaled.flatten()))
        chosen["ks"] = lambda x: ks(x, reference)
    else:
        chosen["sliced_w1"] = lambda x: sliced_w1(placed(x), scaled)
    chosen["energy"] = lambda x: energy(placed(x), scaled, within)
    if dataset.modes(reference[:1]) is not None:
        modes = _found(dataset.modes(reference))
        chosen["mode_weights"] = lambda x: total_variation(_found(dataset.modes(x)), modes)
    if dataset.off_support(reference[:1]) is not None:
        chosen["off_support"] = lambda x: float(_found(dataset.off_support(x)).double().mean())
    return chosen


def column_distances(dataset: Dataset, reference: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the function that measures the W1 distance ``(d,)`` of each column of vectors from ``reference``."""
    placed = _placing(dataset, reference)
    columns = placed(reference).T.contiguous()
    return lambda x: w1(placed(x).T.contiguous(), columns)


def _placing(dataset: Dataset, reference: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns the map to the units in which distances are measured."""
    line = reference[0].numel() == 1
    if dataset.standardize in ("robust", "quantile"):
        return lambda x: dataset.units.encode(x).clamp(-FARTHEST, FARTHEST)
    # The steps of a channel of signals have one unit, and so have all pixels.
    deviation = reference.std((0, 2) if reference.ndim == 3 else 0, correction=0, keepdim=True)[0]
    scale = torch.where(deviation > 0, deviation, 1.0) if reference.ndim < 4 and not line else torch.ones(())
    return lambda x: x / scale


class Sets(NamedTuple):
    """The sets that are compared to measure points.

    Attributes:
        parts: parts of the points; the value is the mean over the parts.
        reference: the set from which the distance is measured.
        pairs: function that returns sets of as many points and their references; the floor is the median over them.
        kind: sentence about the pairs.
    """

    parts: tuple[Tensor, ...]
    reference: Tensor
    pairs: Callable[[], list[tuple[Tensor, Tensor]]]
    kind: str


def measure_points(dataset: Dataset, x: Tensor, reference: int | None = None, floors: Floors | None = None) -> Metrics:
    """Returns the distances of points ``x``, in the user's units, with the floors and the values of the training set.

    The result is empty if the distribution is not known and no points are held out. ``reference`` is the number of
    exact draws in the reference, by default :data:`REFERENCE`. ``floors`` hold the floors that are known already.
    """
    if unmeasured(dataset):
        return {}
    floors = floors or Floors()
    # Round dequantised columns to the original values before the comparison.
    sets = _sets(dataset, dataset.rounded(x.detach().double().cpu()), reference or REFERENCE)
    chosen = distances(dataset, sets.reference, floors)
    rest = _floors(dataset, sets, chosen, floors)
    found: Metrics = {
        name: {
            "value": float(np.mean([distance(part) for part in sets.parts])),
            "floor": rest[f"{name} floor"],
            "train": rest[f"{name} train"],
            "floor_from": sets.kind,
        }
        for name, distance in chosen.items()
    }
    if sets.reference.ndim == 2 and x.shape[1] > 1:
        found |= _column_metrics(dataset, sets, floors)
    return found


def _sets(dataset: Dataset, x: Tensor, reference: int) -> Sets:
    exact = dataset.draw(reference, generator("cpu", 0, "reference"))
    if exact is not None:

        def draws() -> list[tuple[Tensor, Tensor]]:
            return [(_found(dataset.draw(len(x), generator("cpu", 0, "floor", i))), exact) for i in range(FLOORS)]

        return Sets((x,), exact, draws, "exact draws")
    parts = in_parts(x, min(len(x), len(dataset.x)))

    def splits() -> list[tuple[Tensor, Tensor]]:
        return [_split(dataset, len(parts[0]), i) for i in range(FLOORS)]

    return Sets(parts, _found(dataset.held_out).double(), splits, "random parts of the data")


def _floors(dataset: Dataset, sets: Sets, chosen: Mapping[str, Callable[[Tensor], float]], known: Floors) -> Numbers:
    """Returns the floors and the values of the training set, as ``<name> floor`` and ``<name> train``."""

    def compute() -> Numbers:
        rows = [
            {name: distance(a) for name, distance in (chosen if b is sets.reference else distances(dataset, b)).items()}
            for a, b in sets.pairs()
        ]
        floors = {f"{name} floor": float(np.median([row[name] for row in rows])) for name in chosen}
        return {**floors, **{f"{name} train": distance(dataset.x.double()) for name, distance in chosen.items()}}

    keys = [f"{name} {kind}" for name in chosen for kind in ("floor", "train")]
    return known.of(f"distances of {_size(sets)}", keys, compute)


def _column_metrics(dataset: Dataset, sets: Sets, known: Floors) -> Metrics:
    """Returns the W1 distance of the column that is farthest off, with the :data:`COLUMNS` farthest columns by name."""
    chosen = column_distances(dataset, sets.reference)
    values, numbers = torch.stack([chosen(part) for part in sets.parts]), range(sets.reference.shape[1])

    def compute() -> Numbers:
        floors = torch.stack(
            [(chosen if b is sets.reference else column_distances(dataset, b))(a) for a, b in sets.pairs()]
        )
        largest = {"floor": float(np.median(floors.amax(1))), "train": float(chosen(dataset.x.double()).max())}
        return {**largest, **{f"column {i}": float(floors[:, i].quantile(0.5)) for i in numbers}}

    rest = known.of(f"columns of {_size(sets)}", ["floor", "train", *(f"column {i}" for i in numbers)], compute)
    names, mean = dataset.description.columns, values.mean(0)
    columns = {
        names[i] if names else f"x{i + 1}": {"value": float(mean[i]), "floor": rest[f"column {i}"]}
        for i in mean.argsort(descending=True, stable=True)[:COLUMNS].tolist()
    }
    entry = {
        "value": float(values.amax(1).mean()),
        "floor": rest["floor"],
        "train": rest["train"],
        "floor_from": sets.kind,
        "columns_floor_from": f"{sets.kind}, one column alone; the floor of column_w1 is that of the largest distance",
        "column": next(iter(columns)),
        "columns": columns,
    }
    return {"column_w1": entry}


def _size(sets: Sets) -> str:
    """Returns the sizes of the sets, on which the floors depend."""
    return f"{len(sets.parts[0])} points from {len(sets.reference)}"


def measure_labelled_points(dataset: Dataset, x: Tensor, y: Tensor, floors: Floors | None = None) -> Metrics:
    """Returns the distances of the points of each class from the data of this class, as means over the classes.

    Each entry also has the values and floors of the single classes, as ``classes``. Classes without data are left out.

    Args:
        dataset: the data, with labels.
        x: points in the user's units, ``(N, d)``.
        y: classes of the points, ``(N,)``.
        floors: floors that are known already.
    """
    floors = floors or Floors()
    labels = [label for label in y.unique().tolist() if bool((dataset.y == label).any())]
    reference = max(LEAST_REFERENCE, REFERENCE // max(len(labels), 1))
    found = {
        label: measure_points(dataset.of_class(label), x[y == label], reference, floors.part(f"class {label}"))
        for label in labels
    }
    found = {label: entries for label, entries in found.items() if entries}
    return averaged_over_classes(found) if found else {}


def averaged_over_classes(found: Mapping[int, Metrics], each: str = "class") -> Metrics:
    """Returns the means of the metrics of single classes, with the values and floors of the classes.

    ``each`` is the noun for what the metrics of ``found`` belong to, in the singular.
    """
    plural = {"class": "classes"}.get(each, f"{each}s")
    first, *_ = found.values()
    metrics: Metrics = {}
    for name, entry in first.items():
        own = {label: entries[name] for label, entries in found.items()}
        means = {
            key: None if entry[key] is None else float(np.mean([of[key] for of in own.values()]))
            for key in ("value", "floor", "train")
        }
        source = f"{entry['floor_from']} of the same {each}" + (f"; means over the {plural}" if len(own) > 1 else "")
        classes = {str(label): {key: of[key] for key in ("value", "floor")} for label, of in own.items()}
        metrics[name] = {**means, "floor_from": source, "classes": classes}
    return metrics


def unmeasured(dataset: Dataset) -> str:
    """Returns the reason why points cannot be measured, or an empty string."""
    if dataset.held_out is not None or dataset.draw(1, generator("cpu", 0, "reference")) is not None:
        return ""
    return "no data are held out and the distribution of the data is not known"


def score_error(dataset: Dataset, sde: SDE, score: Score, n: int = 1024) -> float | None:
    r"""Returns the relative error of a score, or None if the exact score is not known.

    .. math:: \left( \frac{E \sigma_t^2 \|s_\theta - \nabla \log p_t\|^2}{E \sigma_t^2 \|\nabla \log p_t\|^2}
              \right)^{1/2}, \qquad t \sim U[\varepsilon, T], \quad x_t \sim p_t

    The points x and the times t are the same at every call.
    """
    exact = marginals(dataset.encoded_law, sde)
    if exact is None:
        return None
    source = generator("cpu", 0, "score error")
    t = sde.eps + (sde.T - sde.eps) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = sde.perturb(exact.law.sample(n, source), t, randn_like(source))
    target = exact(x, t)
    weight = exact.sde.sigma(t) ** 2
    with torch.no_grad():
        learned = score(x, t)
    error = (weight * squared_norm(learned.to(target) - target)).sum() / (weight * squared_norm(target)).sum()
    return float(error.sqrt())


def table(metrics: Metrics, points: str = "samples") -> str:
    """Returns the metrics as lines of text; ``points`` is the heading of the values. An empty column is left out."""
    names = [f"{name} ({entry['column']})" if "column" in entry else name for name, entry in metrics.items()]
    width = max([14, *(len(name) + 1 for name in names)])
    columns = {"value": (points, 10), "floor": ("floor", 10), "train": ("training set", 14)}
    used = [key for key in columns if key == "value" or any(entry[key] is not None for entry in metrics.values())]
    lines = [" " * width + "".join(f"{columns[key][0]:>{columns[key][1]}}" for key in used)]
    for name, entry in zip(names, metrics.values(), strict=True):
        cells = [(f"{entry[key]:.4g}" if entry[key] is not None else "", columns[key][1]) for key in used]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>{space}}" for cell, space in cells))
    return "\n".join(lines)


def in_parts(x: Tensor, n: int) -> tuple[Tensor, ...]:
    """Splits a set into parts of ``n`` points and drops the remainder."""
    return x[: len(x) // n * n].split(n)


def _split(dataset: Dataset, n: int, i: int) -> tuple[Tensor, Tensor]:
    """Draws two disjoint random parts of all data: one of ``n`` points, and one as large as the held-out part."""
    held_out = _found(dataset.held_out).double()
    pool = torch.cat([dataset.x.double(), held_out])
    order = torch.randperm(len(pool), generator=generator("cpu", 0, "floor", i))
    return pool[order[len(held_out) :][:n]], pool[order[: len(held_out)]]


def _found(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
