"""Evaluation of a run by its flow: the likelihood of unseen data, and interpolation between two points."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdegen.core.errors import UserError
from sdegen.flow.density import check_density
from sdegen.flow.divergence import by_probes
from sdegen.flow.likelihood import Likelihood, bits_per_dim
from sdegen.metrics.points import unmeasured
from sdegen.runs import files
from sdegen.runs.measures import shuffled, spread_over_cells, unseen
from sdegen.runs.run import Run
from sdegen.sde.mixture import marginals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("sdegen")

CELLS = {1: 400, 2: 80}
"""Points along each axis of the grid on which the density is drawn, by the number of dimensions."""
PAIRS = 6
"""Pairs of points whose interpolation is shown."""
FRAMES = {"vectors": 33, "images": 9}
"""Points of an interpolation, both ends counted."""

Metrics = dict[str, dict[str, Any]]


class Result(NamedTuple):
    """Result of an evaluation: its metrics, arrays and figure, and the kind of points in the first column."""

    metrics: Metrics
    arrays: dict[str, Any]
    figure: Figure
    points: str


class Evaluation:
    """Evaluation of a run by its flow between data and latents.

    Args:
        run: the run, reloaded.
        count: points of the unseen data, and as many of the training set.
        seed: of fresh points, of the dequantisation and of the probes.
        batch_size: points computed at once.
        probes: of the divergence; 0 for the exact one.
        rtol: relative tolerance of the solver.
        atol: absolute tolerance.
    """

    def __init__(
        self, run: Run, *, count: int, seed: int, batch_size: int, probes: int, rtol: float, atol: float
    ) -> None:
        self.run, self.count, self.seed = run, count, seed
        self.settings: dict[str, float] = {"count": count, "seed": seed, "batch_size": batch_size}
        self.settings |= {"probes": probes, "rtol": rtol, "atol": atol}
        self.divergence = by_probes(probes, run.units.size)
        try:
            self.flow = run.flow(rtol=rtol, atol=atol, batch_size=batch_size)
        except ValueError as error:
            raise UserError(str(error)) from None

    def check(self, metric: str) -> None:
        """Raise UserError if a metric has no meaning for the data of the run."""
        if metric == "likelihood":
            if why := unmeasured(self.run.dataset):
                raise UserError(
                    f"metrics=likelihood: {why}: there are no unseen points to evaluate; metrics=interpolation takes "
                    f"training points"
                )
            check_density(self.run.dataset)

    def write(self, metric: str) -> files.Written:
        """Evaluate ``likelihood`` or ``interpolation`` into ``evaluations/<number>-<metric>/`` of the run's folder."""
        from sdegen import figures
        from sdegen.metrics.points import table

        run = self.run
        self.check(metric)
        found = {"likelihood": self.likelihood, "interpolation": self.interpolation}[metric]()
        with files.new_folder(run.folder / "evaluations", metric) as (folder, final):
            own = {"step": run.step, "weights": run.weights, "network": run.config["network"]}
            files.write_yaml(folder / "config.yaml", {**own, **self.settings})
            files.write_json(folder / "metrics.json", found.metrics)
            kept = {name: value for name, value in found.arrays.items() if value is not None}
            arrays: dict[str, Any] = {name: torch.as_tensor(value).cpu().numpy() for name, value in kept.items()}
            np.savez(folder / f"{metric}.npz", **arrays)
            figures.save(found.figure, folder / "figures" / f"{metric}.png")
        log.info(table(found.metrics, found.points))
        return files.Written(final, found.metrics)

    def likelihood(self) -> Result:
        """Return the mean negative log-likelihood of unseen points, beside the exact law's and that of training points.

        It is in nats for each point, in the user's units; for data with levels also in bits for each dimension.
        """
        from sdegen import figures

        dataset, started = self.run.dataset, time.perf_counter()
        test, kind = unseen(dataset, self.count, self.seed)
        train = shuffled(dataset.x, self.seed)[: self.count].double()
        test, train = (spread_over_cells(dataset, x, self.seed) for x in (test, train))
        log.info(f"likelihood of {len(test)} {kind} points, {self.run.weights_used()}")
        found, known = (self.flow.log_prob(x, self.divergence, self.seed) for x in (test, train))
        exact = self._exact(test)
        seconds = time.perf_counter() - started
        log.info(f"on average {found.nfe:.1f} evaluations a point, {seconds:.1f} s")
        metrics = summary(found, known, exact, self.run.units.size, dataset.levels is not None)
        arrays = {**found._asdict(), "x": test, "exact_log_p": exact, "x_train": train, "log_p_train": known.log_p}
        if len(self.run.units.shape) == 1 and test.shape[1] in CELLS:
            figure = figures.density(dataset, *self._map(), exact=self._exact)
        else:
            figure = figures.likelihoods(-known.log_p, -found.log_p, test[0].numel())
        return Result(metrics, {**arrays, "seconds": seconds, "seed": self.seed}, figure, kind)

    def interpolation(self) -> Result:
        """Return interpolations between unseen points, else training points, and the error of decoding encoded ones."""
        from sdegen import figures

        dataset, vectors = self.run.dataset, len(self.run.units.shape) == 1
        x, kind = unseen(dataset, max(self.count, 2 * PAIRS), self.seed)
        log.info(f"interpolation between {kind} points, {self.run.weights_used()}")
        latent = self.flow.encode(x)
        off = self.run.units.encode(self.flow.decode(latent).cpu()) - self.run.units.encode(x)
        error = {"value": float(off.square().mean().sqrt()), "floor": 0.0, "train": None, "floor_from": "one to one"}
        ends = zip(x[0 : 2 * PAIRS : 2], x[1 : 2 * PAIRS : 2], strict=False)
        frames = FRAMES["vectors" if vectors else "images"]
        paths = torch.stack([self.flow.interpolate(a, b, frames).cpu() for a, b in ends])
        arrays = {"x": x, "latent": latent, "paths": paths, "seed": self.seed}
        return Result({"reconstruction": error}, arrays, figures.interpolation(dataset, paths), kind)

    def _exact(self, x: Tensor) -> Tensor | None:
        """Return the exact log-density at eps of points in the user's units, in nats; None if the law is not known."""
        run = self.run
        exact = marginals(run.dataset.encoded_law, run.sde)
        if exact is None:
            return None
        eps = torch.tensor(run.sde.eps, dtype=torch.float64)
        return exact.log_prob(run.units.encode(x), eps) + run.units.log_det(x)

    def _map(self) -> tuple[list[Tensor], Tensor]:
        """Return the axes of a grid around the data, and the log-density of the model on it."""
        x, units = self.run.dataset.x, self.run.units
        # A margin in the network's units stays where the density is defined.
        low, high = units.encode(torch.stack([x.amin(0), x.amax(0)]))
        low, high = units.decode(torch.stack([low - 0.1 * (high - low), high + 0.1 * (high - low)]))
        cells = CELLS[x.shape[1]]
        axes = [torch.linspace(float(a), float(b), cells, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        return axes, self.flow.log_prob(grid, self.divergence, self.seed).log_p.cpu()


def summary(found: Likelihood, known: Likelihood, exact: Tensor | None, dimensions: int, levels: bool) -> Metrics:
    """Returns means over points, each with its standard error, as ``metrics.json`` has them.

    The floor is of the same points, so that value − floor is an estimate of the Kullback–Leibler divergence from the
    law to the model, far less noisy than either.
    """
    nats = -found.log_p.cpu()
    entry: dict[str, Any] = {
        "value": nats,
        "floor": None if exact is None else -exact,
        "train": -known.log_p.cpu(),
        "standard_error": nats.std() / len(nats) ** 0.5,
    }
    if found.standard_error is not None:
        entry["standard_error_of_probes"] = found.standard_error.cpu().square().mean().sqrt() / len(nats) ** 0.5
    source = "no exact law is known" if exact is None else "exact density of the same points"
    units = {"nll": lambda x: x, **({"bits_per_dim": lambda x: bits_per_dim(x, dimensions)} if levels else {})}
    return {
        name: {
            **{key: None if value is None else float(unit(value).mean()) for key, value in entry.items()},
            "floor_from": source,
        }
        for name, unit in units.items()
    }
