r"""How far generated images are from those of the data, in what a classifier of clean images sees, each with its floor.

The reference are the held-out images. The *floor* is what as many training images as were generated reach against
them (the median over a few subsets, where there are more), and ``train`` what all of them do: where the law is not
known, a model can do no better than draw images like those it was trained on. Where more were generated than there are
to train on, their value is the mean over parts of as many. Distances are those of the two sets as
they stand, never negative and with their bias, which the floor has, too. Images of quantised data are rounded to their
levels first, as a picture that is saved would be.
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
"""Images of a set that are compared; of a larger one a random part."""
ORIGINALS = 100_000
"""Training images among which a near copy's original is looked for: a copy of one left out would go unseen."""
JUDGED = 2000
"""Held-out images that show what is near, and how good the judge of :func:`agreement` is."""
SUBSETS = 5
"""Parts of the training set whose median is the floor, where there are more training images than generated ones."""
DRAWS = 200
"""Multinomial draws whose median is the floor of the class balance."""
NEIGHBOURS = 3
"""The nearest of how many makes a ball of the manifold."""
NEAR = 0.05
"""Share of the held-out images that count as near copies."""
PAIRS = 2**24
"""Distances in memory at once."""

AS_MANY = "as many training images against the held-out ones"


def measure_images(dataset: Dataset, x: Tensor, features: Features | None) -> Metrics:
    """Every measure of generated images that no label was asked for.

    Args:
        dataset: the data, of which a part is held out.
        x: generated images in the user's units, ``(N, C, H, W)``.
        features: a classifier of the training images; None where they have no labels, which leaves out all but the
            near copies.
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
    """Whether generated images show the classes that were asked for, and are as varied as the data within them.

    ``agreement`` grows with the strength of guidance and the other two fall, so that none is worth anything alone.
    ``spread`` is the root mean squared distance to the mean of the class among the features, and ``class_recall`` the
    recall of the held-out images of a class, both averaged over the classes asked for.

    Args:
        dataset: the data, with labels.
        x: generated images in the user's units, ``(N, C, H, W)``.
        y: the class asked for, ``(N,)``.
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
    """The share of images in which an independent classifier sees the class that was asked for.

    It is a support vector machine on the pixels of clean training images, which shares neither family nor weights with
    the networks that steer. The floor is its accuracy on the held-out images.

    Args:
        dataset: the data, with labels.
        x: images in the user's units, ``(N, C, H, W)``.
        y: the class asked for, ``(N,)``.
    """
    from sklearn.svm import SVC

    def pixels(images: Tensor) -> np.ndarray:
        return dataset.units.encode(images).flatten(1).cpu().numpy()

    # The same rows of images and labels: the part of a set depends on its length alone.
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
    """Images as they would be saved: rounded to 0 to ``levels - 1``, or as they are where there are no levels."""
    return x if levels is None else x.double().round().clamp(0, levels - 1)


def frechet(x: Tensor, y: Tensor) -> float:
    r"""Fréchet distance of the Gaussians with the moments of two sets, ``(N, F)`` and ``(M, F)``: their W2 distance.

    .. math:: d^2 = |\mu_1 - \mu_2|^2 + \operatorname{tr}\bigl(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2}\bigr)

    With :math:`\Sigma_i = R_i^T R_i` the last trace is the sum of the singular values of :math:`R_1 R_2^T`, which has
    its meaning for singular covariances, too, and no root of a rounding error.

    Reference: Dowson and Landau (1982), https://doi.org/10.1016/0047-259X(82)90077-X; Heusel et al. (2017), who give
    the square, https://arxiv.org/abs/1706.08500
    """
    means, roots = zip(*(_moments(part) for part in (x, y)), strict=True)
    common = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    square = (means[0] - means[1]).square().sum() + sum(root.square().sum() for root in roots) - 2 * common
    return float(square.clamp(min=0).sqrt())


def kernel(x: Tensor, y: Tensor, within_y: float | None = None) -> float:
    r"""Maximum mean discrepancy of two sets, ``(N, F)`` and ``(M, F)``, under :math:`(x \cdot y / F + 1)^3`.

    As a V-statistic, with the root taken. Reference: Bińkowski et al. (2018), https://arxiv.org/abs/1801.01401

    Args:
        x: ``(N, F)``.
        y: ``(M, F)``.
        within_y: the mean of :func:`affinity` within y, where it is known already.
    """
    within_y = affinity(y, y) if within_y is None else within_y
    return max(affinity(x, x) + within_y - 2 * affinity(x, y), 0.0) ** 0.5


