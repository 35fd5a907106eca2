"""The metrics in words: what each one compares, its unit, which values are good, and what its floor is.

``sdegen evaluate --help metrics=c2st``, the reports and the documentation show these sentences. They are here and not
with the metrics, because ``--help`` does not import torch.
"""

from __future__ import annotations

import re
from typing import NamedTuple

AS_MANY = "the value for as many exact draws or points of the data"
HELD_OUT = "the value for as many training data"


class Meaning(NamedTuple):
    """Meaning of a metric.

    Attributes:
        text: what is compared.
        unit: unit of the value.
        good: which values are good.
        floor: what the floor is; empty if there is none.
    """

    text: str
    unit: str
    good: str
    floor: str

    def __str__(self) -> str:
        floor = f"the floor is {self.floor}" if self.floor else "there is no floor"
        return f"{self.text}; unit: {self.unit}; {self.good}; {floor}"


LOW, HIGH, NEAR = "smaller is better", "larger is better", "near the floor is good"

WORDS = {
    "w1": Meaning(
        "Wasserstein-1 distance between samples and data, how far mass must be moved", "the data's", LOW, AS_MANY
    ),
    "ks": Meaning("Kolmogorov–Smirnov distance, the largest gap of two distribution functions", "share", LOW, AS_MANY),
    "sliced_w1": Meaning(
        "Wasserstein-1 distance between samples and data, averaged over directions",
        "standard deviations of a column",
        LOW,
        AS_MANY,
    ),
    "energy": Meaning(
        "energy distance between samples and data, which is 0 for equal distributions only",
        "square root of that of sliced_w1 or w1",
        LOW,
        AS_MANY,
    ),
    "column_w1": Meaning(
        "Wasserstein-1 distance between samples and data in the column that is farthest off",
        "standard deviations of the column",
        LOW,
        AS_MANY,
    ),
    "class_w1": Meaning(
        "w1 or sliced_w1 between the samples of a class and the data of this class, the mean over the classes",
        "that of sliced_w1 or w1",
        LOW,
        AS_MANY,
    ),
    "diverged": Meaning(
        "share of samples with a value farther outside of the range of the data than this range is wide",
        "share",
        LOW,
        "0",
    ),
    "mode_weights": Meaning(
        "difference of the shares of the modes in samples and data, half the sum over the modes", "share", LOW, AS_MANY
    ),
    "off_support": Meaning("share of samples where the data have no points", "share", LOW, AS_MANY),
    "score_error": Meaning(
        "root mean square error of the learned score, divided by the size of the exact score", "ratio", LOW, "0"
    ),
    "held_out_loss": Meaning("loss of the training on held-out points", "that of the objective", LOW, ""),
    "c2st": Meaning(
        "accuracy with which a random forest tells samples from unseen data, cross-validated",
        "share, between 0.5 (guessing) and 1",
        LOW,
        "the value for exact draws or training data in the place of samples",
    ),
    "c2st_features": Meaning(
        "accuracy with which a random forest tells samples from unseen data by the features of a classifier",
        "share, between 0.5 (guessing) and 1",
        LOW,
        "the value for training data in the place of samples",
    ),
    "sbc": Meaning(
        "largest error of the coverage of intervals of samples given an observation (simulation-based calibration), "
        "for the parameter that is farthest off",
        "share",
        LOW,
        "the median for samples of exact posteriors",
    ),
    "tarp": Meaning(
        "largest error of the coverage of regions of samples given an observation, around the parameters of another "
        "pair with a similar observation (TARP)",
        "share",
        LOW,
        "the median for samples of exact posteriors",
    ),
    "frechet": Meaning(
        "distance of the means and covariances of samples and held-out data, in the features of a classifier",
        "none, since features have no unit",
        LOW,
        HELD_OUT,
    ),
    "fid": Meaning(
        "square of the Fréchet distance of samples and held-out images, in the features of a network of the user's",
        "that of the features, squared",
        LOW,
        HELD_OUT,
    ),
    "fid_infinity": Meaning(
        "fid without the bias by the number of samples: the value to which it tends for more and more samples",
        "that of the features, squared",
        LOW,
        "the value for training data, extrapolated in the same way",
    ),
    "kernel": Meaning(
        "distance of samples and held-out data that compares moments up to the third, in the features of a classifier",
        "none, since features have no unit",
        LOW,
        HELD_OUT,
    ),
    "precision": Meaning(
        "share of the samples that look like held-out data: they are near one of them in the features",
        "share",
        HIGH,
        HELD_OUT,
    ),
    "recall": Meaning(
        "share of the held-out data that are near a sample in the features; it is small if something is missing",
        "share",
        HIGH,
        HELD_OUT,
    ),
    "class_balance": Meaning(
        "difference of the shares of the classes in samples and data, half the sum over the classes",
        "share",
        LOW,
        "the value for random draws of the labels of the data",
    ),
    "cluster_balance": Meaning(
        "largest difference of a cluster's shares in samples and held-out data without labels; a missing kind of image "
        "makes it large",
        "standard errors",
        LOW,
        HELD_OUT,
    ),
    "spectrum": Meaning(
        "Wasserstein-1 distance between the powers of samples and held-out data in a band of frequencies, "
        "averaged over bands; noise and blur make it large",
        "decibels",
        LOW,
        HELD_OUT,
    ),
    "near_copies": Meaning(
        "share of the samples as near to a training image as the nearest 5 % of the held-out images",
        "share",
        NEAR,
        "5 %, which is the share of the held-out images",
    ),
    "agreement": Meaning(
        "share of the samples that an independent classifier assigns to the requested class",
        "share",
        HIGH,
        "the accuracy of this classifier for held-out images",
    ),
    "spread": Meaning(
        "root mean square distance of the samples of a class from their mean in the features, averaged over classes",
        "none, since features have no unit",
        NEAR,
        "the value for held-out images",
    ),
    "class_recall": Meaning("recall within a class, averaged over the requested classes", "share", HIGH, HELD_OUT),
    "unusual": Meaning(
        "share of the points with a tail share of at most 0.01, which are in a region where the data are rare",
        "share",
        NEAR,
        "0.01, the share of unseen data",
    ),
    "nll": Meaning(
        "mean negative log-density; for a classifier or a regressor, that of y given a noisy point, averaged over t",
        "nats for each point",
        LOW,
        "the value for the exact density, or for unseen points",
    ),
    "bits_per_dim": Meaning(
        "mean negative log-likelihood of quantised data",
        "bits for each number of a point",
        LOW,
        "that of the exact density",
    ),
    "reconstruction": Meaning(
        "root mean square error of points that are encoded and decoded by the flow", "the network's", LOW, "0"
    ),
    "accuracy": Meaning(
        "share of noisy points that a classifier classifies correctly, averaged over t", "share", HIGH, ""
    ),
    "accuracy_clean": Meaning("share of points at t = ε that a classifier classifies correctly", "share", HIGH, ""),
    "quantile_error": Meaning(
        "largest difference between the share of unseen conditions below a quantile of a regressor and the share that "
        "the quantile states, averaged over t",
        "share",
        LOW,
        "the value for as many draws of the distribution that the regressor states",
    ),
    "residual": Meaning(
        "root mean square difference of the measurement of the samples and the observation",
        "the network's, or those of an operator",
        NEAR,
        "the value for the truth: the noise of the measurement",
    ),
    "error_of_mean": Meaning(
        "root mean square error of the mean of the samples as an estimate of the truth",
        "the network's",
        LOW,
        "the spread of the samples around their mean",
    ),
}
"""Meaning of each metric by name."""


def described(name: str) -> str:
    """Returns one sentence about a metric: what it compares, its unit, which values are good, and what the floor is.

    Text in brackets or parentheses after the name of the metric, such as the name of a column, is ignored. The result
    is empty for a metric that is not in :data:`WORDS`.
    """
    plain = re.split(r"[ \[(]", name)[0]
    return str(WORDS[plain]) if plain in WORDS else ""


def good(name: str) -> str:
    """Returns which values of a metric are good: :data:`LOW`, :data:`HIGH` or :data:`NEAR`; empty if unknown."""
    plain = re.split(r"[ \[(]", name)[0]
    return WORDS[plain].good if plain in WORDS else ""
