"""A trained run, reloaded: its score, its samples, and how good they are."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sdegen.config import choices
from sdegen.config.assembly import (
    GROUPS,
    SAMPLE,
    TRAIN,
    Config,
    Faults,
    check,
    choice,
    connect,
    construct,
    known_by,
    make_network,
    paced,
    refusals,
)
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.datasets import Dataset, restored
from sdegen.datasets.fingerprint import difference
from sdegen.flow.density import check_density, check_density_of_run
from sdegen.flow.likelihood import Flow, by_probes
from sdegen.flow.solvers import Dopri5
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement, linear_units
from sdegen.models.classifier import ClassifierModel
from sdegen.models.moments import Moments
from sdegen.models.score import ScoreModel
from sdegen.networks import Network
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs.arrays import ArrayLike, array, points
from sdegen.runs.checkpoint import Checkpoint, examine
from sdegen.runs.observation import observe
from sdegen.runs.sampling import draw, on_cpu
from sdegen.samplers import Sampler, Samples
from sdegen.sde.base import SDE, Score
from sdegen.training.loop import DTYPES, find_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sdegen.metrics.points import Metrics
    from sdegen.runs.drawing import Animation

LOADED = ("sde", "network", "parametrization", "dataset", "sampler")
"""The groups that sampling needs."""
FRAMES = 60
"""States of the path in an animation."""


def load(
    run: str | Path,
    *,
    checkpoint: checkpoints.Which = "last",
    weights: Literal["ema", "raw"] = "ema",
    device: str = "auto",
    precision: Literal["float32", "float64"] = "float32",
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
    settings = {"checkpoint": checkpoint, "weights": weights, "device": device, "precision": precision}
    check(settings, (), SAMPLE, trust)
    saved, folder = checkpoints.read(Path(run), checkpoint), checkpoints.resolve(Path(run))
    examine(folder, saved, trust)
    config = {**saved.config, **(nodes or {})}
    plain_options = {key: value for key, value in config.items() if key not in GROUPS}
    config |= check({**{group: config[group] for group in LOADED}, **plain_options}, LOADED, TRAIN, trust)
    config["sampler"] = paced(config["sampler"], config["sde"])
    own, network = saved.config["network"], schema.resolve(config["network"]["_target_"], trust)
    if config["network"] != own and not network.exact:  # type: ignore[attr-defined]
        raise UserError("network: a checkpoint's weights belong to its own network; only network=oracle can replace it")
    try:
        found = find_device(device)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Run(folder, saved, config, weights, found, precision, trust)


class Run:
    """A trained run, reloaded.

    Its methods take points in the user's units as tensors, NumPy arrays or lists, and return float64 tensors. One point
    without the batch axis gives a result without it.

    Attributes:
        folder: the run's folder.
        config: its configuration, plain data.
        step: the step of the checkpoint.
        sde: the forward process.
        model: the trained score in the network's units, as samplers use it, or the trained classifier.
        sampler: the sampler it will use.
        guidance: what steers the score; None for the score itself.
        units: between the network's units and the user's.
        classes: the number of classes of the data; None where they have no labels.
        weights: which weights are loaded, ``ema`` or ``raw``.
    """

    def __init__(
        self,
        folder: Path,
        saved: Checkpoint,
        config: Config,
        weights: Literal["ema", "raw"],
        device: torch.device,
        precision: str,
        trust: Sequence[str],
    ) -> None:
        self.folder, self.config, self.step, self.weights = folder, config, saved.step, weights
        self.device, self.dtype, self._trust = device, DTYPES[precision], trust
        self._data = saved.data
        self.guidance: Guidance | None = None
        self._guided_by = ""
        self.units, self.classes = restored(saved.units), saved.classes
        self.sde: SDE = construct(config, "sde", trust)
        self.sampler: Sampler = construct(config, "sampler", trust)
        network_class = schema.resolve(config["network"]["_target_"], trust)
        if found := refusals(config, {"sampler": self.sampler, "network": network_class}, trust):
            raise Faults("\n".join(found))
        exact = network_class.exact  # type: ignore[attr-defined]
        # Only an exact score needs the law, and with it the data, whose file may be gone.
        law = self.dataset.encoded_law if exact else None
        supplied = {"shape": self.units.shape, "law": law, "sde": self.sde, "classes": self.classes}
        network = make_network(config, trust, **supplied)
        if not exact:
            load_weights(network, saved.ema if weights == "ema" else saved.weights)
        moments = None if saved.moments is None else Moments(**saved.moments)  # type: ignore[arg-type]
        parametrization = construct(config, "parametrization", trust, moments=moments)
        self.model: ScoreModel | ClassifierModel = connect(network, parametrization, self.sde).to(device, self.dtype)
        self.model.eval()

    def __repr__(self) -> str:
        parts = [f"{group}={choice(self.config[group])}" for group in ("dataset", "sde", "network", "sampler")]
        guided = [f"guidance={self._guided_by}"] if self._guided_by else []
        return f"Run({', '.join([*parts, *guided])}; {self.weights_used()}; {self.folder})"

    @cached_property
    def dataset(self) -> Dataset:
        """The training data, made or read again.

        Raises:
            UserError: its file is no longer there, or holds other data.
        """
        dataset: Dataset = construct(self.config, "dataset", self._trust, seed=self.config["seed"])
        if found := difference(self._data, known_by(self.config, dataset)):
            raise UserError(f"the data are no longer those that {self.folder} was trained on: {found}")
        dataset.units = self.units
        return dataset

    @property
    def score_model(self) -> ScoreModel:
        """The trained score; raises UserError if the run holds a classifier."""
        if not isinstance(self.model, ScoreModel):
            raise UserError(f"{self.folder}: holds a classifier, not a score: it steers another run by guidance.run=")
        return self.model

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
        """Return the map between data and latents, by a solver that treats each point by itself: see :class:`Flow`.

        Args:
            rtol: relative tolerance of the solver.
            atol: absolute tolerance.
            batch_size: points computed at once.

        Raises:
            UserError: the run is guided; a guided score has no exact flow.
        """
        if self.guidance is not None:
            raise UserError(
                f"guidance={self._guided_by}: a guided run has no latents and no density: use the run itself"
            )
        return Flow(
            self.sde,
            self.score_model,
            self.units,
            Dopri5(rtol, atol, max_steps=10_000),
            batch_size=batch_size,
            device=self.device,
            dtype=self.dtype,
        )

    def encode(self, x: ArrayLike) -> Tensor:
        """Return the latents at T of points: ``(N, *)`` to ``(N, *)``."""
        batch, single = points("x", x, self.units.shape)
        latent = self.flow().encode(batch)
        return latent[0] if single else latent

    def decode(self, latent: ArrayLike) -> Tensor:
        """Return the points of latents at T, the inverse of :meth:`encode`."""
        batch, single = points("latent", latent, self.units.shape)
        x = self.flow().decode(batch)
        return x[0] if single else x

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
        batch, single = points("x", x, self.units.shape)
        check_density_of_run(lambda: self.dataset)
        log_p = self.flow().log_prob(batch, by_probes(probes, self.units.size), seed).log_p
        return log_p[0] if single else log_p

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
        check({"sampler": node}, ("sampler",), {}, self._trust)
        other = copy.copy(self)
        other.config = {**self.config, "sampler": paced(node, self.config["sde"])}
        other.sampler = construct(other.config, "sampler", self._trust)
        if found := refusals(other.config, {"sampler": other.sampler}, self._trust):
            raise Faults("\n".join(found))
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
        check({"count": count, "seed": seed, "batch_size": batch_size}, (), SAMPLE, self._trust)
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
        check({"guidance": node}, ("guidance",), {}, self._trust)
        self.check_label(node, label)
        y = None
        if self.steers(node, "observed"):
            given = None if observed is None else array("observed", observed)
            y = observe(self.units, lambda: self.dataset, node, self.measurement(node), given).y
        elif observed is not None:
            raise UserError(f"observed: guidance={name} agrees with no measurement: leave it out")
        result = copy.copy(self)
        result.guidance = self.guide(node, label, y, run if isinstance(run, Run) else None)
        result._guided_by = name if label is None else f"{name}, label={label}"
        return result

    def guide(
        self,
        node: Mapping[str, Any],
        label: int | None = None,
        observed: Tensor | None = None,
        other: Run | None = None,
    ) -> Guidance:
        """Return the guidance that a node names, ready to steer this run.

        Args:
            node: of the group ``guidance``.
            label: the class to steer towards, if it steers towards one.
            observed: the result of a measurement in the network's units, if it agrees with one.
            other: the run that the node names, if it is loaded already.

        Raises:
            UserError: it does not go with this run.
        """
        if self.steers(node, "observed"):
            linear_units(self.units, choice(node))

        precision: Literal["float32", "float64"] = "float64" if self.dtype == torch.float64 else "float32"

        def load_model(folder: str, kind: type) -> ScoreModel | ClassifierModel:
            found = other or load(folder, device=str(self.device), precision=precision, trust=self._trust)
            return self._matching(found, folder, kind)

        supplied = {"label": label, "observed": observed, "shape": self.units.shape, "load": load_model}
        guidance: Guidance = construct({"guidance": node}, "guidance", self._trust, **supplied)
        if guidance.conditional and self.model.network.label_dropout is None:
            raise UserError(
                f"guidance={choice(node)}: the network of {self.folder} does not take the class: train one with "
                f"network.label_dropout=0.1, as experiment=digits_conditional does"
            )
        if found := refusals({**self.config, "guidance": node}, {"guidance": guidance}, self._trust):
            raise Faults("\n".join(found))
        return guidance

    def check_label(self, node: Mapping[str, Any] | None, label: int | Literal["all"] | None) -> None:
        """Raise UserError if a label has no meaning for a guidance and the data.

        Args:
            node: of the guidance; None for the score itself.
            label: a class, ``all`` for each of them, None for none.
        """
        if label is None:
            return
        if node is None:
            raise UserError(
                f"label={label}: nothing steers towards a class: add guidance=classifier or classifier_free"
            )
        if not self.steers(node, "label"):
            raise UserError(f"label={label}: guidance={choice(node)} steers towards no class: leave it out")
        if self.classes is None:
            raise UserError(f"label={label}: the data of {self.folder} have no labels")
        if label != "all" and label not in range(self.classes):
            raise UserError(f"label={label} is no class of the data: choose from 0 to {self.classes - 1}")

    def steers(self, node: Mapping[str, Any], by: str) -> bool:
        """Return True if the guidance of a node steers ``by`` a ``label``, or by what was ``observed``."""
        return schema.takes(node, by, self._trust)

    def measurement(self, node: Mapping[str, Any]) -> Measurement:
        """Return the measurement inside the node of a guidance."""
        name = "guidance.measurement"
        return construct({name: node["measurement"]}, name, self._trust, shape=self.units.shape)

    def _matching(self, other: Run, folder: str, kind: type) -> ScoreModel | ClassifierModel:
        """Return the model of another run; raise UserError if it is not of a kind, or of other data or another SDE."""
        if not isinstance(other.model, kind):
            wanted = "classifier: train one with objective=classification" if kind is ClassifierModel else "score"
            raise UserError(f"guidance.run={folder}: holds no {wanted}")
        same = other.config["dataset"]["_target_"] == self.config["dataset"]["_target_"]
        if not (same and other.units.equals(self.units)):
            raise UserError(
                f"guidance.run={folder}: was trained on other data than {self.folder}: train it on the same"
            )
        if other.config["sde"] != self.config["sde"]:
            raise UserError(
                f"guidance.run={folder}: was trained with another SDE than {self.folder}: train it with the options "
                f"under sde: in {self.folder}/config.yaml"
            )
        return copy.deepcopy(other.model).to(self.device, self.dtype)

    def evaluate(self, x: ArrayLike | None = None, *, count: int = 2000, seed: int = 0) -> Metrics:
        """Return the metrics of points beside their floors.

        They are the distances of the points to the data, and for points that the user gives also ``nll``, their mean
        negative log-density under the model, if the data are vectors with a density.

        Args:
            x: the points; None for samples of this run.
            count: how many samples.
            seed: of the samples, and of random parts of the data.

        Returns:
            For each metric its ``value``, its ``floor`` (what as many points of the data would give) and the value of
            the training set, ``train``.
        """
        from sdegen.runs import measures

        if x is None:
            return measures.measure(self.dataset, self.sample(count, seed=seed).cpu(), None, self.folder)
        batch = points("x", x, self.units.shape)[0].cpu()
        found = measures.measure(self.dataset, batch, None, self.folder)
        if len(self.units.shape) == 1 and has_density(self.dataset):
            divergence, flow = by_probes(0, self.units.size), self.flow()
            found |= measures.likelihood(
                self.dataset, lambda part: flow.log_prob(part, divergence, seed).log_p, batch, seed
            )
        return found

    def draw(self, x: ArrayLike | None = None, *, count: int = 2000, seed: int = 0) -> Figure:
        """Return a figure of points beside the data.

        Args:
            x: the points; None for samples of this run.
            count: how many samples.
            seed: of the samples.
        """
        from sdegen import figures
        from sdegen.runs.drawing import show_inline

        show_inline()
        batch = self.sample(count, seed=seed) if x is None else points("x", x, self.units.shape)[0]
        return figures.compare(self.dataset, batch.cpu())

    def animate(self, count: int = 1000, *, seed: int = 0) -> Animation:
        """Return an animation of samples on their way from noise to data, which a notebook shows.

        Args:
            count: how many samples.
            seed: of the samples.
        """
        from sdegen.figures.animations import animation
        from sdegen.runs.drawing import Animation

        samples = self.generate(count, seed=seed, batch_size=count, frames=FRAMES)
        return Animation(animation(self.dataset, samples, self.sde))

    def score_on_cpu(self) -> Score:
        """Return the trained score as a function of tensors on the CPU, in the network's units."""
        return on_cpu(self.score_model, self.device, self.dtype)

    def weights_used(self) -> str:
        """Return in words which weights are loaded."""
        return "exact score" if self.model.network.exact else f"{self.weights} weights of step {self.step}"


def has_density(dataset: Dataset) -> bool:
    """Returns True if the likelihood of data has a meaning."""
    try:
        check_density(dataset)
    except UserError:
        return False
    return True


def load_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network; raise UserError where a name or a shape is missing, foreign or different."""
    try:
        network.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = textwrap.shorten(str(error), 500, placeholder=" …")
        raise UserError(f"the checkpoint's weights do not fit its network: {reason}") from None
