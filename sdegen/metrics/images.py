r"""Measures of generated images, in the features of a classifier of clean images, each with its floor.

The reference is the set of held-out images. The *floor* is the value of as many training images as were generated (the
median over a few subsets if there are more), and ``train`` the value of all training images: without a known law, a
model can do no better than generate images like its training images. If more images are generated than there are
training images, the value is the mean over parts as large as the training set. Distances are those of the two finite
sets: they are never negative, and the floor has the same bias. Images of quantised data are first rounded to their
levels, as in a saved picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.datasets.base import chunks
from sdegen.metrics.features import Features
from sdegen.metrics.points import Metrics, in_parts

REFERENCE = 10_000
"""Largest number of images of a set that are compared; of a larger set, a random part is used."""
ORIGINALS = 100_000
"""Largest number of training images that are searched for near copies; copies of others are not found."""
JUDGED = 2000
"""Largest number of held-out images for the threshold of near copies and the floor of :func:`agreement`."""
SUBSETS = 5
"""Number of parts of a larger training set, whose median is the floor."""
DRAWS = 200
"""Number of multinomial draws, whose median is the floor of the class balance."""
NEIGHBOURS = 3
"""The radius of a ball of the manifold is the distance to the neighbour of this rank."""
NEAR = 0.05
"""Share of the held-out images that count as near copies."""
PAIRS = 2**24
"""Largest number of distances in memory at once."""

AS_MANY = "as many training images against the held-out ones"


def measure_images(dataset: Dataset, x: Tensor, features: Features | None) -> Metrics:
    """Returns all measures of images that were generated without a class.

    Args:
        dataset: the data, with a held-out part.
        x: generated images in the user's units, ``(N, C, H, W)``.
        features: a classifier of the training images; None if they have no labels, which leaves only the near copies.
    """
    x = _part(quantized(x.detach().cpu(), dataset.levels))
    found: Metrics = {}
    if features is not None:
        seen, known, unseen = (
            _seen(dataset, features, part) for part in (x, _part(dataset.x), _part(_held_out(dataset)))
        )
        within = affinity(unseen, unseen)
        distances: dict[str, Callable[[Tensor, Tensor], float]] = {
            "frechet": frechet,
            "kernel": lambda a, b: kernel(a, b, within),
            "precision": precision,
            "recall": recall,
        }
        parts = in_parts(seen, min(len(seen), len(known)))
        for name, distance in distances.items():
            found[name] = {
                "value": float(np.mean([distance(part, unseen) for part in parts])),
                "floor": float(np.median([distance(part, unseen) for part in _parts(known, len(x))])),
                "train": distance(known, unseen),
                "floor_from": AS_MANY,
            }
        found["class_balance"] = _class_balance(dataset, features.classify(seen), features.classify(known))
    found["near_copies"] = _near_copies(dataset, x)
    return found


def measure_conditional(dataset: Dataset, x: Tensor, y: Tensor, features: Features) -> Metrics:
    """Returns the agreement of generated images with their requested classes, and their variety within the classes.

    With stronger guidance ``agreement`` rises and the other two fall, so they must be read together. ``spread``
    is the root mean squared distance to the mean of the class among the features, and ``class_recall`` the recall of
    the held-out images of a class; both are averaged over the requested classes.

    Args:
        dataset: the data, with labels.
        x: generated images in the user's units, ``(N, C, H, W)``.
        y: the requested classes, ``(N,)``.
        features: a classifier of the training images.
    """
    x, y = _part(quantized(x.detach().cpu(), dataset.levels)), _part(y.cpu())
    train, train_y = _part(dataset.x), _part(_labels(dataset.y))
    held_out, held_out_y = _part(_held_out(dataset)), _part(_labels(dataset.held_out_y))
    seen, known, unseen = (_seen(dataset, features, part) for part in (x, train, held_out))
    spreads, recalls = [], []
    for label in y.unique():
        own, trained, reference = seen[y == label], known[train_y == label], unseen[held_out_y == label]
        if len(trained) and len(reference):
            spreads.append([spread(own), spread(reference), spread(trained)])
            floor = np.median([recall(part, reference) for part in _parts(trained, len(own))])
            value = np.mean([recall(part, reference) for part in in_parts(own, min(len(own), len(trained)))])
            recalls.append([float(value), float(floor), recall(trained, reference)])
    return {
        "agreement": agreement(dataset, x, y),
        "spread": {**_means(spreads), "floor_from": "held-out images"},
        "class_recall": {**_means(recalls), "floor_from": AS_MANY},
    }


def agreement(dataset: Dataset, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Returns the share of images that an independent classifier assigns to the requested class.

    The classifier is a support vector machine on the pixels of clean training images, unlike the networks that guide.
    The floor is its accuracy on the held-out images.

    Args:
        dataset: the data, with labels.
        x: images in the user's units, ``(N, C, H, W)``.
        y: the requested classes, ``(N,)``.
    """
    from sklearn.svm import SVC

    def pixels(images: Tensor) -> np.ndarray:
        return dataset.units.encode(images).flatten(1).cpu().numpy()

    # Images and labels keep the same rows, since the choice depends on the length of a set alone.
    train, train_y = _part(dataset.x), _part(_labels(dataset.y))
    held_out, held_out_y = _part(_held_out(dataset), JUDGED), _part(_labels(dataset.held_out_y), JUDGED)
    judge = SVC(C=10.0).fit(pixels(train), train_y.numpy())
    value, floor = (
        float((judge.predict(pixels(images)) == labels.cpu().numpy()).mean())
        for images, labels in ((x, y), (held_out, held_out_y))
    )
    source = "the same classifier's accuracy on held-out images"
    return {"value": value, "floor": floor, "train": None, "floor_from": source}


