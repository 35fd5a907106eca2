"""Evaluation of a run: likelihoods of unseen data and of a user's points, interpolation, and tests of samples."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdegen.core.errors import UserError
from sdegen.flow.density import check_density
from sdegen.flow.divergence import by_probes
from sdegen.flow.solvers import DormandPrince
from sdegen.metrics.calibration import in_words
from sdegen.metrics.points import Metrics, table, unmeasured
from sdegen.metrics.two_sample import too_few
from sdegen.runs import densities, fid, posteriors, typicality
from sdegen.runs.conditions import needs_one
from sdegen.runs.evaluated import Result
from sdegen.runs.feature_file import FeatureFile, FeatureNetwork
from sdegen.runs.files import Written
from sdegen.runs.given import given
from sdegen.runs.measures import measure_theirs, tell
from sdegen.runs.run import Run
from sdegen.runs.sweep import averages_of, sweep
from sdegen.runs.unseen import unseen

log = logging.getLogger("sdegen")

PAIRS = 6
"""Number of pairs of points whose interpolation is shown."""
FRAMES = {"vectors": 33, "signals": 9, "images": 9}
"""Number of points of an interpolation, including both ends."""


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
        features: file with the network of ``metrics=fid``; None if there is none.
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
        features: FeatureFile | None = None,
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
        self.features = features
        self._network: FeatureNetwork | None = None
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
        elif metric == "fid":
            self.network()
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

    def write(self, metric: str) -> Written:
        """Compute a metric and write the result into the run's folder.

        The result is in ``evaluations/<number>-<metric>/``, for :data:`sdegen.config.options.METRIC`. The likelihood of
        a user's points is in ``evaluations/<number>-points/``, with a table of the points in ``points.csv``. The metric
        ``sweep`` stands for ``ema=sweep``.
        """
        run = self.run
        self.check(metric)
        metric = "points" if metric == "likelihood" and self.given is not None else metric
        found: Result = getattr(self, metric)()
        settings: dict[str, Any] = {"step": run.step, "weights": run.weights, "ema": run.ema}
        settings |= {**{group: run.config[group] for group in ("network", "sde")}, **self.settings}
        if metric == "fid":
            settings["features"] = self.network().facts()
        folder = found.write(run.folder / "evaluations", metric, run.step, settings)
        log.info(table(found.metrics, found.points))
        return Written(folder, found.metrics)

    def likelihood(self) -> Result:
        """Return the likelihood of unseen points: see :func:`sdegen.runs.densities.likelihood`."""
        return densities.likelihood(self.run, self.count, self.divergence, self.seed, **self.solver)

    def points(self) -> Result:
        """Return the densities of a user's points: see :func:`sdegen.runs.densities.of_points`."""
        assert self.given is not None
        return densities.of_points(self.run, self.given, self.count, self.divergence, self.seed, **self.solver)

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

    def fid(self) -> Result:
        """Return the FID of given images, or of samples of the run: see :func:`sdegen.runs.fid.measured`."""
        run, network = self.run, self.network()
        if self.given is not None:
            log.info(f"fid of {len(self.given.x)} images against the data of {run.folder}")
            return fid.measured(run.dataset, self.given.x, network, self.batch_size, "points")
        log.info(f"fid of {self.count} samples, {run.weights_used()}")
        x = run.to_compare(self.count, seed=self.seed, batch_size=self.batch_size).x
        return fid.measured(run.dataset, x, network, self.batch_size, "samples")

    def network(self) -> FeatureNetwork:
        """Return the network of ``metrics=fid``, which is read and tried at the first call."""
        if self._network is None:
            file = fid.check(self.run.dataset, self.features)
            count = self.count if self.given is None else len(self.given.x)
            self._network = fid.tried(self.run.dataset, file, count, self.run.device)
        return self._network

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
