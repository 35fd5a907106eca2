"""Evaluation of a run: likelihoods of unseen data and of a user's points, interpolation, and tests of samples."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.flow.density import check_density
from sdegen.flow.divergence import by_probes
from sdegen.flow.likelihood import Flow, Likelihood, bits_per_dim
from sdegen.flow.solvers import DormandPrince
from sdegen.metrics.calibration import in_words
from sdegen.metrics.points import Metrics, table, unmeasured
from sdegen.metrics.two_sample import too_few
from sdegen.runs import events, files, posteriors, typicality
from sdegen.runs.conditions import needs_one
from sdegen.runs.given import given
from sdegen.runs.measures import measure_theirs, spread_over_cells, tell
from sdegen.runs.run import Run
from sdegen.runs.sweep import averages_of, sweep
from sdegen.runs.unseen import training, unseen
from sdegen.sde.mixture import Marginals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("sdegen")

CELLS = {1: 400, 2: 80}
"""Number of points along each axis of the grid on which the density is drawn, for each number of dimensions."""
PAIRS = 6
"""Number of pairs of points whose interpolation is shown."""
FRAMES = {"vectors": 33, "signals": 9, "images": 9}
"""Number of points of an interpolation, including both ends."""


class Result(NamedTuple):
    """Result of an evaluation.

    Attributes:
        metrics: content of ``metrics.json``.
        arrays: content of the ``.npz`` file.
        figure: figure of the result; None if the result is a number alone.
        points: kind of points, and the heading of the column of values.
        columns: columns of ``points.csv`` by name; None if there is no such file.
    """

    metrics: Metrics
    arrays: dict[str, Any]
    figure: Figure | None
    points: str
    columns: dict[str, list[str]] | None = None


class Evaluation:
    """Evaluation of a run with its flow between data and latents.

    Args:
        run: reloaded run.
        points: path of a file with a user's points; None for no such points.
        count: largest number of unseen points; for the likelihood, also the number of training points.
        seed: seed of the fresh points, the dequantisation and the probes.
        batch_size: number of points computed at once.
        probes: number of random probes that estimate the divergence; 0 for the exact divergence.
        rtol: relative tolerance of the solver.
        atol: absolute tolerance of the solver.
    """

    def __init__(
        self,
        run: Run,
        *,
        points: str | None = None,
        count: int,
        seed: int,
        batch_size: int,
        probes: int,
        rtol: float,
        atol: float,
    ) -> None:
        self.run, self.count, self.seed, self.batch_size = run, count, seed, batch_size
        self.divergence = by_probes(probes, run.units.size)
        self.solver: dict[str, Any] = {"rtol": rtol, "atol": atol, "batch_size": batch_size}
        self.settings = {"points": points, "count": count, "seed": seed, "probes": probes, **self.solver}
        try:
            DormandPrince(rtol, atol, 1)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.given = None if points is None else given(run, "points", Path(points))
        if self.given is not None:
            run.flow_of(self.given.y, self.given.c)

    def check(self, metric: str) -> None:
        """Raise UserError if a metric cannot be computed for the data of the run."""
        if metric == "sweep":
            if self.given is not None:
                raise UserError("ema=sweep: a sweep takes no points: leave out points=")
            averages_of(self.run)
        elif metric == "samples":
            if self.given is None:
                raise UserError("metrics=samples measures the points of a file: add points=theirs.csv")
            if why := unmeasured(self.run.dataset):
                raise UserError(f"metrics=samples: {why}: hold out a part of the data")
        elif self.given is not None and metric in ("interpolation", "calibration"):
            raise UserError(f"metrics={metric} takes no points: leave out points=, or use metrics=likelihood")
        elif metric == "calibration":
            posteriors.check(self.run)
        elif metric == "c2st":
            if why := too_few(self.run.dataset, self.count if self.given is None else len(self.given.x)):
                raise UserError(f"metrics=c2st: {why}")
        elif self.given is not None:
            typicality.check(self.run)
        elif metric == "interpolation" and needs_one(self.run):
            raise UserError("metrics=interpolation: needs a score without a condition: use metrics=likelihood or c2st")
        elif metric == "likelihood":
            if why := unmeasured(self.run.dataset):
                raise UserError(
                    f"metrics=likelihood: {why}, so there are no unseen points: use metrics=interpolation, which can "
                    f"use training points"
                )
            check_density(self.run.dataset)

    def write(self, metric: str) -> files.Written:
        """Compute a metric and write the result into the run's folder.

        The result is in ``evaluations/<number>-<metric>/``, for :data:`sdegen.config.options.METRIC`. The likelihood of
        a user's points is in ``evaluations/<number>-points/``, with a table of the points in ``points.csv``. The metric
        ``sweep`` stands for ``ema=sweep``.
        """
        # Import late: matplotlib takes half a second, for which a wrong option should not wait.
        from sdegen import figures

        run = self.run
        self.check(metric)
        metric = "points" if metric == "likelihood" and self.given is not None else metric
        found: Result = getattr(self, metric)()
        with files.new_folder(run.folder / "evaluations", metric) as (folder, final):
            own: dict[str, Any] = {"step": run.step, "weights": run.weights, "ema": run.ema}
            own |= {**{group: run.config[group] for group in ("network", "sde")}, **self.settings}
            files.write_yaml(folder / "config.yaml", {key: value for key, value in own.items() if value is not None})
            files.write_json(folder / "metrics.json", found.metrics)
            kept = {name: value for name, value in found.arrays.items() if value is not None}
            arrays: dict[str, Any] = {name: torch.as_tensor(value).cpu().numpy() for name, value in kept.items()}
            np.savez(folder / f"{metric}.npz", **arrays)
            if found.figure is not None:
                figures.save(found.figure, folder / "figures" / f"{metric}.png")
            if found.columns is not None:
                rows = zip(*found.columns.values(), strict=True)
                files.write_table(folder / "points.csv", found.columns, rows, self.given.decimal if self.given else ".")
            events.write(folder, run.step, found.metrics)
        log.info(table(found.metrics, found.points))
        return files.Written(final, found.metrics)

    def likelihood(self) -> Result:
        """Return the mean negative log-likelihood of unseen points under the model and under the exact distribution.

        The result also has the mean for training points under the model. All means are in nats for each point, for the
        density in the user's units. For data with levels, the result also has bits for each dimension.
        """
        from sdegen import figures

        dataset, started = self.run.dataset, time.perf_counter()
        sets = (unseen(dataset, self.count, self.seed), training(dataset, self.count, self.seed))
        log.info(f"likelihood of {len(sets[0].x)} {sets[0].kind} points, {self.run.weights_used()}")
        x, x_train = (spread_over_cells(dataset, points.x, self.seed) for points in sets)
        flow, of_train = (self.run.flow_of(points.y, points.c, **self.solver) for points in sets)
        test, train = (
            own.log_prob(points, self.divergence, self.seed) for own, points in ((flow, x), (of_train, x_train))
        )
        exact = self._exact(x, sets[0].y if needs_one(self.run) else None)
        seconds = time.perf_counter() - started
        log.info(f"on average {test.nfe:.1f} evaluations a point, {seconds:.1f} s")
        metrics = _summary(test, train, exact, self.run.units.size, dataset.levels is not None)
        arrays = {**test._asdict(), "x": x, "exact_log_p": exact, "x_train": x_train, "log_p_train": train.log_p}
        if self.run.units.kind == "vectors" and x.shape[1] in CELLS and not needs_one(self.run):
            figure = figures.density(dataset, *self._map(flow), exact=self._exact)
        else:
            figure = figures.likelihoods(-train.log_p, -test.log_p)
        return Result(metrics, {**arrays, "seconds": seconds, "seed": self.seed}, figure, sets[0].kind)

    def points(self) -> Result:
        """Return the log-densities of a user's points, and their tail shares among unseen points."""
        from sdegen import figures

        assert self.given is not None
        run, x, columns, decimal = self.run, self.given.x, self.given.columns, self.given.decimal
        log.info(f"density of {len(x)} points, {run.weights_used()}")
        found = typicality.compare(run, self.given, self.count, self.divergence, self.seed, **self.solver)
        log.info(typicality.in_words(found, columns))
        log_p, shares = found.typicality
        added = {
            name: [repr(value).replace(".", decimal) for value in values.tolist()]
            for name, values in (("log_density", log_p), ("tail_share", shares))
        }
        # A table that was evaluated before has these columns already.
        columns = {**columns, **{f"{name}_2" if name in columns else name: values for name, values in added.items()}}
        figure = figures.likelihoods(-found.unseen, -log_p[log_p.isfinite()], (f"{found.kind} points", "given points"))
        arrays = {"x": x, **found.typicality._asdict(), "unseen_log_density": found.unseen, "seed": self.seed}
        return Result(typicality.summary(found), arrays, figure, "points", columns)

    def samples(self) -> Result:
        """Return the metrics of a user's points as samples of the data, with the floors."""
        from sdegen import figures

        assert self.given is not None
        run, x, y = self.run, self.given.x, self.given.y
        log.info(f"measures of {len(x)} points against the data of {run.folder}")
        found = measure_theirs(run, x, y)
        return Result(found, {"x": x, "y": y, "seed": self.seed}, figures.compare(run.dataset, x), "points")

    def interpolation(self) -> Result:
        """Return interpolations between unseen points, and the error of points that are encoded and decoded again.

        If there are no unseen points, training points are used.
        """
        from sdegen import figures

        dataset = self.run.dataset
        x, _, _, kind = unseen(dataset, max(self.count, 2 * PAIRS), self.seed)
        log.info(f"interpolation between {kind} points, {self.run.weights_used()}")
        flow = self.run.flow(**self.solver)
        latent = flow.encode(x)
        off = self.run.units.encode(flow.decode(latent).cpu()) - self.run.units.encode(x)
        rms, source = float(off.square().mean().sqrt()), "the flow is one to one"
        metrics: Metrics = {"reconstruction": {"value": rms, "floor": 0.0, "train": None, "floor_from": source}}
        ends = zip(x[0 : 2 * PAIRS : 2], x[1 : 2 * PAIRS : 2], strict=False)
        frames = FRAMES[self.run.units.kind]
        paths = torch.stack([flow.interpolate(a, b, frames).cpu() for a, b in ends])
        arrays = {"x": x, "latent": latent, "paths": paths, "seed": self.seed}
        return Result(metrics, arrays, figures.interpolation(dataset, paths), kind)

    def sweep(self) -> Result:
        """Return the quality of the run against the width of the average of its weights: see :class:`Sweep`."""
        from sdegen import figures

        found = sweep(self.run, self.count, self.seed, self.batch_size)
        log.info(found.in_words())
        figure = figures.widths(found.widths, found.tracked, found.measures, found.others)
        curves = {name: np.array(values) for name, values in {"width": found.widths, **found.measures}.items()}
        return Result(found.summary(), {**curves, "seed": self.seed}, figure, "best")

    def c2st(self) -> Result:
        """Return the accuracy with which a classifier tells given points, or samples of the run, from unseen data."""
        run = self.run
        if self.given is not None:
            log.info(f"c2st of {len(self.given.x)} points against the data of {run.folder}")
            return Result(tell(run, self.given.x), {"x": self.given.x, "seed": self.seed}, None, "points")
        log.info(f"c2st of {self.count} samples, {run.weights_used()}")
        x = run.to_compare(self.count, seed=self.seed, batch_size=self.batch_size).x.cpu()
        return Result(tell(run, x), {"x": x, "seed": self.seed}, None, "samples")

    def calibration(self) -> Result:
        """Return the calibration of the posteriors of unseen pairs, and their distance from exact draws."""
        from sdegen import figures

        found = self.run.calibration(count=self.count, seed=self.seed, batch_size=self.batch_size)
        metrics, names, ranks, by_distance = found
        log.info(in_words(metrics, ranks, names))
        worst = list(metrics["sbc"]["columns"])
        order = [names.index(name) for name in worst]
        p_values = (metrics["sbc"]["p_value"], metrics["tarp"]["p_value"])
        figure = figures.calibration(ranks[:, order], by_distance, worst, p_values)
        arrays = {"ranks": ranks, "distance_ranks": by_distance, "seed": self.seed}
        return Result(metrics, arrays, figure, "samples")

    def _exact(self, x: Tensor, y: Tensor | None = None) -> Tensor | None:
        """Return the exact log-density at t = eps, in nats and in the user's units; None if it is not known.

        ``y`` ``(N,)`` are the classes whose densities are compared; None for the density of all points.
        """
        run, linear, law = self.run, self.run.sde.linear, self.run.dataset.encoded_law
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

    def _map(self, flow: Flow) -> tuple[list[Tensor], Tensor]:
        """Return the axes of a grid around the data, and the log-density of the model on the grid."""
        x, units = self.run.dataset.x, self.run.units
        # A margin in the network's units keeps the grid inside the region where the density is defined.
        low, high = units.encode(torch.stack([x.amin(0), x.amax(0)]))
        low, high = units.decode(torch.stack([low - 0.1 * (high - low), high + 0.1 * (high - low)]))
        cells = CELLS[x.shape[1]]
        axes = [torch.linspace(float(a), float(b), cells, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        return axes, flow.log_prob(grid, self.divergence, self.seed).log_p.cpu()


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