def quantized(x: Tensor, levels: int | None) -> Tensor:
    """Returns images as they would be saved: rounded to 0 … ``levels - 1``, or unchanged if there are no levels."""
    return x if levels is None else x.double().round().clamp(0, levels - 1)


def frechet(x: Tensor, y: Tensor) -> float:
    r"""Returns the W2 distance of the Gaussians with the moments of two sets ``(N, F)`` and ``(M, F)``.

    .. math:: d^2 = |\mu_1 - \mu_2|^2 + \operatorname{tr}\bigl(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\bigr)

    With :math:`\Sigma_i = R_i^T R_i` the last trace is the sum of the singular values of :math:`R_1 R_2^T`. This
    holds for singular covariances too, and takes no root of a rounding error.

    Reference: Dowson and Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X; Heusel et al. (2017), who give
    the square, https://arxiv.org/abs/1706.08500
    """
    means, roots = zip(*(_moments(part) for part in (x, y)), strict=True)
    common = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    square = (means[0] - means[1]).square().sum() + sum(root.square().sum() for root in roots) - 2 * common
    return float(square.clamp(min=0).sqrt())


def kernel(x: Tensor, y: Tensor, within_y: float | None = None) -> float:
    r"""Returns the maximum mean discrepancy of two sets ``(N, F)`` and ``(M, F)``, under :math:`(x \cdot y / F + 1)^3`.

    The value is the root of a V-statistic. Reference: Bińkowski et al. (2018), https://arxiv.org/abs/1801.01401

    Args:
        x: ``(N, F)``.
        y: ``(M, F)``.
        within_y: ``affinity(y, y)``, if it is already known.
    """
    within_y = affinity(y, y) if within_y is None else within_y
    return max(affinity(x, x) + within_y - 2 * affinity(x, y), 0.0) ** 0.5


def affinity(x: Tensor, y: Tensor) -> float:
    r"""Returns the mean of :math:`(x \cdot y / F + 1)^3` over all pairs of two sets."""
    total = sum(float((part @ y.T / y.shape[1] + 1).pow(3).sum()) for part in _rows(x, y))
    return total / (len(x) * len(y))


def precision(x: Tensor, y: Tensor) -> float:
    """Returns the share of a set ``(N, F)`` that lies on the manifold of a reference ``(M, F)``.

    The manifold is the union of balls around the points of the reference; the radius of each is the distance to its
    third neighbour. Reference: Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991
    """
    return float(_covered(x, y).double().mean())


def recall(x: Tensor, y: Tensor) -> float:
    """Returns the share of a reference ``(M, F)`` on the manifold of a set ``(N, F)``: see :func:`precision`."""
    return precision(y, x)


def spread(x: Tensor) -> float:
    """Returns the root mean squared distance of points ``(N, F)`` to their mean; the square is unbiased."""
    return float(((x - x.mean(0)).square().sum() / max(len(x) - 1, 1)).sqrt())


