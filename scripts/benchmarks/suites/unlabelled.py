"""Measures of images without labels, divided by their floors, for real images and for images with a known fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sdegen import metrics
from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset, Digits
from suites.base import Row, row


def digits() -> tuple[Dataset, Tensor]:
    """Returns the digits without their labels, and the labels."""
    labelled = Digits()
    assert labelled.y is not None
    return Dataset(labelled.x, labelled.held_out, levels=17), labelled.y


def shapes() -> tuple[Dataset, Tensor]:
    """Returns drawn discs, squares, rings and crosses of random sizes and places, 16 × 16, and their kinds."""
    source, count = generator("cpu", 0, "shapes"), 2400
    kinds = torch.arange(count) % 4
    place, size = (
        6 + 3 * torch.rand(count, 2, 1, 1, generator=source),
        3 + 2 * torch.rand(count, 1, 1, generator=source),
    )
    grid = torch.arange(16.0)
    y, x = (grid.view(1, 16, 1) - place[:, 0]).abs(), (grid.view(1, 1, 16) - place[:, 1]).abs()
    radius, largest, smallest = (x * x + y * y).sqrt(), torch.maximum(x, y), torch.minimum(x, y)
    # Signed distances from the four edges, of which each image takes the one of its kind.
    edges = torch.stack([size - radius, size - largest, 1 - (size - 1 - radius).abs(), 1 - smallest.clamp(min=0)], 1)
    edges[:, 3] = torch.minimum(edges[:, 3], size - largest)
    images = (0.5 + edges[torch.arange(count), kinds]).clamp(0, 1).unsqueeze(1).mul(16).round()
    return Dataset(images[:2000], images[2000:], levels=17), kinds[:2000]


SETS: dict[str, Callable[[], tuple[Dataset, Tensor]]] = {"digits": digits, "shapes": shapes}


def measure(sets: Sequence[str], count: int, draws: int) -> list[Row]:
    """Returns each measure over its floor, for several draws of ``count`` images.

    Args:
        sets: keys of :data:`SETS`.
        count: number of images that are measured.
        draws: number of draws, each with another missing class.
    """
    if foreign := [name for name in sets if name not in SETS]:
        raise UserError(f"sets={foreign[0]}: no such images: choose from {', '.join(SETS)}")
    rows = []
    for name in sets:
        dataset, kinds = SETS[name]()
        features = metrics.fit_features(dataset)
        found: dict[tuple[str, str], list[float]] = {}
        for draw in range(draws):
            for fault, x in faulty(dataset, kinds, count, draw).items():
                entries = metrics.measure_images(dataset, x, features)
                # The real images are training images, so near copies say nothing.
                del entries["near_copies"]
                for key, entry in entries.items():
                    found.setdefault((key, fault), []).append(entry["value"] / entry["floor"])
        rows += [row(f"{name}, value divided by floor", key, fault, own, "") for (key, fault), own in found.items()]
    return sorted(rows, key=lambda each: (each.panel, each.line))


def faulty(dataset: Dataset, kinds: Tensor, count: int, draw: int) -> dict[str, Tensor]:
    """Returns training images, and the same number of images with each fault."""
    source = generator("cpu", draw, "unlabelled")

    def some(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=source)[:count]].double()

    real, missing = some(dataset.x), draw % (int(kinds.max()) + 1)
    padded = functional.pad(real, (1, 1, 1, 1), mode="replicate")
    return {
        "real": real,
        "noise": 16 * torch.rand(real.shape, generator=source, dtype=torch.float64),
        "blur": functional.avg_pool2d(padded, 3, stride=1),
        "without a class": some(dataset.x[kinds != missing]),
    }
