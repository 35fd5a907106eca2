"""A trained run for use from Python: its score, its samples, and metrics of its samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdegen.config import choices
from sdegen.config.compose import Config, with_steps_of_list
from sdegen.config.construction import construct, with_steps_of_chain
from sdegen.config.options import EVALUATE, SAMPLE, check, choice
from sdegen.config.rules import check_process
from sdegen.core.checks import as_path, explained
from sdegen.core.errors import UserError
from sdegen.flow.density import check_density_of_run
from sdegen.flow.divergence import by_probes
from sdegen.runs import conditions
from sdegen.runs.arrays import ArrayLike, Frame, points, times
from sdegen.runs.checkpoint import Which
from sdegen.runs.conditions import Asked
from sdegen.runs.given import given
from sdegen.runs.guiding import Plan
from sdegen.runs.steered import Steered
from sdegen.runs.trained import Precision, Weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sdegen.metrics.points import Metrics
    from sdegen.metrics.typicality import Typicality
    from sdegen.runs.notebook import Animation
    from sdegen.runs.posteriors import Calibration
    from sdegen.runs.sweep import Sweep

Source = ArrayLike | Frame | str | Path
"""Points: an array, a data frame, or the path of a file."""
FRAMES = 60
"""Number of states of the sampling path in an animation."""


@explained
def load(
    run: str | Path,
    *,
    checkpoint: Which = "last",
    weights: Weights = "ema",
    ema: float | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    trust: Sequence[str] = (),
    nodes: Mapping[str, Any] | None = None,
) -> Run:
    """Reload a run from a checkpoint.

    A checkpoint may come from a stranger. Reading it runs no code from the file, and only classes of this package and
    of the modules in ``trust`` are built.

    Args:
        run: folder of the run, or ``…/latest``.
        checkpoint: step, ``last``, or ``best`` for the checkpoint with the smallest loss on held-out points.
        weights: weights of the network: ``ema`` for the moving average, or ``raw``.
        ema: relative width of the moving average, such as 0.1, if the run was trained with ``trainer.widths``: see
            :mod:`sdegen.training.averages`; None for the average of ``trainer.ema``.
        device: device of the computation: ``auto``, ``cpu``, ``cuda``, …
        precision: precision of the computation: ``float32`` or ``float64``.
        trust: modules whose classes the configuration may name, in addition to this package.
        nodes: nodes that replace nodes of the run, by group: ``sampler``, ``network`` or ``sde``. Only the oracle can
            replace the network. With another linear SDE, the network is used along the path of this SDE, by a change of
            variables, on the range of noise-to-signal ratios that both SDEs have.

    Raises:
        UserError: an option is wrong, or the folder, the checkpoint or its configuration is damaged or refused.
    """
    return Run(as_path("run", run), checkpoint, weights, ema, device, precision, trust, nodes)


class Run(Steered):
    """Trained run that was reloaded from its folder.

    Points are in the user's units. Methods accept points as tensors, NumPy arrays or lists, and return points and
    values as float64 tensors. A single point without the batch axis gives a result without this axis. Methods whose
    argument may be a :data:`Source` also accept a data frame or the path of a file, whose columns are matched with the
    columns of the data by name. The attributes are listed in :class:`Trained` and :class:`Steered`.
    """

    def __repr__(self) -> str:
        parts = [f"{group}={choice(self.config[group])}" for group in ("dataset", "sde", "network", "sampler")]
        given = "" if self.guidance is not None else "given "
        parts += [f"{given}{self.target.name}"] if self.target.name else []
        return f"Run({self.config['name']}: {', '.join(parts)}; {self.weights_used()}; {self.folder})"

    @explained
    def score(self, x: ArrayLike, t: ArrayLike) -> Tensor:
        """Return the score ∇ log p_t in the user's units. It points towards higher density at time t.

        For a guided run, this is the guided score.

        Args:
            x: points, ``(N, *)`` or ``(*)``.
            t: time between ``sde.eps`` and ``sde.T``: a number, or ``(N,)`` with a number for each point.

        Raises:
            UserError: a time is outside of this range, or an array has another shape.
        """
        batch, single = points("x", x, self.units.shape)
        self.check_rows(len(batch), "points")
        batch, at = batch.to(self.device), times("t", t, self.sde, len(batch)).to(self.device, self.dtype)
        with torch.no_grad():
            inner = self.steered_score()(self.units.encode(batch).to(self.dtype), at)
        decoded = self.units.score(batch, inner)
        return decoded[0] if single else decoded

    @explained
    def encode(self, x: ArrayLike) -> Tensor:
        """Return the latents at T, ``(N, *)``, of points ``x``, ``(N, *)``."""
        return self._mapped("x", x, self.flow().encode)

    @explained
    def decode(self, latent: ArrayLike) -> Tensor:
        """Return the points ``(N, *)`` of latents at T, ``(N, *)``; the inverse of :meth:`encode`."""
        return self._mapped("latent", latent, self.flow().decode)

    @explained
    def interpolate(self, a: ArrayLike, b: ArrayLike, n: int) -> Tensor:
        """Return ``n`` points, ``(n, *)``, from point ``a`` to point ``b``, interpolated between their latents."""
        if not isinstance(n, int):
            raise UserError(f"n: must be an integer, not {n!r}")
        ends = [points(name, x, self.units.shape)[0] for name, x in (("a", a), ("b", b))]
        if max(map(len, ends)) > 1:
            raise UserError(f"interpolate: a and b hold {len(ends[0])} and {len(ends[1])} points: give one for each")
        return self.flow().interpolate(ends[0][0], ends[1][0], n)

    @explained
    def log_prob(self, x: Source, *, condition: Asked = None, probes: int = 0, seed: int = 0) -> Tensor:
        """Return the log-density of the model at points, ``(N,)``, in nats and in the user's units.

        Args:
            x: points, ``(N, *)``.
            condition: condition of all points, or a row for each point, if the network takes a condition: see
                :meth:`sample`. If the network needs one, a file or a data frame of points may have it in its columns.
            probes: number of random probes that estimate the divergence; 0 for the exact divergence.
                :meth:`Flow.log_prob` returns the error of the estimate.
            seed: seed of the probes.

        Raises:
            UserError: the run's data have no density.
        """
        check({"probes": probes, "seed": seed}, (), EVALUATE, self.trust)
        check_density_of_run(lambda: self.dataset)
        divergence, found = by_probes(probes, self.units.size), given(self, "x", x)
        if condition is not None:
            flow = self.given_rows(condition, len(found.x)).flow()
        elif found.y is None and found.c is None:
            flow = self.flow()
        else:
            flow = self.flow_of(found.y, found.c)
        values = flow.log_prob(found.x, divergence, seed).log_p
        return values[0] if found.single else values

    @explained
    def typicality(self, x: Source, *, count: int = 2000, probes: int = 0, seed: int = 0) -> Typicality:
        """Return the log-density of points, and their tail shares, which say how unusual the points are.

        The tail share of a point is the share of unseen points of the data's distribution that are no denser: see
        :mod:`sdegen.metrics.typicality`. A tail share of 0.01 or less marks one in a hundred points like the data.

        Args:
            x: points, ``(N, *)``.
            count: largest number of unseen points with which the points are compared: fresh ones if the data set can
                draw them, else held-out ones.
            probes: see :meth:`log_prob`.
            seed: seed of the probes and of the unseen points.

        Raises:
            UserError: the run's data have no density, or no points are held out.
        """
        from sdegen.runs.typicality import compare

        self.check_unguided()
        self.check_unsteered("typicality()")
        found, divergence = given(self, "x", x), by_probes(probes, self.units.size)
        densities = compare(self, found, count, divergence, seed).typicality
        return densities.single() if found.single else densities

    @explained
    def using(self, sampler: str | None = None, **options: Any) -> Run:  # noqa: ANN401
        """Return a copy of this run with another sampler, or with other options of the current sampler.

        Args:
            sampler: choice of the group ``sampler``, such as ``adams``; None for the current sampler.
            options: options of the sampler, such as ``steps=10`` or ``corrector="hmc"``.

        Raises:
            UserError: the sampler or an option does not exist, or the sampler does not work with the SDE.
        """
        if sampler is None and not options:
            return self
        own = self.config["sampler"]
        node = choices.changed(own, options) if sampler is None else choices.node("sampler", sampler, options)
        node = with_steps_of_list(node, options)
        check({"sampler": node}, ("sampler",), {}, self.trust)
        return self.sampled_by(node)

    def sampled_by(self, node: Config) -> Run:
        """Return a copy of this run with the sampler of a checked node."""
        other = copy.copy(self)
        other.config = {**self.config, "sampler": with_steps_of_chain(node, self.config["sde"])}
        other.sampler = construct(other.config, "sampler", self.trust)
        check_process(other.config, {"sampler": other.sampler}, self.trust)
        other.check_sampler("" if other.guidance is None else other.target.name)
        return other

    @explained
    def sample(
        self,
        count: int = 1000,
        *,
        sampler: str | None = None,
        condition: Asked = None,
        label: float | str | None = None,
        seed: int = 0,
        batch_size: int = 1000,
        **options: Any,  # noqa: ANN401
    ) -> Tensor:
        """Return samples, ``(count, *)``, on the run's device; ``(M, count, *)`` for a table of M conditions.

        If the network has learned the score with and without a class or a condition, and none is given, the samples
        are those of ``condition="data"``: of the distribution of all data, whose score without a condition is learned
        from few rows.

        Args:
            count: number of samples.
            sampler: see :meth:`using`.
            condition: condition of the samples, if the network takes one: see :meth:`given`. For an array ``(M, *)`` or
                a file of M rows, ``count`` samples are drawn for each row. ``"data"`` gives each sample the class and
                the condition of a point of the data, and ``"none"`` uses the score without them.
            label: label of the class to sample, as in the data, if the network was trained with classes; otherwise see
                :meth:`guided`.
            seed: seed of the samples; sample i depends only on (seed, i), unless the sampler couples a batch.
            batch_size: number of samples computed at once.
            options: see :meth:`using`.
        """
        run, plan = self.using(sampler, **options), Plan([self.target])
        asked = condition if self.target.steers else conditions.chosen(self, condition, label, None)
        if asked is not None or label is not None:
            plan = run.planned("sample", asked, label)
        x = run.drawn(plan, count, seed=seed, batch_size=batch_size).x
        return x if len(plan.targets) == 1 else x.unflatten(0, (-1, count))

    @explained
    def evaluate(self, x: Source | None = None, *, count: int = 2000, seed: int = 0) -> Metrics:
        """Return the metrics of the points ``x``, or of ``count`` samples of this run if ``x`` is None.

        The metrics are distances between the points and the data, and ``c2st``, the accuracy with which a classifier
        tells the points from unseen data. If the network takes a class or a condition, each sample has those of a
        point of the data. If ``x`` is given and the data are vectors with a density, ``nll`` is the
        mean negative log-density of ``x`` under the model. Each metric has a ``value``, a ``floor`` (the value for
        unseen data) and ``train`` (the value for training points). Labels in a file or a data frame are compared with
        the labels of the data. If this run has a class, the data are those of the class. The seed fixes the samples and
        all random choices of points.
        """
        from sdegen.runs import measures

        check({"count": count, "seed": seed}, (), SAMPLE, self.trust)
        batch, labels = self._samples_unless_given(x, count, seed)
        if (condition := self.target.condition) is not None:
            found = measures.measure_given(self, batch, condition.expand(len(batch), *condition.shape))
            if not found:
                raise UserError(
                    "evaluate: the exact distribution given a condition is not known for these data: evaluate the run "
                    "without a condition, whose samples have the conditions of the data"
                )
            return found
        if self.target.rows is not None:
            raise UserError(
                "evaluate: the run has a condition for each sample: evaluate a run with one condition or none, or use "
                "sdegen sample condition=data"
            )
        label, guided = self.target.label, self.guidance is not None
        if x is None or label is not None:
            metrics = measures.measure(self, batch, labels, shares=x is None and label is None)
        else:
            metrics = measures.measure_theirs(self, batch, labels)
        if not guided:
            metrics |= measures.tell(self, batch, label)
        if x is not None and not guided and not conditions.needs_one(self):
            metrics |= measures.likelihood(self, batch, seed)
        return metrics

    @explained
    def calibration(self, *, count: int = 2000, seed: int = 0, batch_size: int = 1000) -> Calibration:
        """Return whether samples given conditions are spread as unseen points are: see :class:`Calibration`.

        The metrics are explained in :mod:`sdegen.metrics.calibration`. If exact draws given a condition are known,
        ``sliced_w1`` and ``c2st`` compare samples with them.

        Args:
            count: largest number of unseen pairs of a point and its condition.
            seed: seed of the pairs and the samples.
            batch_size: number of samples computed at once.

        Raises:
            UserError: the network takes no condition, no pairs are held out, or this run has a condition already.
        """
        from sdegen.runs import posteriors

        check({"count": count, "seed": seed, "batch_size": batch_size}, (), SAMPLE, self.trust)
        self.check_unsteered("calibration()")
        return posteriors.measured(self, count, seed, batch_size)

    @explained
    def sweep(self, *, count: int = 2000, seed: int = 0, batch_size: int = 1000) -> Sweep:
        """Return the quality of this run against the width of the average of its weights: see :class:`Sweep`.

        ``sdegen.load(run, ema=0.1)`` has the weights of a width.

        Args:
            count: number of samples for each width, if samples are measured.
            seed: seed of the samples, the same for each width.
            batch_size: number of samples computed at once.

        Raises:
            UserError: the run was trained without ``trainer.widths``.
        """
        from sdegen.runs.sweep import sweep

        check({"count": count, "seed": seed, "batch_size": batch_size}, (), SAMPLE, self.trust)
        self.check_unsteered("sweep()")
        return sweep(self, count, seed, batch_size)

    @explained
    def draw(self, x: Source | None = None, *, count: int = 2000, seed: int = 0) -> Figure:
        """Return a figure of the points ``x`` beside the data, or of ``count`` samples of this run if ``x`` is None."""
        from sdegen import figures
        from sdegen.runs import notebook

        notebook.show_figures()
        batch, labels = self._samples_unless_given(x, count, seed)
        return figures.compare(self.dataset, batch, labels)

    @explained
    def animate(self, count: int = 1000, *, seed: int = 0) -> Animation:
        """Return an animation of ``count`` samples of :meth:`sample` from noise to data. A notebook shows it."""
        from sdegen.figures.animations import animation
        from sdegen.runs.notebook import Animation

        check({"count": count}, (), SAMPLE, self.trust)
        samples = self.to_compare(count, seed=seed, batch_size=count, frames=FRAMES).samples
        return Animation(animation(self.dataset, samples, self.sde))

    @explained
    def export(self, path: str | Path) -> Path:
        """Write the score as a file that ``torch.export.load(path).module()`` reads without this package.

        The program takes ``(x, t)``, or ``(x, t, y)`` if the network takes a condition. For any number B of points,
        ``x`` is ``(B, *)`` and ``t`` is ``(B,)``, both in the run's precision. ``y`` is ``(B,)`` int64 for classes,
        with -1 for no class, else ``(B, *)`` in the run's precision and in the user's units, with NaN for no condition.
        For numbers with a class, ``y`` is ``(B, 1 + k)``, with the number of the class first.
        The program uses the user's units, or the network's units with ``dataset.standardize=quantile``. In the file,
        ``sdegen.json`` states the units and contains the configuration.

        Raises:
            UserError: the run is guided or holds no score, or torch cannot export its network.
        """
        from sdegen.runs.export import export

        self.check_unguided()
        return export(self, as_path("path", path))

    @explained
    def save_weights(self, path: str | Path) -> Path:
        """Write the weights of the network, and the other tensors that the score needs, as safetensors.

        The names of weights are ``network.`` and the name in the network's ``state_dict``. The names of tensors that
        were computed from the data begin with ``units.``, ``conditions.`` or ``parametrization.``. The metadata
        contain the configuration as JSON, under the key ``sdegen``.

        Raises:
            UserError: the package safetensors is missing, or the network's ``state_dict`` has more than tensors.
        """
        from sdegen.runs.export import save_weights

        return save_weights(self, as_path("path", path))

    def _mapped(self, name: str, x: Source, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values of a function at points; one value for a single point without the batch axis."""
        found = given(self, name, x)
        values = function(found.x)
        return values[0] if found.single else values

    def _samples_unless_given(self, x: Source | None, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Return points on the CPU, and their classes: labels that were given, or the class of the target."""
        if x is None:
            samples = self.to_compare(count, seed=seed)
            return samples.x.cpu(), samples.y
        found = given(self, "x", x)
        if found.y is None and self.target.label is not None:
            return found.x, torch.full((len(found.x),), self.target.label)
        return found.x, found.y
