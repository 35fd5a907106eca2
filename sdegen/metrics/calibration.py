r"""Calibration of posteriors: whether samples given an observation are spread as the unknown parameters are.

Parameters and an observation are drawn, and then L samples given the observation. If the samples are from the exact
posterior, the parameters and the samples are exchangeable, so that the rank of the parameters among the samples is
uniform. There are two kinds of ranks:

- Simulation-based calibration ranks each parameter by its value. Reference: Talts et al. (2018),
  https://arxiv.org/abs/1804.06788
- TARP ranks the parameters by their distance from a reference point, and sees all parameters together. Here the
  reference is a function of the observation, so that samples that ignore the observation do not have uniform ranks.
  Reference: Lemos et al. (2023), https://arxiv.org/abs/2302.03026

The value of both tests is the largest difference between the share of the ranks in an interval and the length of the
interval. No credible interval or region has a coverage that is farther off. The value is Kuiper's statistic V, which
sees samples that are shifted, too narrow or too wide. For N pairs, the p-value of its test is

.. math:: 2 \sum_{j \ge 1} (4 j^2 \lambda^2 - 1) e^{-2 j^2 \lambda^2}, \qquad
          \lambda = \bigl(\sqrt N + 0.155 + 0.24 / \sqrt N\bigr) V

Reference: Stephens (1970), https://doi.org/10.1111/j.2517-6161.1970.tb00821.x
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.metrics.distances import sliced_w1
from sdegen.metrics.points import FLOORS, REFERENCE, Metrics, averaged_over_classes
from sdegen.metrics.two_sample import measure_c2st

DOUBTFUL = 0.01
"""P-value below which samples are called miscalibrated."""
TERMS = 100
"""Number of terms of the series of the p-value."""
EXACT = "median for samples of exact posteriors"


def ranks(theta: Tensor, draws: Tensor, source: torch.Generator) -> Tensor:
    """Returns the ranks of numbers among draws, as shares between 0 and 1 that are uniform for exchangeable numbers.

    A random number spreads a rank over its cell of the width 1 / (L + 1), and over its ties.

    Args:
        theta: numbers, ``(N, d)``.
        draws: L draws for each number, ``(N, L, d)``.
        source: generator of the random numbers.
    """
    below, ties = ((draws < theta[:, None]).sum(1), (draws == theta[:, None]).sum(1))
    spread = torch.rand(theta.shape, generator=source, dtype=torch.float64)
    return (below + spread * (ties + 1)) / (draws.shape[1] + 1)


def distance_ranks(theta: Tensor, draws: Tensor, reference: Tensor, source: torch.Generator) -> Tensor:
    """Returns the ranks ``(N,)`` of the distances of parameters from reference points, both ``(N, d)``.

    The share of the pairs whose rank is below a is the expected coverage of TARP at the level a.
    """
    own, other = (theta - reference).norm(dim=1), (draws - reference[:, None]).norm(dim=2)
    return ranks(own[:, None], other[:, :, None], source)[:, 0]


def interval_error(u: Tensor) -> float:
    """Returns the largest difference between the share of ranks ``(N,)`` in an interval and the interval's length."""
    u, n = u.sort().values, len(u)
    i = torch.arange(1, n + 1, dtype=torch.float64)
    return float((i / n - u).max() + (u - (i - 1) / n).max())


def p_value(error: float, n: int) -> float:
    """Returns the probability that ``n`` uniform ranks have an interval error of ``error`` or more."""
    scaled = (n**0.5 + 0.155 + 0.24 / n**0.5) * error
    if scaled < 0.4:  # noqa: PLR2004 - the series converges slowly there, to 1
        return 1.0
    square = (torch.arange(1, TERMS + 1, dtype=torch.float64) * scaled).square()
    return min(float((2 * (4 * square - 1) * (-2 * square).exp()).sum()), 1.0)


