"""Metrics of points, images and signals, and checks of SDEs and samplers against exact answers."""

from sdegen.core.meanings import WORDS, described
from sdegen.metrics.distances import energy, frechet, kernel, ks, mean_distance, precision, recall, sliced_w1, w1
from sdegen.metrics.extrapolation import fid
from sdegen.metrics.features import Features, train_features
from sdegen.metrics.images import agreement, class_balance, features_of, measure_conditional, measure_images, quantized
from sdegen.metrics.labels import fit_features
from sdegen.metrics.points import Metrics, measure_labelled_points, measure_points, score_error, table, unmeasured
from sdegen.metrics.signals import measure_signals
from sdegen.metrics.two_sample import c2st, measure_c2st, measure_c2st_images
from sdegen.metrics.verification import Proof, verify

__all__ = [
    "Features",
    "Metrics",
    "Proof",
    "WORDS",
    "agreement",
    "c2st",
    "class_balance",
    "described",
    "energy",
    "features_of",
    "fid",
    "fit_features",
    "frechet",
    "kernel",
    "ks",
    "mean_distance",
    "measure_c2st",
    "measure_c2st_images",
    "measure_conditional",
    "measure_images",
    "measure_labelled_points",
    "measure_points",
    "measure_signals",
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
