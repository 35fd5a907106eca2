"""A trained run for use from Python: its score, its samples, and metrics of its samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdegen.config import choices
from sdegen.config.compose import Config
from sdegen.config.construction import construct, with_steps_of_chain
from sdegen.config.options import EVALUATE, SAMPLE, check, choice
from sdegen.config.rules import check_process
from sdegen.core.checks import as_path, explained
from sdegen.core.errors import UserError
from sdegen.flow.density import check_density, check_density_of_run
from sdegen.flow.divergence import by_probes
from sdegen.flow.likelihood import Flow
from sdegen.flow.solvers import DormandPrince
from sdegen.guidance.classes import Guidance
from sdegen.runs import conditions, guiding
from sdegen.runs.arrays import ArrayLike, Frame, array, points
from sdegen.runs.checkpoint import Which
from sdegen.runs.conditions import Asked
from sdegen.runs.given import given
from sdegen.runs.sampling import draw
from sdegen.runs.trained import Precision, Trained, Weights
from sdegen.samplers import Samples
from sdegen.sde.base import Score
from sdegen.sde.scores import Counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sdegen.metrics.points import Metrics
    from sdegen.metrics.typicality import Typicality
    from sdegen.runs.notebook import Animation
    from sdegen.runs.posteriors import Calibration
    from sdegen.runs.typicality import Unseen

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
        device: device of the computation: ``auto``, ``cpu``, ``cuda``, …
        precision: precision of the computation: ``float32`` or ``float64``.
        trust: modules whose classes the configuration may name, in addition to this package.
        nodes: nodes that replace nodes of the run, by group: ``sampler``, ``network`` or ``sde``. Only the oracle can
            replace the network. With another linear SDE, the network is used along the path of this SDE, by a change of
            variables, on the range of noise-to-signal ratios that both SDEs have.

    Raises:
        UserError: an option is wrong, or the folder, the checkpoint or its configuration is damaged or refused.
    """
    return Run(as_path("run", run), checkpoint, weights, device, precision, trust, nodes)


