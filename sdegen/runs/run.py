"""A run to work with: its score, its samples, and how good they are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdegen.config import choices
from sdegen.config.construction import construct, with_steps_of_chain
from sdegen.config.options import SAMPLE, check, choice
from sdegen.config.rules import check_process
from sdegen.core.errors import UserError
from sdegen.flow.density import check_density, check_density_of_run
from sdegen.flow.divergence import by_probes
from sdegen.flow.likelihood import Flow
from sdegen.flow.solvers import DormandPrince
from sdegen.guidance.classes import Guidance
from sdegen.runs import guiding
from sdegen.runs.arrays import ArrayLike, array, points
from sdegen.runs.checkpoint import Which
from sdegen.runs.sampling import draw
from sdegen.runs.trained import Precision, Trained, Weights
from sdegen.samplers import Samples
from sdegen.sde.base import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sdegen.metrics.points import Metrics
    from sdegen.runs.drawing import Animation

FRAMES = 60
"""States of the path in an animation."""


def load(
    run: str | Path,
    *,
    checkpoint: Which = "last",
    weights: Weights = "ema",
    device: str = "auto",
    precision: Precision = "float32",
    trust: Sequence[str] = (),
    nodes: Mapping[str, Any] | None = None,
) -> Run:
    """Reload a run's checkpoint.

    A checkpoint may come from a stranger: its tensors are read without running code, and its configuration builds
    only classes of this package, unless ``trust`` names others.

    Args:
        run: the run's folder, or ``…/latest``.
        checkpoint: its step, or ``last``, or ``best``: that with the smallest loss on held-out points.
        weights: ``ema``, the moving average, or ``raw``.
        device: ``auto``, ``cpu``, ``cuda``, …
        precision: of the computation.
        trust: modules whose classes the configuration may name, beside the package's own.
        nodes: nodes that replace the run's own, by group: ``sampler``, and ``network`` for the oracle.

    Raises:
        UserError: an option is wrong, or the folder, the checkpoint or its configuration is damaged or refused.
    """
    return Run(Path(run), checkpoint, weights, device, precision, trust, nodes)


class Run(Trained):
    """A trained run, reloaded.

    Its methods take points in the user's units as tensors, NumPy arrays or lists, and return float64 tensors. One point
    without the batch axis gives a result without it. :class:`Trained` has its attributes.
    """

    guidance: Guidance | None = None
    """The guidance that steers the score; None for the score itself."""
    _guided_by = ""

    def __repr__(self) -> str:
        parts = [f"{group}={choice(self.config[group])}" for group in ("dataset", "sde", "network", "sampler")]
        guided = [f"guidance={self._guided_by}"] if self._guided_by else []
        return f"Run({', '.join([*parts, *guided])}; {self.weights_used()}; {self.folder})"

    def score(self, x: ArrayLike, t: ArrayLike) -> Tensor:
        """Return ∇ log p_t of the decoded process, the direction in which sampling pulls points at time t.

        It is guided if the run is.

        Args:
            x: ``(N, *)`` or ``(*)``.
            t: a number, or one for each point, ``(N,)``.
        """
        batch, single = points("x", x, self.units.shape)
        batch, times = batch.to(self.device), array("t", t).to(self.device, self.dtype)
        if times.ndim and times.shape != batch.shape[:1]:
            raise UserError(
                f"t: has the shape {tuple(times.shape)}: give a number, or one for each of {len(batch)} points"
            )
        score: Score = self.score_model if self.guidance is None else self.guidance(self.sde, self.score_model)
        with torch.no_grad():
            inner = score(self.units.encode(batch).to(self.dtype), times)
        found = self.units.score(batch, inner)
        return found[0] if single else found

    def flow(self, *, rtol: float = 1e-5, atol: float = 1e-5, batch_size: int = 1000) -> Flow:
        """Return the map between data and latents, with the tolerances of its solver: see :class:`Flow`.

        Raises:
            UserError: the run is guided; a guided score has no exact flow.
        """
        self._check_unguided()
        solver = DormandPrince(rtol, atol, max_steps=10_000)
        return Flow(
            self.sde, self.score_model, self.units, solver, batch_size=batch_size, device=self.device, dtype=self.dtype
        )

    def encode(self, x: ArrayLike) -> Tensor:
        """Return the latents at T of points: ``(N, *)`` to ``(N, *)``."""
        return self._mapped("x", x, self.flow().encode)

    def decode(self, latent: ArrayLike) -> Tensor:
        """Return the points of latents at T, the inverse of :meth:`encode`."""
        return self._mapped("latent", latent, self.flow().decode)

    def interpolate(self, a: ArrayLike, b: ArrayLike, n: int) -> Tensor:
        """Return ``n`` points from the point ``a`` to the point ``b``, through their latents: ``(n, *)``."""
        ends = [points(name, x, self.units.shape)[0] for name, x in (("a", a), ("b", b))]
        if max(map(len, ends)) > 1:
            raise UserError("interpolate: a and b must be one point each")
        return self.flow().interpolate(ends[0][0], ends[1][0], n)

    def log_prob(self, x: ArrayLike, *, probes: int = 0, seed: int = 0) -> Tensor:
        """Return the log-density of the model at points, in nats for the user's units: ``(N, *)`` to ``(N,)``.

        Args:
            x: the points.
            probes: random probes of the divergence, 0 for the exact one; :meth:`Flow.log_prob` gives their error.
            seed: of the probes.

        Raises:
            UserError: the run's data have no density.
        """
        check_density_of_run(lambda: self.dataset)
        flow, divergence = self.flow(), by_probes(probes, self.units.size)
        return self._mapped("x", x, lambda batch: flow.log_prob(batch, divergence, seed).log_p)

    def using(self, sampler: str | None = None, **options: Any) -> Run:  # noqa: ANN401
        """Return this run with another sampler, or with other options of its own.

        Args:
            sampler: a choice of the group, such as ``adams``; None for the run's own.
            options: of the sampler, such as ``steps=10`` or ``corrector="hmc"``.

        Raises:
            UserError: there is no such sampler or option, or it does not go with the SDE.
        """
        if sampler is None and not options:
            return self
        own = self.config["sampler"]
        node = choices.changed(own, options) if sampler is None else choices.node("sampler", sampler, options)
        check({"sampler": node}, ("sampler",), {}, self.trust)
        other = copy.copy(self)
        other.config = {**self.config, "sampler": with_steps_of_chain(node, self.config["sde"])}
        other.sampler = construct(other.config, "sampler", self.trust)
        check_process(other.config, {"sampler": other.sampler}, self.trust)
        return other

    def sample(
        self,
        count: int = 1000,
        *,
        sampler: str | None = None,
        label: int | None = None,
        seed: int = 0,
        batch_size: int = 1000,
        **options: Any,  # noqa: ANN401
    ) -> Tensor:
        """Return samples, ``(count, *)``, on the run's device.

        Args:
            count: how many.
            sampler: a choice of the group, such as ``adams``; None for the run's own.
            label: the class to sample, if the network was trained with classes; otherwise see :meth:`guided`.
            seed: sample i depends on (seed, i) alone, unless the sampler couples the samples of a batch.
            batch_size: samples computed at once.
            options: of the sampler, such as ``steps=10``.
        """
        run = self.using(sampler, **options)
        if label is not None:
            run = run.guided("classifier_free", label=label)
        return self.units.decode(run.generate(count, seed=seed, batch_size=batch_size).x)

    def generate(
        self,
        count: int,
        *,
        seed: int = 0,
        batch_size: int = 1000,
        frames: int = 0,
        guidance: Guidance | None = None,
        first: int = 0,
    ) -> Samples:
        """Return samples in the network's units, with the number of evaluations and the path: see :func:`draw`."""
        check({"count": count, "seed": seed, "batch_size": batch_size}, (), SAMPLE, self.trust)
        return draw(
            self.sde,
            self.score_model,
            self.sampler,
            self.units,
            count,
            seed=seed,
            batch_size=batch_size,
            device=self.device,
            dtype=self.dtype,
            frames=frames,
            guidance=guidance or self.guidance,
            first=first,
        )

    def guided(
        self,
        name: str,
        *,
        run: Run | str | Path | None = None,
        label: int | None = None,
        observed: ArrayLike | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Run:
        """Return this run with a guided score, which steers its samples.

        Args:
            name: a choice of the group ``guidance``: ``classifier``, ``classifier_free``, ``inpaint``, …
            run: the classifier, for ``classifier``: a run or its folder.
            label: the class to steer towards.
            observed: the result of a measurement in the user's units, for ``inpaint``, ``deblur``, …; None measures a
                held-out image.
            options: of the guidance, such as ``scale=2.0`` or ``measurement={"mask": "top"}``.

        Raises:
            UserError: there is no such guidance or option, or it does not go with this run.
        """
        if self.guidance is not None:
            raise UserError(f"guidance={self._guided_by}: the run is guided already: guide the run that it came from")
        other = run.folder if isinstance(run, Run) else run
        node = choices.node("guidance", name, options if other is None else {**options, "run": str(other)})
        check({"guidance": node}, ("guidance",), {}, self.trust)
        guiding.check_label(self, node, label)
        seen = guiding.observation(self, node, None if observed is None else array("observed", observed))
        result = copy.copy(self)
        result.guidance = guiding.build(
            self, node, label, None if seen is None else seen.y, run if isinstance(run, Run) else None
        )
        result._guided_by = name if label is None else f"{name}, label={label}"
        return result

    def evaluate(self, x: ArrayLike | None = None, *, count: int = 2000, seed: int = 0) -> Metrics:
        """Return the metrics of points, or else of ``count`` samples of this run.

        They are the distances of the points to the data, and for points that the user gives also ``nll``, their mean
        negative log-density under the model, if the data are vectors with a density. Each metric has its ``value``, its
        ``floor`` (what as many points of the data would give) and the value of the training set, ``train``. The seed
        fixes the samples and random parts of the data.
        """
        from sdegen.runs import measures

        if x is None:
            return measures.measure(self.dataset, self.sample(count, seed=seed).cpu(), None, self.folder)
        batch = points("x", x, self.units.shape)[0].cpu()
        found = measures.measure(self.dataset, batch, None, self.folder)
        if len(self.units.shape) == 1 and self._has_density():
            flow, exact = self.flow(), by_probes(0, self.units.size)
            found |= measures.likelihood(self.dataset, lambda x: flow.log_prob(x, exact, seed).log_p, batch, seed)
        return found

    def draw(self, x: ArrayLike | None = None, *, count: int = 2000, seed: int = 0) -> Figure:
        """Return a figure of points, or else of ``count`` samples of this run, beside the data."""
        from sdegen import figures
        from sdegen.runs.drawing import show_inline

        show_inline()
        batch = self.sample(count, seed=seed) if x is None else points("x", x, self.units.shape)[0]
        return figures.compare(self.dataset, batch.cpu())

    def animate(self, count: int = 1000, *, seed: int = 0) -> Animation:
        """Return an animation of ``count`` samples on their way from noise to data, which a notebook shows."""
        from sdegen.figures.animations import animation
        from sdegen.runs.drawing import Animation

        samples = self.generate(count, seed=seed, batch_size=count, frames=FRAMES)
        return Animation(animation(self.dataset, samples, self.sde))

    def export(self, path: str | Path) -> Path:
        """Write the score as a file that ``torch.export.load(path).module()`` reads, without this package.

        The program takes ``(x, t)``, or ``(x, t, y)`` if the network takes the class, for any number of points. It
        works in the user's units, or in the network's under ``dataset.standardize=quantile``. ``sdegen.json`` in the
        file says which, and has the configuration.
        """
        from sdegen.runs.export import export

        self._check_unguided()
        return export(self, Path(path))

    def save_weights(self, path: str | Path) -> Path:
        """Write the network's weights as safetensors, with the configuration as metadata and without the data."""
        from sdegen.runs.export import save_weights

        return save_weights(self, Path(path))

    def _mapped(self, name: str, x: ArrayLike, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values of a function at points; one point without the batch axis gives one value."""
        batch, single = points(name, x, self.units.shape)
        found = function(batch)
        return found[0] if single else found

    def _check_unguided(self) -> None:
        if self.guidance is not None:
            raise UserError(
                f"guidance={self._guided_by}: a guided run has no latents and no density, and is not exported: use the "
                f"run that it came from"
            )

    def _has_density(self) -> bool:
        """Return True if a likelihood of the data has a meaning."""
        try:
            check_density(self.dataset)
        except UserError:
            return False
        return True