def nearest(x: Tensor, reference: Tensor) -> Tensor:
    """Returns the distance of each image to the nearest of a reference, in the user's units: ``(N,)`` float64."""
    x, found = x.double().flatten(1), torch.full((len(x),), torch.inf, dtype=torch.float64)
    centre = x.mean(0)
    for originals in chunks(reference.flatten(1)):
        centred = (originals - centre).float()
        for rows in _rows(torch.arange(len(x)), originals):
            chosen = originals[torch.cdist((x[rows] - centre).float(), centred).argmin(1)]
            # By differences, since the products of cdist give a copy a distance above zero.
            found[rows] = found[rows].minimum((x[rows] - chosen.double()).norm(dim=1))
    return found


def _near_copies(dataset: Dataset, x: Tensor) -> dict[str, Any]:
    """Returns the share of images that are as near to a training image as the nearest 5 % of the held-out ones."""
    originals = _part(dataset.x, ORIGINALS)
    held_out, own = (nearest(part, originals) for part in (_part(_held_out(dataset), JUDGED), x))
    value, floor = (float((near <= held_out.quantile(NEAR)).double().mean()) for near in (own, held_out))
    source = f"held-out images, of which {NEAR:.0%} are this near by definition"
    return {"value": value, "floor": floor, "train": None, "floor_from": source}


def _class_balance(dataset: Dataset, seen: Tensor, known: Tensor) -> dict[str, Any]:
    """Returns the total variation distance of the classes of images from the labels of the data."""
    labels = torch.cat([_labels(dataset.y), _labels(dataset.held_out_y)])
    classes = int(dataset.classes or 0)
    shares = torch.bincount(labels, minlength=classes).double() / len(labels)

    def distance(y: Tensor) -> float:
        return 0.5 * float((torch.bincount(y, minlength=classes).double() / len(y) - shares).abs().sum())

    source = generator("cpu", 0, "class balance")
    errors = [distance(shares.multinomial(len(seen), True, generator=source)) for _ in range(DRAWS)]
    return {
        "value": distance(seen),
        "floor": float(np.median(errors)),
        "train": distance(known),
        "limit": float(np.quantile(errors, 0.95)),
        "floor_from": "as many independent draws of the data's labels; of these 95 % lie below the limit",
    }


def _seen(dataset: Dataset, features: Features, x: Tensor) -> Tensor:
    """Returns the features of images in the user's units, ``(N, F)``."""
    return torch.cat([features(dataset.units.encode(part)) for part in chunks(x)])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean of a set ``(N, F)``, and R such that RᵀR is the covariance."""
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / len(x) ** 0.5, mode="r").R


def _covered(x: Tensor, y: Tensor) -> Tensor:
    """Returns True for the points ``(N, F)`` that lie in one of the balls around ``(M, F)``."""
    # The nearest neighbour is the point itself.
    nearest = min(NEIGHBOURS + 1, len(y))
    radius = torch.cat([torch.cdist(part, y).topk(nearest, largest=False).values[:, -1] for part in _rows(y, y)])
    return torch.cat([(torch.cdist(part, y) <= radius).any(1) for part in _rows(x, y)])


def _rows(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Returns a set in pieces whose distances to another set fit into memory."""
    return x.split(max(1, PAIRS // len(y)))


def _part(x: Tensor, most: int | None = None) -> Tensor:
    """Returns at most ``most`` of a set, by default :data:`REFERENCE`; the choice depends on its length alone."""
    most = REFERENCE if most is None else most
    return x if len(x) <= most else x[_choice(len(x), most, 0)]


def _parts(x: Tensor, n: int) -> list[Tensor]:
    """Returns random parts of a set with ``n`` each, or the set itself if it has no more."""
    return [x] if len(x) <= n else [x[_choice(len(x), n, i)] for i in range(SUBSETS)]


def _choice(total: int, n: int, i: int) -> Tensor:
    order = torch.randperm(total, generator=generator("cpu", 0, "subset", i))
    return order[:n].sort().values


def _means(rows: list[list[float]]) -> dict[str, Any]:
    value, floor, train = np.mean(rows, axis=0).tolist()
    return {"value": value, "floor": floor, "train": train}


def _held_out(dataset: Dataset) -> Tensor:
    assert dataset.held_out is not None
    return dataset.held_out


def _labels(y: Tensor | None) -> Tensor:
    if y is None:
        raise UserError("dataset: this measure needs labels: use dataset=digits or other labelled images")
    return y
