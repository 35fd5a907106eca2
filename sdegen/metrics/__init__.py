"""Measures of samples: distances of points and of images, each with its floor; checks of SDEs and samplers."""

from sdegen.metrics.features import Features, train_features
from sdegen.metrics.images import (
    agreement,
    frechet,
    kernel,
    measure_conditional,
    measure_images,
    precision,
    quantized,
    recall,
)
from sdegen.metrics.points import (
    Metrics,
    energy,
    ks,
    mean_distance,
    measure_points,
    score_error,
    sliced_w1,
    table,
    unmeasured,
    w1,
)
from sdegen.metrics.verification import Proof, verify

__all__ = [
    "Features",
    "Metrics",
    "Proof",
    "agreement",
    "energy",
    "frechet",
    "kernel",
    "ks",
    "mean_distance",
    "measure_conditional",
    "measure_images",
    "measure_points",
    "precision",
    "quantized",
    "recall",
    "score_error",
    "sliced_w1",
    "table",
    "train_features",
    "unmeasured",
    "verify",
    "w1",
]