def affinity(x: Tensor, y: Tensor) -> float:
    r"""The mean of :math:`(x \cdot y / F + 1)^3` over all pairs of two sets."""
    total = sum(float((part @ y.T / y.shape[1] + 1).pow(3).sum()) for part in _rows(x, y))
    return total / (len(x) * len(y))


def precision(x: Tensor, y: Tensor) -> float:
    """The share of a set ``(N, F)`` that lies on the manifold of a reference ``(M, F)``.

    The manifold is the union of balls round the reference's points, each as large as the distance to the third nearest
    of the others. Reference: Kynkäänniemi et al. (2019), https://arxiv.org/abs/1904.06991
    """
    return float(_covered(x, y).double().mean())


def recall(x: Tensor, y: Tensor) -> float:
    """The share of a reference ``(M, F)`` that lies on the manifold of a set ``(N, F)``: see :func:`precision`."""
    return precision(y, x)


def spread(x: Tensor) -> float:
    """Root mean squared distance of points ``(N, F)`` to their mean, unbiased in its square."""
    return float(((x - x.mean(0)).square().sum() / max(len(x) - 1, 1)).sqrt())


def nearest(x: Tensor, reference: Tensor) -> Tensor:
    """The distance of each image to the nearest of a reference, over pixels in the user's units, ``(N,)`` float64."""
    x, found = x.double().flatten(1), torch.full((len(x),), torch.inf, dtype=torch.float64)
    centre = x.mean(0)
    for originals in chunks(reference.flatten(1)):
        centred = (originals - centre).float()
        for rows in _rows(torch.arange(len(x)), originals):
            chosen = originals[torch.cdist((x[rows] - centre).float(), centred).argmin(1)]
            # By differences: the distances above go by products, in which that of a copy is not zero.
            found[rows] = found[rows].minimum((x[rows] - chosen.double()).norm(dim=1))
    return found


def _near_copies(dataset: Dataset, x: Tensor) -> dict[str, Any]:
    """The share of images no farther from the nearest training image than the nearest few of the held-out ones."""
    originals = _part(dataset.x, ORIGINALS)
    held_out, own = (nearest(part, originals) for part in (_part(_held_out(dataset), JUDGED), x))
    value, floor = (float((near <= held_out.quantile(NEAR)).double().mean()) for near in (own, held_out))
    source = f"held-out images, of which {NEAR:.0%} are this near by definition"
    return {"value": value, "floor": floor, "train": None, "floor_from": source}


def _class_balance(dataset: Dataset, seen: Tensor, known: Tensor) -> dict[str, Any]:
    """Total variation between the classes seen in images and those of the labels; floor: draws of the latter."""
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
    """The features of images in the user's units, ``(N, F)``."""
    return torch.cat([features(dataset.units.encode(part)) for part in chunks(x)])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a set ``(N, F)``, and R with RᵀR its covariance."""
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / len(x) ** 0.5, mode="r").R


def _covered(x: Tensor, y: Tensor) -> Tensor:
    """Whether each of the points ``(N, F)`` lies in one of the balls round ``(M, F)``."""
    # The nearest of all is the point itself.
    nearest = min(NEIGHBOURS + 1, len(y))
    radius = torch.cat([torch.cdist(part, y).topk(nearest, largest=False).values[:, -1] for part in _rows(y, y)])
    return torch.cat([(torch.cdist(part, y) <= radius).any(1) for part in _rows(x, y)])


def _rows(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """A set in pieces whose distances to all of another fit into memory."""
    return x.split(max(1, PAIRS // len(y)))


def _part(x: Tensor, most: int | None = None) -> Tensor:
    """At most so many of a set, :data:`REFERENCE` unless told, chosen by their number alone: labels like images."""
    most = REFERENCE if most is None else most
    return x if len(x) <= most else x[_choice(len(x), most, 0)]


def _parts(x: Tensor, n: int) -> list[Tensor]:
    """Random parts of ``n`` of a set, or the set where it has no more."""
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
        raise UserError("the data have no labels, and what is to be measured needs them: use dataset=digits, say")
    return y
