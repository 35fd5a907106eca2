"""Distances between generated points and the law of the data, each with its floor.

The reference is one large set: independent draws of the exact law, or the held-out points if the law is not known. The
*floor* of a distance is the median over 20 independent sets of as many exact draws as there are generated points;
``train`` is the distance of the training set. If the law is not known, the sets of the floor are random parts of the
data, and their reference is a disjoint part as large as the held-out one. If there are more generated points than such
a part can have, the value is the mean over parts of the generated points. No distance is negative.

On the line, distances are in the user's units. For vectors each coordinate is divided by its standard deviation. With
``dataset.standardize=robust`` or ``quantile``, a few rows may dominate these deviations. Distances are then in the
network's units, in which the bulk of the data is about 1 wide, and coordinates beyond :data:`FARTHEST` are moved there,
so that each row counts for about its share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdegen.core.randomness import generator, randn_like
from sdegen.core.tensors import squared_norm
from sdegen.datasets import Dataset
from sdegen.sde.base import SDE, Score
from sdegen.sde.mixture import marginals

REFERENCE = 10_000
FLOORS = 20
DIRECTIONS = 32
FARTHEST = 10.0
"""Largest coordinate of a point from a heavy tail, in the network's units."""

Metrics = dict[str, dict[str, Any]]


def w1(x: Tensor, y: Tensor) -> Tensor:
    r"""Returns Wasserstein-1 distances of sets on the line, :math:`\int_0^1 |F^{-1}(q) - G^{-1}(q)|\, dq`.

    Args:
        x: sets ``(*, N)``.
        y: sets ``(*, M)``.

    Returns:
        ``(*)``.
    """
    n, m = x.shape[-1], y.shape[-1]
    # The jumps of both quantile functions in units of 1 / (n m): integers, which compare without rounding.
    ends = torch.cat([m * torch.arange(1, n + 1), n * torch.arange(1, m + 1)]).unique()
    width = ends.diff(prepend=ends.new_zeros(1)).double() / (n * m)
    # NumPy sorts several times faster than torch on a CPU.
    quantiles, others = (torch.from_numpy(np.sort(points.numpy())) for points in (x, y))
    return (quantiles[..., (ends - 1) // m] - others[..., (ends - 1) // n]).abs() @ width.to(x)


def ks(x: Tensor, y: Tensor) -> float:
    """Returns the Kolmogorov–Smirnov distance of sets on the line, the largest gap of the distribution functions."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(x.flatten().numpy(), y.flatten().numpy(), method="asymp").statistic)


def sliced_w1(x: Tensor, y: Tensor) -> float:
    """Returns the mean W1 distance of the projections on fixed directions (Bonneel et al. 2015), in the data's units.

    In the plane the directions are equally spaced; in other dimensions they are random, but the same at every call.
    """
    along = directions(x[0].numel()).T
    return float(w1(along @ x.flatten(1).T, along @ y.flatten(1).T).mean())


def directions(d: int) -> Tensor:
    """Returns the directions of :func:`sliced_w1` in d dimensions: unit vectors, the columns of ``(d, 32)``."""
    if d == 2:
        angle = torch.arange(DIRECTIONS, dtype=torch.float64) * math.pi / DIRECTIONS
        return torch.stack([angle.cos(), angle.sin()])
    random = torch.randn(d, DIRECTIONS, generator=generator("cpu", 0, "directions"), dtype=torch.float64)
    return random / random.norm(dim=0)


def energy(x: Tensor, y: Tensor, within_y: float | None = None) -> float:
    r"""Returns the energy distance :math:`\sqrt{2 E|X - Y| - E|X - X'| - E|Y - Y'|}` as a V-statistic.

    Reference: Székely & Rizzo (2013), https://doi.org/10.1016/j.jspi.2013.03.018

    Args:
        x: ``(N, *)``.
        y: ``(M, *)``.
        within_y: :math:`E|Y - Y'|`, if it is already known.
    """
    if x[0].numel() == 1:
        from scipy.stats import energy_distance

        return float(energy_distance(x.flatten().numpy(), y.flatten().numpy()))
    within_y = mean_distance(y, y) if within_y is None else within_y
    return math.sqrt(max(2 * mean_distance(x, y) - mean_distance(x, x) - within_y, 0.0))


def mean_distance(x: Tensor, y: Tensor) -> float:
    """Returns the mean Euclidean distance over all pairs of two sets."""
    x, y = x.flatten(1), y.flatten(1)
    # Pieces of 100 rows stay in the cache.
    total = sum(float(torch.cdist(chunk, y).sum()) for chunk in x.split(100))
    return total / (len(x) * len(y))


def distances(dataset: Dataset, reference: Tensor) -> dict[str, Callable[[Tensor], float]]:
    """Returns the distances to a reference that are defined for a data set, by name."""
    line, vectors = reference[0].numel() == 1, reference.ndim == 2
    deviation = reference.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1.0) if vectors and not line else torch.ones(())
    bulk = dataset.standardize in ("robust", "quantile")

    def placed(x: Tensor) -> Tensor:
        return dataset.units.encode(x).clamp(-FARTHEST, FARTHEST) if bulk else x / scale

    scaled = placed(reference)
    within = None if line else mean_distance(scaled, scaled)
    chosen: dict[str, Callable[[Tensor], float]] = {}
    if line:
        chosen["w1"] = lambda x: float(w1(placed(x).flatten(), scaled.flatten()))
        chosen["ks"] = lambda x: ks(x, reference)
    else:
        chosen["sliced_w1"] = lambda x: sliced_w1(placed(x), scaled)
    chosen["energy"] = lambda x: energy(placed(x), scaled, within)
    if dataset.modes(reference[:1]) is not None:
        modes = dataset.modes(reference)
        chosen["mode_weights"] = lambda x: _total_variation(dataset.modes(x), modes)
    if dataset.off_support(reference[:1]) is not None:
        chosen["off_support"] = lambda x: float(_found(dataset.off_support(x)).double().mean())
    return chosen


def measure_points(dataset: Dataset, x: Tensor) -> Metrics:
    """Returns the distances of points ``x`` in the user's units, with their floors and those of the training set.

    The result is empty if the law is not known and no points are held out.
    """
    if unmeasured(dataset):
        return {}
    # Dequantised columns are compared as whole values.
    x = dataset.rounded(x.detach().double().cpu())
    parts: tuple[Tensor, ...] = (x,)
    exact = dataset.draw(REFERENCE, generator("cpu", 0, "reference"))
    if exact is not None:
        chosen = distances(dataset, exact)
        kind, draws = (
            "exact draws",
            [_found(dataset.draw(len(x), generator("cpu", 0, "floor", i))) for i in range(FLOORS)],
        )
        floors = [{name: distance(draw) for name, distance in chosen.items()} for draw in draws]
    else:
        chosen = distances(dataset, _found(dataset.held_out).double())
        parts = in_parts(x, min(len(x), len(dataset.x)))
        kind, splits = "random parts of the data", [_split(dataset, len(parts[0]), i) for i in range(FLOORS)]
        floors = [{name: distance(a) for name, distance in distances(dataset, b).items()} for a, b in splits]
    return {
        name: {
            "value": float(np.mean([distance(part) for part in parts])),
            "floor": float(np.median([floor[name] for floor in floors])),
            "train": distance(dataset.x.double()),
            "floor_from": kind,
        }
        for name, distance in chosen.items()
    }


def unmeasured(dataset: Dataset) -> str:
    """Returns the reason why points cannot be measured; empty if they can."""
    if dataset.held_out is not None or dataset.draw(1, generator("cpu", 0, "reference")) is not None:
        return ""
    return "nothing was held out and the law of the data is not known"


def score_error(dataset: Dataset, sde: SDE, score: Score, n: int = 1024) -> float | None:
    r"""Returns the relative error of a score, or None if the exact score is not known.

    .. math:: \left( \frac{E \sigma_t^2 \|s_\theta - \nabla \log p_t\|^2}{E \sigma_t^2 \|\nabla \log p_t\|^2}
              \right)^{1/2}, \qquad t \sim U[\varepsilon, T], \quad x_t \sim p_t

    The points are the same at every call.
    """
    exact = marginals(dataset.encoded_law, sde)
    if exact is None:
        return None
    source = generator("cpu", 0, "score error")
    t = sde.eps + (sde.T - sde.eps) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = sde.perturb(exact.law.sample(n, source), t, randn_like(source))
    target = exact(x, t)
    weight = exact.sde.sigma(t) ** 2
    with torch.no_grad():
        learned = score(x, t)
    error = (weight * squared_norm(learned.to(target) - target)).sum() / (weight * squared_norm(target)).sum()
    return float(error.sqrt())


def table(metrics: Metrics, points: str = "samples") -> str:
    """Returns the metrics as lines of text; ``points`` is the heading of the values."""
    lines = [f"{'':<14}{points:>10}{'floor':>10}{'training set':>14}"]
    for name, entry in metrics.items():
        cells = [f"{entry[key]:.4g}" if entry[key] is not None else "" for key in ("value", "floor", "train")]
        lines.append(f"{name:<14}{cells[0]:>10}{cells[1]:>10}{cells[2]:>14}")
    return "\n".join(lines)


def in_parts(x: Tensor, n: int) -> tuple[Tensor, ...]:
    """Returns a set in parts of ``n``, without a smaller rest."""
    return x[: len(x) // n * n].split(n)


def _split(dataset: Dataset, n: int, i: int) -> tuple[Tensor, Tensor]:
    """Draws ``n`` points of all data, and as many others as there are held-out points, without replacement."""
    held_out = _found(dataset.held_out).double()
    pool = torch.cat([dataset.x.double(), held_out])
    order = torch.randperm(len(pool), generator=generator("cpu", 0, "floor", i))
    return pool[order[len(held_out) :][:n]], pool[order[: len(held_out)]]


def _total_variation(a: Tensor | None, b: Tensor | None) -> float:
    """Returns half the sum of the differences of the modes' shares."""
    modes = int(max(_found(a).max(), _found(b).max())) + 1
    shares = [torch.bincount(_found(m), minlength=modes).double() / len(_found(m)) for m in (a, b)]
    return 0.5 * float((shares[0] - shares[1]).abs().sum())


def _found(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
