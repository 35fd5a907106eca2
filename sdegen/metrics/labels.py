"""Labels for the classifier that gives the features of images: those of the data, or made-up ones.

Images and signals without labels get made-up labels: the clusters of the images, and those of as many *surrogates*.
These are Gaussian images with the mean and the covariance of the images. To tell them from the images, the classifier
must learn what images have beyond their covariance.

They were chosen on drawn shapes and on cut-outs of two photographs. There, the Fréchet distance of pure noise is 9 to
12 times its floor, that of images with noise of a quarter of a standard deviation 7 times, and that of surrogates 8 to
9 times. With the clusters of the images alone it is 7 to 12 times, 1 to 2 times, and 3 times.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.metrics.features import CHUNK, Features, train_features
from sdegen.metrics.images import REFERENCE, part, quantized

CLUSTERS, PER_CLUSTER = 10, 10
"""Largest number of clusters of images without labels, and smallest mean number of images in a cluster."""
COMPONENTS, EXPLAINED = 32, 0.9
"""Largest number of principal components in which clusters are found, and their largest share of the variance."""
MIXED = 2000
"""Largest number of images that are mixed to make a surrogate."""
LEARNED = 2**26
"""Largest number of entries of images without labels, or on the disk, for the features (256 MiB in float32)."""


def fit_features(dataset: Dataset) -> Features:
    """Trains the classifier that gives the features, with the labels of the data or with made-up ones.

    Of images without labels, or on the disk, at most :data:`REFERENCE` images and :data:`LEARNED` entries are used.
    """
    most = len(dataset.x) if dataset.y is not None and dataset.disk is None else _learned(dataset)
    x = dataset.units.encode(part(dataset.x, most)).float()
    if dataset.y is not None:
        return train_features(x, part(dataset.y, most), feature_classes(dataset))

    def saved(images: Tensor) -> Tensor:
        return dataset.units.encode(quantized(dataset.units.decode(images), dataset.levels)).float()

    return train_features(*own_labels(x, saved), feature_classes(dataset))


def feature_classes(dataset: Dataset) -> int:
    """Returns the number of classes that the classifier of the features distinguishes."""
    return 2 * clusters(_learned(dataset)) if dataset.y is None else dataset.classes or 0


def _learned(dataset: Dataset) -> int:
    """Returns the number of images without labels, or on the disk, from which features are learned."""
    return min(len(dataset.x), REFERENCE, max(2, LEARNED // dataset.units.size))


def own_labels(x: Tensor, saved: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Returns images without labels together with as many surrogates, and made-up classes ``(2 N,)`` of both.

    The classes of the images are their clusters by k-means in whitened principal components. A surrogate has the
    cluster of the nearest centre, in a second set of classes. There are ``2 * clusters(len(x))`` classes.

    Reference: clusters as labels are from Caron et al. (2018), https://arxiv.org/abs/1807.05520; here they are found
    once.

    Args:
        x: training images in the network's units, ``(N, C, *)``.
        saved: function that returns images as they would be saved, for example rounded to levels.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    others, count = saved(surrogates(x)), clusters(len(x))
    flat, others_flat = (part.flatten(1).double().cpu().numpy() for part in (x, others))
    pca = PCA(max(1, min(COMPONENTS, len(flat) - 1, flat.shape[1])), svd_solver="randomized", random_state=0)
    # Equal images, or a single one, have no variance, of which the components could have a share.
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = pca.fit(flat).explained_variance_ratio_
    kept = max(1, int((shares.cumsum() < EXPLAINED).sum()))
    scale = np.nan_to_num(np.sqrt(pca.explained_variance_[:kept])).clip(min=1e-12)
    inner, outer = (pca.transform(part)[:, :kept] / scale for part in (flat, others_flat))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # There may be fewer different images than clusters.
        means = KMeans(count, n_init=4, random_state=0).fit(inner)
    labels = torch.from_numpy(np.concatenate([means.labels_, count + means.predict(outer)])).long()
    return torch.cat([x, others]), labels


def surrogates(x: Tensor) -> Tensor:
    """Draws as many Gaussian images as ``x`` ``(N, *)`` has, with the mean and the covariance of (a part of) ``x``."""
    source = generator("cpu", 0, "features", "surrogates")
    mixed = x[torch.randperm(len(x), generator=source)[:MIXED]].flatten(1)
    mean = mixed.mean(0)
    centred = (mixed - mean) / len(mixed) ** 0.5
    weights = (torch.randn(len(part), len(mixed), generator=source).to(x) for part in x.split(CHUNK))
    return torch.cat([mean + weight @ centred for weight in weights]).view_as(x)


def clusters(count: int) -> int:
    """Returns the number of clusters that are found in ``count`` images."""
    return max(1, min(CLUSTERS, count // PER_CLUSTER))
