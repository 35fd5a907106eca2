"""Metrics of generated images and signals, computed from the features of a classifier of clean images.

The reference is the set of held-out images. The *floor* is the value of a random part of the training images that is as
large as the set of generated images: the median over several parts. ``train`` is the value of all training images. The
distribution is not known, so no model can be expected to be better than its training images. If there are more
generated images than training images, they are split into parts as large as the training set, and the value is the
mean over these parts. Distances are never negative. They are computed between two finite sets, so value and floor have
the same bias. If the data are quantised, generated images are first rounded to the levels of the data. A metric with
another floor says so in ``floor_from``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.core.tensors import chunks
from sdegen.datasets import Dataset
from sdegen.metrics.distances import (
    affinity,
    frechet,
    kernel,
    nearest,
    precision,
    recall,
    share_difference,
    spread,
    total_variation,
)
from sdegen.metrics.features import Features
from sdegen.metrics.floors import Floors, Numbers
from sdegen.metrics.points import Metrics, in_parts
from sdegen.metrics.spectrum import band_powers, spectral

REFERENCE = 10_000
"""Largest number of images of a set that are compared. Of a larger set, a random part is used."""
ORIGINALS = 100_000
"""Largest number of training images with which generated images are compared to find near copies."""
JUDGED = 2000
"""Largest number of held-out images that fix the threshold of near copies and the floor of :func:`agreement`."""
SUBSETS = 5
"""Number of random parts of the training set over which the floor is the median."""
DRAWS = 200
"""Number of multinomial draws over which the floor of the class balance is the median."""
NEAR = 0.05
"""Share of the held-out images that count as near copies."""
AS_MANY = "training images, as many as generated images, against held-out images"

FLOOR = ("floor", "train")
"""Numbers of a metric that depend on the data only."""

Distance = Callable[[Tensor, Tensor], float]


class TrainingSet(NamedTuple):
    """Features of training images, which are computed when they are needed, and their number."""

    size: int
    features: Callable[[], Tensor]


def measure_images(dataset: Dataset, x: Tensor, features: Features, floors: Floors | None = None) -> Metrics:
    """Returns all metrics of images that were generated without a class.

    Args:
        dataset: the data, with a held-out part.
        x: generated images in the user's units, ``(N, C, *)``.
        features: classifier of the training images; see :func:`fit_features`.
        floors: floors with these features that are known already.
    """
    floors = floors or Floors()
    x = part(quantized(x.detach().cpu(), dataset.levels))
    unseen_images = part(_held_out(dataset))
    seen, unseen = (features_of(dataset, features, one) for one in (x, unseen_images))
    # The features of the training images are needed only where a floor is not known.
    known = cache(lambda: features_of(dataset, features, part(dataset.x)))
    training = TrainingSet(min(len(dataset.x), REFERENCE), known)
    # Numbers that enter the values are not kept in the run's folder, which may come from a stranger.
    within = affinity(unseen, unseen)
    distances: dict[str, Distance] = {
        "frechet": frechet,
        "kernel": lambda a, b: kernel(a, b, within),
        "precision": precision,
        "recall": recall,
    }
    found = {name: _compared(name, distance, seen, training, unseen, floors) for name, distance in distances.items()}
    if dataset.y is None:
        own = TrainingSet(training.size, lambda: features.classify(known()))
        labels = [features.classify(part) for part in (seen, unseen)]
        found["cluster_balance"] = _compared("cluster_balance", share_difference, labels[0], own, labels[1], floors)
    else:
        found["class_balance"] = class_balance(
            dataset, features.classify(seen), lambda: features.classify(known()), floors
        )
    if max(x.shape[2:]) > 1:
        own = TrainingSet(training.size, lambda: band_powers(dataset.units.encode(part(dataset.x))))
        powers = [band_powers(dataset.units.encode(one)) for one in (x, unseen_images)]
        found["spectrum"] = _compared("spectrum", spectral, powers[0], own, powers[1], floors)
    found["near_copies"] = _near_copies(dataset, x)
    return found


def measure_conditional(
    dataset: Dataset, x: Tensor, y: Tensor, features: Features, floors: Floors | None = None
) -> Metrics:
    """Returns the agreement of generated images with the requested classes, and the variety within each class.

    ``spread`` is the root mean square distance of the features of a class from their mean. ``class_recall`` is the
    recall of the held-out images of a class. Both are means over the requested classes. With stronger guidance,
    ``agreement`` rises and the other two metrics fall, so all three must be read together.

    Args:
        dataset: the data, with labels.
        x: generated images in the user's units, ``(N, C, H, W)``.
        y: requested classes, ``(N,)``.
        features: classifier of the training images.
        floors: floors with these features that are known already.
    """
    floors = floors or Floors()
    x, y = part(quantized(x.detach().cpu(), dataset.levels)), part(y.cpu())
    (train, train_y), (held_out, held_out_y) = _labelled(dataset)
    seen, unseen = (features_of(dataset, features, part) for part in (x, held_out))
    known = cache(lambda: features_of(dataset, features, train))
    spreads, recalls = [], []
    for label in y.unique().tolist():
        own, reference, chosen = seen[y == label], unseen[held_out_y == label], train_y == label
        training = TrainingSet(int(chosen.sum()), lambda chosen=chosen: known()[chosen])  # type: ignore[misc]
        if training.size and len(reference):
            kept = floors.part(f"class {label}")
            spreads.append({"value": spread(own), **_spreads(training, reference, kept)})
            recalls.append(_compared("recall", recall, own, training, reference, kept))
    found = {"agreement": agreement(dataset, x, y)}
    if not spreads:
        # No requested class has both training images and held-out images.
        return found
    return {
        **found,
        "spread": _averaged(spreads, "held-out images"),
        "class_recall": _averaged(recalls, AS_MANY),
    }


def agreement(dataset: Dataset, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Returns the share of images that an independent classifier assigns to the requested class.

    The classifier is a support vector machine on the pixels of clean training images. It is independent of the networks
    that guide samples. The floor is the accuracy of this classifier on the held-out images.

    Args:
        dataset: the data, with labels.
        x: images in the user's units, ``(N, C, H, W)``.
        y: requested classes, ``(N,)``.
    """
    from sklearn.svm import SVC

    def pixels(images: Tensor) -> np.ndarray:
        return dataset.units.encode(images).flatten(1).cpu().numpy()

    (train, train_y), held_out = _labelled(dataset, JUDGED)
    judge = SVC(C=10.0).fit(pixels(train), train_y.numpy())
    value, floor = (
        float((judge.predict(pixels(images)) == labels.cpu().numpy()).mean()) for images, labels in ((x, y), held_out)
    )
    source = "accuracy of the same classifier on held-out images"
    return {"value": value, "floor": floor, "train": None, "floor_from": source}


