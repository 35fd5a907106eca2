"""Results of evaluations by the density of a model: likelihood of unseen points, and density of a user's points."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import Tensor

from sdegen.flow.divergence import Divergence
from sdegen.flow.likelihood import Flow, Likelihood, bits_per_dim
from sdegen.metrics.points import Metrics
from sdegen.runs import typicality
from sdegen.runs.conditions import needs_one
from sdegen.runs.evaluated import Result
from sdegen.runs.given import Given
from sdegen.runs.measures import spread_over_cells
from sdegen.runs.steered import Steered
from sdegen.runs.unseen import training, unseen
from sdegen.sde.mixture import Marginals

log = logging.getLogger("sdegen")

CELLS = {1: 400, 2: 80}
"""Number of points along each axis of the grid on which the density is drawn, for each number of dimensions."""


def likelihood(run: Steered, count: int, divergence: Divergence, seed: int, **settings: Any) -> Result:  # noqa: ANN401
    """Returns the mean negative log-likelihood of unseen points under the model and under the exact distribution.

    The result also has the mean for training points under the model. All means are in nats for each point, for the
    density in the user's units. For data with levels, the result also has bits for each dimension.

    Args:
        run: reloaded run.
        count: largest number of unseen points, and of training points.
        divergence: divergence of the flow.
        seed: seed of the fresh points, the dequantisation and the probes.
        settings: settings of the flow: see :meth:`sdegen.Run.flow`.
    """
    from sdegen import figures

    dataset, started = run.dataset, time.perf_counter()
    sets = (unseen(dataset, count, seed), training(dataset, count, seed))
    log.info(f"likelihood of {len(sets[0].x)} {sets[0].kind} points, {run.weights_used()}")
    x, x_train = (spread_over_cells(dataset, points.x, seed) for points in sets)
    flow, of_train = (run.flow_of(points.y, points.c, **settings) for points in sets)
    test, train = (own.log_prob(points, divergence, seed) for own, points in ((flow, x), (of_train, x_train)))
    exact = _exact(run, x, sets[0].y if needs_one(run) else None)
    seconds = time.perf_counter() - started
    log.info(f"on average {test.nfe:.1f} evaluations a point, {seconds:.1f} s")
    metrics = _summary(test, train, exact, run.units.size, dataset.levels is not None)
    arrays = {**test._asdict(), "x": x, "exact_log_p": exact, "x_train": x_train, "log_p_train": train.log_p}
    if run.units.kind == "vectors" and x.shape[1] in CELLS and not needs_one(run):
        axes, log_p = _map(run, flow, divergence, seed)
        figure = figures.density(dataset, axes, log_p, exact=lambda grid: _exact(run, grid))
    else:
        figure = figures.likelihoods(-train.log_p, -test.log_p)
    return Result(metrics, {**arrays, "seconds": seconds, "seed": seed}, figure, sets[0].kind)


def of_points(
    run: Steered,
    given: Given,
    count: int,
    divergence: Divergence,
    seed: int,
    **settings: Any,  # noqa: ANN401
) -> Result:
    """Returns the log-densities of a user's points, and their tail shares among at most ``count`` unseen points."""
    from sdegen import figures

    x, columns = given.x, given.columns
    log.info(f"density of {len(x)} points, {run.weights_used()}")
    found = typicality.compare(run, given, count, divergence, seed, **settings)
    log.info(typicality.in_words(found, columns))
    log_p, shares = found.typicality
    added = {
        name: [repr(value).replace(".", given.decimal) for value in values.tolist()]
        for name, values in (("log_density", log_p), ("tail_share", shares))
    }
    # A table that was evaluated before has these columns already.
    columns = {**columns, **{f"{name}_2" if name in columns else name: values for name, values in added.items()}}
    figure = figures.likelihoods(-found.unseen, -log_p[log_p.isfinite()], (f"{found.kind} points", "given points"))
    arrays = {"x": x, **found.typicality._asdict(), "unseen_log_density": found.unseen, "seed": seed}
    return Result(typicality.summary(found), arrays, figure, "points", columns, given.decimal)


def _exact(run: Steered, x: Tensor, y: Tensor | None = None) -> Tensor | None:
    """Returns the exact log-density at t = eps, in nats and in the user's units; None if it is not known.

    ``y`` ``(N,)`` are the classes whose densities are compared; None for the density of all points.
    """
    linear, law = run.sde.linear, run.dataset.encoded_law
    taken = run.model.network.condition
    if law is None or linear is None or (taken is not None and taken.valued and needs_one(run)):
        return None
    if y is not None and law.labels is None:
        return None
    eps, inner = torch.tensor(run.sde.eps, dtype=torch.float64), run.units.encode(x)
    if y is None:
        found = Marginals(law, linear).log_prob(inner, eps)
    else:
        found = inner.new_empty(len(x))
        for label in y.unique().tolist():
            found[y == label] = Marginals(law.of_class(label), linear).log_prob(inner[y == label], eps)
    return found + run.units.log_det(x)


def _map(run: Steered, flow: Flow, divergence: Divergence, seed: int) -> tuple[list[Tensor], Tensor]:
    """Returns the axes of a grid around the data, and the log-density of the model on the grid."""
    x, units = run.dataset.x, run.units
    # A margin in the network's units keeps the grid inside the region where the density is defined.
    low, high = units.encode(torch.stack([x.amin(0), x.amax(0)]))
    low, high = units.decode(torch.stack([low - 0.1 * (high - low), high + 0.1 * (high - low)]))
    cells = CELLS[x.shape[1]]
    axes = [torch.linspace(float(a), float(b), cells, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    return axes, flow.log_prob(grid, divergence, seed).log_p.cpu()


def _summary(test: Likelihood, train: Likelihood, exact: Tensor | None, dimensions: int, levels: bool) -> Metrics:
    """Returns means over points and standard errors, in the form of ``metrics.json``.

    The floor is computed on the same points as the value. So value − floor estimates the Kullback–Leibler divergence
    from the exact distribution to the model, with far less noise than the value or the floor.
    """
    nats = -test.log_p.cpu()
    entry: dict[str, Any] = {
        "value": nats,
        "floor": None if exact is None else -exact,
        "train": -train.log_p.cpu(),
        "standard_error": nats.std() / len(nats) ** 0.5,
    }
    if test.standard_error is not None:
        entry["standard_error_of_probes"] = test.standard_error.cpu().square().mean().sqrt() / len(nats) ** 0.5
    source = "the exact density is not known" if exact is None else "exact density of the same points"
    units = {"nll": lambda x: x, **({"bits_per_dim": lambda x: bits_per_dim(x, dimensions)} if levels else {})}
    return {
        name: {
            **{key: None if value is None else float(unit(value).mean()) for key, value in entry.items()},
            "floor_from": source,
        }
        for name, unit in units.items()
    }