def median_error(n: int, columns: int = 1) -> float:
    """Returns the median of the largest interval error of independent columns of ``n`` uniform ranks."""
    from scipy.optimize import brentq

    share = 1 - 0.5 ** (1 / columns)
    return float(brentq(lambda error: p_value(error, n) - share, 0, 3 / n**0.5))


def rank_metrics(by_column: Tensor, by_distance: Tensor, names: Sequence[str]) -> Metrics:
    """Returns the interval errors of the ranks of each parameter ``(N, d)``, and of distances ``(N,)``.

    The p-value of ``sbc`` is that of the parameter that is farthest off, times the number of parameters.
    """
    n, d = by_column.shape
    errors = sorted(((interval_error(by_column[:, i]), names[i]) for i in range(d)), reverse=True)
    floor, whole = median_error(n), interval_error(by_distance)
    columns = {name: {"value": error, "floor": floor, "p_value": p_value(error, n)} for error, name in errors}
    worst, name = errors[0]
    common = {"train": None, "floor_from": EXACT}
    sbc = {"value": worst, "floor": median_error(n, d), "p_value": min(d * p_value(worst, n), 1.0)}
    tarp = {"value": whole, "floor": floor, "p_value": p_value(whole, n)}
    return {"sbc": {**sbc, **common, "column": name, "columns": columns}, "tarp": {**tarp, **common}}


def deviation(u: Tensor) -> str:
    """Returns in words what is most wrong with the samples among which the ranks ``(N,)`` are."""
    shift = float(u.mean() - 0.5) * (12 * len(u)) ** 0.5
    spread = float((u - 0.5).square().mean() - 1 / 12) * (180 * len(u)) ** 0.5
    if abs(shift) > abs(spread):
        return "too low" if shift > 0 else "too high"
    return "too narrow" if spread > 0 else "too wide"


def in_words(found: Metrics, by_column: Tensor, names: Sequence[str]) -> str:
    """Returns a sentence about each test of calibration."""
    lines, n = [], len(by_column)
    for test in ("sbc", "tarp"):
        p = found[test]["p_value"]
        verdict = f"no deviation from exact posteriors is visible in {n} pairs (p = {p:.2g})"
        if p < DOUBTFUL and test == "sbc":
            worst = found[test]["column"]
            how = deviation(by_column[:, list(names).index(worst)])
            verdict = f"the posteriors are not calibrated (p = {p:.2g}): the samples of {worst} are {how}"
        elif p < DOUBTFUL:
            verdict = f"the posteriors are not calibrated (p = {p:.2g})"
        lines.append(f"{test}: {verdict}")
    return "\n".join(lines)


def measure_posteriors(dataset: Dataset, c: Tensor, x: Tensor) -> Metrics:
    """Returns sliced W1 and C2ST of samples against exact draws, as means over conditions.

    Args:
        dataset: data whose exact posterior is known.
        c: conditions in the user's units, ``(M, *)``.
        x: samples for each condition in the user's units, ``(M, n, d)``.
    """
    found = {}
    for i, condition in enumerate(c):
        given = dataset.given(condition)
        assert given is not None
        found[i] = {"sliced_w1": _sliced_w1(given, x[i]), **measure_c2st(given, x[i], dataset.units.encode)}
    return averaged_over_classes(found, "condition")


def _sliced_w1(given: Dataset, x: Tensor) -> dict[str, Any]:
    """Returns the sliced W1 of samples ``(n, d)`` and exact draws, each coordinate in standard deviations."""
    reference = given.draw(REFERENCE, generator("cpu", 0, "reference"))
    assert reference is not None
    scale = reference.std(0, correction=0)
    sets = [x, *(given.draw(len(x), generator("cpu", 0, "floor", k)) for k in range(FLOORS))]
    value, *floors = [sliced_w1(part / scale, reference / scale) for part in sets if part is not None]
    return {"value": value, "floor": statistics.median(floors), "train": None, "floor_from": "exact draws"}