def quantized(x: Tensor, levels: int | None) -> Tensor:
    """Returns images as they would be saved: rounded to 0 … ``levels - 1``, or unchanged if ``levels`` is None."""
    return x if levels is None else x.double().round().clamp(0, levels - 1)


def _compared(
    name: str, distance: Distance, seen: Tensor, known: TrainingSet, unseen: Tensor, floors: Floors
) -> dict[str, Any]:
    """Returns the distances of generated and of training images from held-out images; all arguments are features."""

    def compute() -> Numbers:
        trained = known.features()
        floor = float(np.median([distance(part, unseen) for part in _parts(trained, len(seen))]))
        return {"floor": floor, "train": distance(trained, unseen)}

    parts = in_parts(seen, min(len(seen), known.size))
    value = float(np.mean([distance(part, unseen) for part in parts]))
    return {"value": value, **floors.of(f"{name} of {len(seen)} images", FLOOR, compute), "floor_from": AS_MANY}


def _spreads(known: TrainingSet, unseen: Tensor, floors: Floors) -> Numbers:
    return floors.of("spread", FLOOR, lambda: {"floor": spread(unseen), "train": spread(known.features())})


def _near_copies(dataset: Dataset, x: Tensor) -> dict[str, Any]:
    """Returns the share of images that are as near to a training image as the nearest 5 % of the held-out images."""
    originals = part(dataset.x, ORIGINALS)
    near = nearest(part(_held_out(dataset), JUDGED), originals)
    limit = near.quantile(NEAR)
    value, floor = (float((distance <= limit).double().mean()) for distance in (nearest(x, originals), near))
    source = f"held-out images, of which {NEAR:.0%} are this near by definition"
    return {"value": value, "floor": floor, "train": None, "floor_from": source}


