"""The classifier two-sample test: how well a classifier tells samples from the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sdegen.core.randomness import derive, generator
from sdegen.datasets import Dataset
from sdegen.metrics.features import Features
from sdegen.metrics.floors import Floors
from sdegen.metrics.images import features_of, part, quantized
from sdegen.metrics.points import REFERENCE, Metrics

DRAWS = 10
"""Number of pairs of sets whose accuracies are averaged."""
MOST = 1000
"""Largest number of points of each set in a draw."""
FEWEST = 10
"""Smallest number of points of each set."""
TREES, LEAF = 10, 20
"""Number of trees of a forest, and number of points in its smallest leaf; smaller leaves for fewer than 400 points.

They were chosen on pairs of Gaussians in 1 to 8 dimensions that differ in a mean or a correlation, and on grids of
narrow clusters. There, leaves of one point lose up to half of the accuracy above 0.5. Three times as many trees, or
five parts instead of two halves, add about 0.01 and take two to four times as long.
"""
PIXELS = 1
"""Number of images in the smallest leaf of a forest that sees their pixels.

It was chosen on drawn shapes and on cut-outs of a photograph, 16 × 16. A step of grey in a tenth of the pixels is told
from the data with an accuracy of 0.98 and 0.67, and with one of 0.63 and 0.50 if leaves have 20 images.
"""
FEATURED = 2 * MOST
"""Largest number of unseen images whose features are computed for the draws. Those of 10 000 images take seconds."""


def c2st(draw: Callable[[int], tuple[Tensor, Tensor]], *, trees: int = TREES, leaf: int = LEAF) -> float:
    """Returns the accuracy a of random forests that tell two sets apart, as max(a, 1 − a): 0.5 for equal distributions.

    In each of :data:`DRAWS` draws, the sets are cut into two halves. A forest is trained on the first halves and tested
    on the second halves, and a second forest the other way round. The sets have the same size, so a classifier that
    knows nothing has the accuracy 0.5. a is the mean over all draws.

    Reference: Lopez-Paz and Oquab (2017), https://arxiv.org/abs/1610.06545

    Args:
        draw: function that returns two sets ``(n, d)`` of the same size for a number from 0 to ``DRAWS - 1``.
        trees: number of trees of a forest.
        leaf: number of points in the smallest leaf of a tree.
    """
    accuracy = float(np.mean([_accuracy(*draw(i), i, trees, leaf) for i in range(DRAWS)]))
    return max(accuracy, 1 - accuracy)


def measure_c2st(
    dataset: Dataset,
    x: Tensor,
    placed: Callable[[Tensor], Tensor],
    floors: Floors | None = None,
    *,
    leaf: int = LEAF,
    most: int = REFERENCE,
) -> Metrics:
    """Returns the accuracy of :func:`c2st` for points ``x`` and unseen data, with its floor.

    The unseen data are exact draws, or the held-out points if the distribution is not known. The floor is the accuracy
    for other exact draws or for training points, as many as ``x``. In each draw, random parts of both sets are told
    apart. ``standard_error`` is that of one draw of equal distributions. The result is empty if there are no unseen
    data or fewer than :data:`FEWEST` points in a set.

    Args:
        dataset: the data.
        x: points in the user's units, ``(N, *)``.
        placed: function that returns the vectors ``(N, d)`` of points, by which the forests tell them apart.
        floors: floors that are known already.
        leaf: number of points in the smallest leaf of a tree.
        most: largest number of unseen points; each draw takes some of them.
    """
    if too_few(dataset, len(x)):
        return {}
    # Parts of a large draw are independent, which a draw of a stratified sampler such as make_moons is not.
    drawn = [dataset.draw(REFERENCE, generator("cpu", 0, "c2st", name)) for name in ("floor", "reference")]
    real, unseen = (dataset.x, dataset.held_out) if drawn[0] is None else drawn
    assert real is not None and unseen is not None
    size = min(len(x), REFERENCE)
    own, reference = placed(part(x)), placed(part(unseen, most))
    n = min(len(own), len(real), len(reference), MOST)
    rest = (floors or Floors()).of(
        f"c2st of {size} points",
        ["floor"],
        lambda: {"floor": c2st(_random_parts(placed(part(real, size)), reference, n), leaf=leaf)},
    )
    kind = "training points" if drawn[0] is None else "exact draws"
    return {
        "c2st": {
            "value": c2st(_random_parts(own, reference, n), leaf=leaf),
            "floor": rest["floor"],
            "train": None,
            "standard_error": 0.5 / (2 * n) ** 0.5,
            "floor_from": f"{kind} in the place of samples",
        }
    }


def measure_c2st_images(
    dataset: Dataset, x: Tensor, features: Features, floors: Floors | None = None, of_features: Floors | None = None
) -> Metrics:
    """Returns the accuracies of :func:`c2st` for generated images or signals: by their pixels, and by their features.

    Faint noise that no eye sees changes the pixels and not the features. Wrong shapes change both.

    Args:
        dataset: the data, with a held-out part.
        x: generated images or signals in the user's units, ``(N, C, *)``.
        features: classifier of the training images.
        floors: floors that are known already.
        of_features: floors with these features that are known already.
    """
    saved = quantized(x.detach().cpu(), dataset.levels)
    by_pixels = measure_c2st(dataset, saved, lambda some: some.flatten(1), floors, leaf=PIXELS)
    by_features = measure_c2st(dataset, saved, partial(features_of, dataset, features), of_features, most=FEATURED)
    return {**by_pixels, **{f"{name}_features": entry for name, entry in by_features.items()}}


def _random_parts(x: Tensor, y: Tensor, n: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Returns a function for :func:`c2st` that draws ``n`` points of each set."""

    def draw(i: int) -> tuple[Tensor, Tensor]:
        source = generator("cpu", 0, "c2st", i)
        first, second = (torch.randperm(len(points), generator=source)[:n] for points in (x, y))
        return x[first], y[second]

    return draw