class Run(Trained):
    """Trained run that was reloaded from its folder.

    Points are in the user's units. Methods accept points as tensors, NumPy arrays or lists, and return points and
    values as float64 tensors. A single point without the batch axis gives a result without this axis. Methods whose
    argument may be a :data:`Source` also accept a data frame or the path of a file, whose columns are matched with the
    columns of the data by name. The attributes are listed in :class:`Trained`.
    """

    guidance: Guidance | None = None
    """Guidance that steers the score; None if the score is not guided."""
    _guided_by = ""
    _label: int | None = None
    _condition: Tensor | None = None
    _told: Tensor | None = None

    def __repr__(self) -> str:
        parts = [f"{group}={choice(self.config[group])}" for group in ("dataset", "sde", "network", "sampler")]
        how = "given " if self.guidance is None else "guidance="
        guided = [f"{how}{self._guided_by}"] if self._guided_by else []
        return f"Run({self.config['name']}: {', '.join([*parts, *guided])}; {self.weights_used()}; {self.folder})"

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
        batch, times = batch.to(self.device), self._times(t).to(self.device, self.dtype)
        if times.ndim and times.shape != batch.shape[:1]:
            raise UserError(
                f"t: has the shape {tuple(times.shape)}: give a number, or one for each of {len(batch)} points"
            )
        score: Score = self._score()
        if self.guidance is not None:
            score = self.guidance(self.sde, Counted(score))
        with torch.no_grad():
            inner = score(self.units.encode(batch).to(self.dtype), times)
        decoded = self.units.score(batch, inner)
        return decoded[0] if single else decoded

    @explained
    def flow(self, *, rtol: float = 1e-5, atol: float = 1e-5, batch_size: int = 1000) -> Flow:
        """Return the map between data and latents, computed with tolerances ``rtol`` and ``atol``: see :class:`Flow`.

        Raises:
            UserError: the run is guided; a guided score has no exact flow.
        """
        self._check_unguided()
        check({"rtol": rtol, "atol": atol, "batch_size": batch_size}, (), EVALUATE, self.trust)
        return self._flow(self._score(), rtol, atol, batch_size)

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
        if condition is None and self._told is None and found.c is not None:
            flow = self.flow_told(found.y, found.c)
        else:
            flow = self._flow_given(condition, len(found.x))
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

        if self._told is not None:
            raise UserError("typicality: compares points that have their own conditions: call it on the run itself")
        found, divergence = given(self, "x", x), by_probes(probes, self.units.size)
        densities = compare(self, found.x, self.flow_told(found.y, found.c), divergence, seed, self.unseen(count, seed))
        return densities.typicality.single() if found.single else densities.typicality

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
        check({"sampler": node}, ("sampler",), {}, self.trust)
        return self.sampled_by(node)

    def sampled_by(self, node: Config) -> Run:
        """Return a copy of this run with the sampler of a checked node."""
        other = copy.copy(self)
        other.config = {**self.config, "sampler": with_steps_of_chain(node, self.config["sde"])}
        other.sampler = construct(other.config, "sampler", self.trust)
        check_process(other.config, {"sampler": other.sampler}, self.trust)
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

        Args:
            count: number of samples.
            sampler: see :meth:`using`.
            condition: condition of the samples, if the network takes one: see :meth:`given`. For an array ``(M, *)`` or
                a file of M rows, ``count`` samples are drawn for each row.
            label: label of the class to sample, as in the data, if the network was trained with classes; otherwise see
                :meth:`guided`.
            seed: seed of the samples; sample i depends only on (seed, i), unless the sampler couples a batch.
            batch_size: number of samples computed at once.
            options: see :meth:`using`.
        """
        run = self.using(sampler, **options)
        settings: dict[str, Any] = {"seed": seed, "batch_size": batch_size}
        if condition is None and label is None:
            return self.units.decode(run.generate(count, **settings).x)
        targets = self._targets(condition, label, several=True)
        samples = [run._at(target).generate(count, **settings, first=i * count) for i, target in enumerate(targets)]
        parts = [self.units.decode(part.x) for part in samples]
        return parts[0] if len(parts) == 1 else torch.stack(parts)

    @explained
    def given(self, condition: Asked = None, *, label: float | str | None = None) -> Run:
        """Return a copy of this run whose score, samples and densities are those given a condition.

        Args:
            condition: condition in the user's units, if the network was trained with conditions: k numbers, or an image
                or signal; None for no condition.
            label: label of a class, as in the data, if the network was trained with classes; None for no class.

        Raises:
            UserError: the network does not take the condition or the class, or they do not fit the data.
        """
        (target,) = self._targets(condition, label)
        return self._at(target)

    def _targets(self, condition: Asked, label: float | str | None, several: bool = False) -> Sequence[guiding.Target]:
        """Return what samples of this run are given: one target, or a target for each of ``several`` conditions."""
        if self.guidance is not None:
            raise UserError(f"guidance={self._guided_by}: the run is guided already: call given() on the unguided run")
        if self._told is not None:
            raise UserError(f"{self._guided_by}: this run has a condition already: call given() on the run itself")
        if label == "all":
            raise UserError("label=all: must be one class of the data: call given() once for each class")
        if isinstance(condition, str) and condition == conditions.DATA:
            raise UserError("condition=data: works on the command line only: give the conditions as an array")
        taken = self.model.network.condition
        if condition is None and (taken is None or (label is not None and not taken.labelled)):
            # The message of the guidance says what the network lacks.
            self.guided("classifier_free", label=label)
        targets = guiding.planned(self, None, label, condition=condition).targets
        if len(targets) > 1 and not several:
            raise UserError(f"condition: has {len(targets)} rows: give one condition, or use run.sample(condition=…)")
        return targets

    def _at(self, target: guiding.Target) -> Run:
        """Return a copy of this run whose score is the score given the class and the condition of a target."""
        result = copy.copy(self)
        result._label, result._condition, result._told = target.label, target.condition, target.told
        parts: dict[str, Any] = {"condition": None if target.condition is None else "an array"}
        parts["label"] = None if target.label is None else self.names.label(target.label)
        if target.condition is not None and target.condition.ndim == 1:
            parts["condition"] = f"[{', '.join(f'{number:g}' for number in target.condition.tolist())}]"
        result._guided_by = ", ".join(f"{name}={value}" for name, value in parts.items() if value is not None)
        return result

    @explained
    def generate(
        self,
        count: int,
        *,
        seed: int = 0,
        batch_size: int = 1000,
        frames: int = 0,
        guidance: Guidance | None = None,
        first: int = 0,
        told: Tensor | None = None,
    ) -> Samples:
        """Return samples in the network's units, with the cost and the path of the sampling: see :func:`draw`."""
        check({"count": count, "seed": seed, "batch_size": batch_size}, (), SAMPLE, self.trust)
        steers, told = guidance or self.guidance, self._told if told is None else told
        if steers is None and told is None:
            conditions.check_known(self)
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
            guidance=steers,
            first=first,
            silent=False,
            told=told,
        )

    @explained
    def guided(
        self,
        name: str,
        *,
        run: Run | str | Path | None = None,
        condition: Asked = None,
        label: float | str | None = None,
        observed: ArrayLike | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Run:
        """Return a copy of this run with a guided score, which steers the samples.

        Args:
            name: choice of the group ``guidance``: ``classifier``, ``regressor``, ``classifier_free``, ``inpaint``, …
            run: run with the classifier or the regressor, or with the weaker network for ``auto``; a run or its folder.
            condition: condition to steer towards, for ``regressor`` and ``classifier_free``: see :meth:`given`.
            label: label of the class to steer towards, as in the data.
            observed: result of a measurement in the user's units, for ``inpaint``, ``operator``, …, or several
                independent results in one array; if None, a held-out image is measured.
            options: options of the guidance, such as ``scale=2.0`` or ``measurement={"mask": "top"}``.

        Raises:
            UserError: the guidance or an option does not exist, or the guidance does not work with this run.
        """
        if self.guidance is not None or self._told is not None:
            raise UserError(
                f"guidance={self._guided_by}: the run is guided already, and the guidances of two observations do not "
                f"add up: call guided() on the unguided run, with all observations"
            )
        if label == "all":
            raise UserError("label=all: must be one class of the data: call guided() once for each class")
        loaded = run if isinstance(run, Run) else None
        folder = run if loaded is None else loaded.folder
        node = choices.node("guidance", name, options if folder is None else {**options, "run": str(folder)})
        check({"guidance": node}, ("guidance",), {}, self.trust)
        given = None if observed is None else array("observed", observed)
        result = copy.copy(self)
        (target,) = guiding.planned(self, node, label, given, loaded, condition).targets
        result.guidance, result._label, result._told = target.guidance, target.label, target.told
        result._condition = target.condition
        result._guided_by = name if label is None else f"{name}, label={label}"
        return result

    @explained
    def evaluate(self, x: Source | None = None, *, count: int = 2000, seed: int = 0) -> Metrics:
        """Return the metrics of the points ``x``, or of ``count`` samples of this run if ``x`` is None.

        The metrics are distances between the points and the data, and ``c2st``, the accuracy with which a classifier
        tells the points from unseen data. If the network takes a class or a condition,
        each sample has those of an unseen point. If ``x`` is given and the data are vectors with a
        density, ``nll`` is the mean negative log-density of ``x`` under the model. Each metric has a ``value``, a
        ``floor`` (the value for unseen data) and ``train`` (the value for training points). Labels in a file or a data
        frame are compared with the labels of the data. If the run is guided towards a class, the data are those of the
        class. The seed fixes the samples and all random choices of points.
        """
        from sdegen.runs import measures

        check({"count": count, "seed": seed}, (), SAMPLE, self.trust)
        batch, labels = self._samples_unless_given(x, count, seed)
        if self._condition is not None:
            found = measures.measure_given(self, batch, self._condition.expand(len(batch), *self._condition.shape))
            if not found:
                raise UserError(
                    "evaluate: the exact distribution given a condition is not known for these data: evaluate the run "
                    "without a condition, whose samples have the conditions of unseen points"
                )
            return found
        metrics = measures.measure(self, batch, labels, shares=x is None and self._label is None)
        if self.guidance is None:
            metrics |= measures.tell(self, batch)
        if (
            self.guidance is None
            and not conditions.needs_one(self)
            and x is not None
            and self.units.kind == "vectors"
            and self._has_density()
        ):
            flow, exact = self.flow(), by_probes(0, self.units.size)
            metrics |= measures.likelihood(self.dataset, lambda x: flow.log_prob(x, exact, seed).log_p, batch, seed)
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
        if self.guidance is not None or self._told is not None:
            raise UserError(f"calibration: {self._guided_by}: tests many conditions: call it on the run itself")

        def generate(told: Tensor) -> Tensor:
            return self.generate(len(told), seed=seed, batch_size=batch_size, told=told).x

        return posteriors.measured(self, generate, count, seed)

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
        """Return an animation of ``count`` samples from noise to data. A notebook shows the animation."""
        from sdegen.figures.animations import animation
        from sdegen.runs.notebook import Animation

        check({"count": count}, (), SAMPLE, self.trust)
        samples = self.generate(count, seed=seed, batch_size=count, frames=FRAMES)
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

        self._check_unguided()
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

    def sample_data(self, count: int, *, seed: int = 0, batch_size: int = 1000) -> tuple[Tensor, Tensor | None]:
        """Return samples to compare with the data, ``(count, *)`` on the CPU, and their classes, or None.

        If the network takes a class or a condition, each sample has those of an unseen point.
        """
        told, labels = None, None
        if conditions.takes_one(self) and (taken := self.model.network.condition) is not None:
            told, _, labels, _ = conditions.of_data(self.dataset, taken, count, seed)
        samples = self.generate(count, seed=seed, batch_size=batch_size, told=told)
        return self.units.decode(samples.x).cpu(), labels

    def _score(self) -> Any:  # noqa: ANN401 - a score with ``given``
        """Return the trained score, given the condition of this run if it has one."""
        if self._told is None:
            if self.guidance is None:
                conditions.check_known(self)
            return self.score_model
        return self.score_model.given(self._told)

    def _flow(self, score: Score, rtol: float = 1e-5, atol: float = 1e-5, batch_size: int = 1000) -> Flow:
        solver = DormandPrince(rtol, atol, max_steps=10_000)
        return Flow(self.sde, score, self.units, solver, batch_size=batch_size, device=self.device, dtype=self.dtype)

    def flow_told(
        self, y: Tensor | None, c: Tensor | None, *, rtol: float = 1e-5, atol: float = 1e-5, batch_size: int = 1000
    ) -> Flow:
        """Return the flow given classes ``(N,)`` and conditions ``(N, *)`` of points, if the network needs these.

        Raises:
            UserError: the network needs the condition of each point, and none is given.
        """
        self._check_unguided()
        if not conditions.needs_one(self):
            return self.flow(rtol=rtol, atol=atol, batch_size=batch_size)
        taken = self.model.network.condition
        assert taken is not None
        if c is None and taken.valued:
            raise UserError("points: the network needs the condition of each point: add the columns of the conditions")
        if y is None and taken.labelled:
            raise UserError("points: the network needs the class of each point: add a column label")
        told = conditions.told(taken, self.conditions, y if taken.labelled else None, c)
        return self._flow(self.score_model.given(told), rtol, atol, batch_size)

    def unseen(self, count: int, seed: int, **settings: float) -> Unseen:
        """Return at most ``count`` unseen points and the flow of their densities, which knows their conditions."""
        from sdegen.runs import measures
        from sdegen.runs.typicality import Unseen

        if not conditions.needs_one(self):
            return Unseen(*measures.unseen(self.dataset, count, seed), self.flow(**settings))  # type: ignore[arg-type]
        x, y, c = conditions.unseen(self.dataset, count, seed)
        kind, taken = "held-out" if self.dataset.held_out is not None else "fresh", self.model.network.condition
        labels = y if taken is not None and taken.labelled else None
        return Unseen(x, kind, self.flow_told(y, c, **settings), labels)  # type: ignore[arg-type]

    def _flow_given(self, condition: Asked, count: int) -> Flow:
        """Return the flow given one condition, or a condition for each of ``count`` points."""
        if condition is None:
            return self.flow()
        targets = self._targets(condition, None, several=True)
        if len(targets) == 1:
            return self._at(targets[0]).flow()
        if len(targets) != count:
            raise UserError(f"condition: has {len(targets)} rows for {count} points: give one for all, or one for each")
        told = [target.told for target in targets if target.told is not None]
        return self._flow(self.score_model.given(torch.stack(told)))

    def _times(self, t: ArrayLike) -> Tensor:
        """Return times as a tensor; raise UserError if a time is outside of the range of the SDE."""
        times = array("t", t)
        times = times if times.is_floating_point() else times.double()
        # Compare in the precision of the times: eps is larger than eps rounded to float32.
        low, high = times.new_tensor([self.sde.eps, self.sde.T])
        if len(outside := times[~((times >= low) & (times <= high))]):
            raise UserError(
                f"t: must lie between {self.sde.eps:g} (sde.eps) and {self.sde.T:g}, not {float(outside[0]):g}: the "
                f"score is trained only in this range"
            )
        return times

    def _mapped(self, name: str, x: Source, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the values of a function at points; one value for a single point without the batch axis."""
        found = given(self, name, x)
        values = function(found.x)
        return values[0] if found.single else values

    def _samples_unless_given(self, x: Source | None, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Return points on the CPU, and their classes: labels that were given, or the class of the guidance."""
        found = None if x is None else given(self, "x", x)
        if found is None and self._told is None and self.guidance is None and conditions.takes_one(self):
            return self.sample_data(count, seed=seed)
        batch = self.sample(count, seed=seed) if found is None else found.x
        labels = None if found is None else found.y
        if labels is None and self._label is not None:
            labels = torch.full((len(batch),), self._label)
        return batch.cpu(), labels

    def _check_unguided(self) -> None:
        if self.guidance is not None:
            raise UserError(
                f"guidance={self._guided_by}: a guided run has no latents and no density, and cannot be exported: use "
                f"the unguided run"
            )

    def _has_density(self) -> bool:
        try:
            check_density(self.dataset)
        except UserError:
            return False
        return True
