"""Metrics of classifiers and regressors of noisy data: likelihoods of unseen data over t, accuracy, and calibration."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdegen.datasets import Dataset
from sdegen.metrics.points import Metrics
from sdegen.models.classifier import ClassifierModel, log_likelihood_by_time
from sdegen.models.likelihood import Likelihood, by_time
from sdegen.models.regressor import RegressorModel
from sdegen.runs.unseen import unseen
from sdegen.sde.base import SDE
from sdegen.sde.mixture import GaussianMixture

TIMES = 41
"""Number of times at which a likelihood is measured."""
POINTS = 5000
"""Largest number of points for which it is measured at each time."""
UNIFORM = math.sqrt(math.pi / 2) * math.log(2)
"""Mean of Kolmogorov's distribution: √N times the expected largest error of the empirical distribution of N numbers."""


class Judged(NamedTuple):
    """Metrics of a classifier or regressor, and curves over t.

    Attributes:
        metrics: metrics, means over t; empty without unseen data.
        times: times of the curves, ``(F,)``.
        curves: values ``(F,)`` by the name of the curve; the first one is that of unseen data, if there are such.
        name: name of the curves: ``accuracy`` or ``nll``.
    """

    metrics: Metrics
    times: Tensor
    curves: dict[str, Tensor]
    name: str


def judge(dataset: Dataset, model: Likelihood, device: torch.device, dtype: torch.dtype) -> Judged:
    """Returns the metrics and curves of a classifier or a regressor, on unseen data and on training data."""
    times = torch.linspace(model.sde.eps, model.sde.T, TIMES, dtype=torch.float64)
    if isinstance(model, ClassifierModel):
        return _accuracy(dataset, model, times, device, dtype)
    assert isinstance(model, RegressorModel)
    return _regression(dataset, model, times, device, dtype)


def _accuracy(
    dataset: Dataset, model: ClassifierModel, times: Tensor, device: torch.device, dtype: torch.dtype
) -> Judged:
    """Returns the accuracy and the cross entropy. The best possible accuracy is not known, so there is no floor."""
    unseen_x, unseen_y, _, kind = unseen(dataset, POINTS)
    curves, rows = {}, []
    for name, (x, y) in _sets(dataset, kind, None if kind == "training" else unseen_x, unseen_y, dataset.y).items():
        log_p, hits = log_likelihood_by_time(model, dataset.units.encode(x).to(device, dtype), y.to(device), times)
        curves[name] = hits
        rows.append({"accuracy": float(hits.mean()), "accuracy_clean": float(hits[0]), "nll": float(-log_p.mean())})
    found: Metrics = {}
    if len(rows) == 2:
        source = "not known: chance is 1 / number of classes"
        for key, value in rows[0].items():
            found[key] = {"value": value, "floor": None, "train": rows[1][key], "floor_from": source}
    return Judged(found, times, curves, "accuracy")


def _regression(
    dataset: Dataset, model: RegressorModel, times: Tensor, device: torch.device, dtype: torch.dtype
) -> Judged:
    """Returns the negative log-likelihood of the conditions, in the user's units, and the error of the quantiles."""
    assert dataset.conditions is not None
    units, exact = dataset.conditions.units, None if model.sde.linear is None else dataset.encoded_joint
    shift = units.scale.log().sum()

    def measure(noisy: Tensor, t: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gaussians = model(noisy, t)
        best = noisy.new_zeros(len(c)) if exact is None else conditional(exact, model.sde, noisy, t, c)
        return gaussians.log_prob(c), gaussians.ranks(c), best

    x, _, c, kind = unseen(dataset, POINTS)
    curves: dict[str, Tensor] = {}
    rows: list[tuple[float, float, float, int]] = []
    for name, (points, y) in _sets(dataset, kind, None if kind == "training" else x, c, dataset.c).items():
        inner, told = dataset.units.encode(points).to(device, dtype), units.encode(y).flatten(1).to(device, dtype)
        found = by_time(model.sde, inner, told, times, measure)
        # The density in the user's units is that in the network's units, divided by the scales.
        log_p, best = (torch.stack([row[i].double().mean() for row in found]).cpu() for i in (0, 2))
        nll, best = shift - log_p, shift - best
        curves[name] = nll
        curves |= {} if exact is None or rows else {"exact likelihood": best}
        distance = sum(_distance_to_uniform(row[1]) for row in found) / len(found)
        rows.append((float(nll.mean()), distance, float(best.mean()), len(y)))
    if len(rows) < 2:
        return Judged({}, times, curves, "nll")
    (nll_unseen, error, best_nll, count), (nll_train, error_train, *_) = rows
    floor, source = (None, "not known") if exact is None else (best_nll, "exact likelihood")
    of_draws = f"{count} draws of the distribution"
    metrics: Metrics = {
        "nll": {"value": nll_unseen, "floor": floor, "train": nll_train, "floor_from": source},
        "quantile_error": {
            "value": error,
            "floor": UNIFORM / math.sqrt(count),
            "train": error_train,
            "floor_from": of_draws,
        },
    }
    return Judged(metrics, times, curves, "nll")


def _sets(
    dataset: Dataset, kind: str, x: Tensor | None, y: Tensor | None, own: Tensor | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns unseen points ``x`` and training points with their classes or conditions, by name; None is left out."""
    noun = "points" if dataset.units.kind == "vectors" else dataset.units.kind
    pairs = {f"{kind} {noun}": (x, y), f"training {noun}": (dataset.x, own)}
    return {name: (x[:POINTS], y[:POINTS]) for name, (x, y) in pairs.items() if x is not None and y is not None}


def _distance_to_uniform(u: Tensor) -> float:
    """Returns the largest error of the empirical distribution of numbers ``(N, k)``, the mean over the k columns."""
    ordered, n = u.double().sort(dim=0).values, len(u)
    steps = torch.arange(n + 1, dtype=torch.float64, device=u.device).unsqueeze(1) / n
    return float(torch.maximum(ordered - steps[:-1], steps[1:] - ordered).amax(0).mean())


def conditional(joint: GaussianMixture, sde: SDE, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
    """Returns the exact log-density of conditions ``c`` ``(B, k)`` given noisy points, ``(B,)``, for one time.

    Args:
        joint: distribution of a clean point and its condition, ``(d + k,)``, in the network's units.
        sde: process with a closed-form kernel.
        x: noisy points, ``(B, *)``.
        t: time, ``()``.
        c: conditions, ``(B, k)``.
    """
    assert sde.linear is not None
    x, c, t = x.flatten(1).double().cpu(), c.double().cpu(), t.double().cpu()
    d, alpha, variance = x.shape[1], sde.linear.alpha(t), sde.linear.sigma(t) ** 2
    factors = torch.cat([alpha.expand(d), torch.ones(c.shape[1], dtype=torch.float64)])
    noise = torch.cat([variance.expand(d), torch.zeros(c.shape[1], dtype=torch.float64)])
    means, covariances = joint.means * factors, joint.covariances * (factors[:, None] * factors) + noise.diag()
    together = GaussianMixture(joint.weights, means, covariances).log_prob(torch.cat([x, c], dim=1))
    return together - GaussianMixture(joint.weights, means[:, :d], covariances[:, :d, :d]).log_prob(x)