def known(dataset: Dataset) -> bool:
    """Returns True if the exact distribution of the data is known."""
    return dataset.draw(1, generator("cpu", 0, "reference")) is not None


def too_few(dataset: Dataset, count: int) -> str:
    """Returns the reason why ``count`` samples cannot be told from unseen data, or an empty string."""
    if not known(dataset):
        if dataset.held_out is None:
            return "no data are held out and the distribution of the data is not known"
        if len(dataset.held_out) < FEWEST:
            return f"{len(dataset.held_out)} points are held out, and at least {FEWEST} are needed"
        if len(dataset.x) < FEWEST:
            return f"{len(dataset.x)} points are for training, and at least {FEWEST} are needed"
    return f"{count} samples are too few: set count to {FEWEST} or more" if count < FEWEST else ""


def _accuracy(x: Tensor, y: Tensor, seed: int, trees: int, leaf: int) -> float:
    """Returns the two-fold cross-validated accuracy of a forest that tells ``x`` from ``y``, ``(n, d)`` both."""
    from sklearn.ensemble import RandomForestClassifier

    # Forests take no infinite values, which diverged samples have: use the largest number.
    finite = [part.float().nan_to_num(nan=torch.finfo(torch.float32).max).cpu().numpy() for part in (x, y)]
    halves = [np.concatenate([part[k::2] for part in finite]) for k in range(2)]
    labels = [np.repeat([0, 1], [len(x[k::2]), len(y[k::2])]) for k in range(2)]
    leaf, hits = max(1, min(leaf, len(x) // LEAF)), 0
    for k in range(2):
        forest = RandomForestClassifier(trees, min_samples_leaf=leaf, random_state=derive(seed, "forest", k) % 2**32)
        forest.fit(halves[k], labels[k])
        hits += int((forest.predict(halves[1 - k]) == labels[1 - k]).sum())
    return hits / (len(x) + len(y))