def class_balance(dataset: Dataset, seen: Tensor, known: Callable[[], Tensor], floors: Floors) -> dict[str, Any]:
    """Returns the total variation distance between the shares of the classes in the samples and in the data.

    ``seen`` ``(N,)`` has the classes of the samples, and ``known`` returns those of the training data.
    """
    labels = torch.cat([part for part in (dataset.y, dataset.held_out_y) if part is not None])

    def compute() -> Numbers:
        shares = torch.bincount(labels, minlength=dataset.classes or 0).double() / len(labels)
        source = generator("cpu", 0, "class balance")
        draws = [shares.multinomial(len(seen), True, generator=source) for _ in range(DRAWS)]
        errors = [total_variation(draw, labels) for draw in draws]
        limits = {"floor": float(np.median(errors)), "limit": float(np.quantile(errors, 0.95))}
        return {**limits, "train": total_variation(known(), labels)}

    rest = floors.of(f"class balance of {len(seen)} samples", (*FLOOR, "limit"), compute)
    return {
        "value": total_variation(seen, labels),
        "floor": rest["floor"],
        "train": rest["train"],
        "limit": rest["limit"],
        "floor_from": "draws of the labels of the data, as many as samples; 95 % of the draws lie below the limit",
    }


def features_of(dataset: Dataset, features: Features, x: Tensor) -> Tensor:
    """Returns the features of images in the user's units, ``(N, F)``."""
    return torch.cat([features(dataset.units.encode(part)) for part in chunks(x)])


def part(x: Tensor, most: int | None = None) -> Tensor:
    """Returns at most ``most`` rows, by default :data:`REFERENCE`; the choice depends only on the length of the set."""
    most = REFERENCE if most is None else most
    return x if len(x) <= most else x[_choice(len(x), most, 0)]


def _parts(x: Tensor, n: int) -> list[Tensor]:
    """Returns random parts of a set with ``n`` elements each, or the whole set if it has at most ``n``."""
    return [x] if len(x) <= n else [x[_choice(len(x), n, i)] for i in range(SUBSETS)]


def _choice(total: int, n: int, i: int) -> Tensor:
    order = torch.randperm(total, generator=generator("cpu", 0, "subset", i))
    return order[:n].sort().values


def _averaged(rows: list[dict[str, Any]], source: str) -> dict[str, Any]:
    keys = ("value", "floor", "train")
    means = np.mean([[row[key] for key in keys] for row in rows], axis=0).tolist()
    return {**dict(zip(keys, means, strict=True)), "floor_from": source}


def _labelled(dataset: Dataset, most: int | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Returns the training images and their labels, and at most ``most`` held-out images and their labels."""
    # The same rows of images and labels are chosen, because the choice depends only on the length of the set.
    train = part(dataset.x), part(_labels(dataset.y))
    return train, (part(_held_out(dataset), most), part(_labels(dataset.held_out_y), most))


def _held_out(dataset: Dataset) -> Tensor:
    assert dataset.held_out is not None
    return dataset.held_out


def _labels(y: Tensor | None) -> Tensor:
    if y is None:
        raise UserError("dataset: this metric needs labels: use dataset=digits or other labelled images")
    return y
