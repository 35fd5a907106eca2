"""A trained run, reloaded: its score, its samples, and what they are worth."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sdegen.config.automatic import with_steps_of_chain
from sdegen.config.checks import Faults, check
from sdegen.config.components import known_by
from sdegen.config.compose import Config
from sdegen.config.construction import connect, construct, make_network
from sdegen.config.options import GROUPS, TRAIN
from sdegen.config.remedies import choice, refusals
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.datasets import Dataset, restored
from sdegen.datasets.fingerprint import difference
from sdegen.flow.density import check_density_of_run
from sdegen.flow.divergence import by_probes
from sdegen.flow.likelihood import Flow
from sdegen.flow.solvers import DormandPrince
from sdegen.guidance.classes import Guidance
from sdegen.guidance.measurement import Measurement, linear_units
from sdegen.models.classifier import ClassifierModel
from sdegen.models.moments import Moments
from sdegen.models.score import ScoreModel
from sdegen.networks import Network
from sdegen.runs import checkpoint as checkpoints
from sdegen.runs.checkpoint import Checkpoint, examine
from sdegen.runs.sampling import draw
from sdegen.samplers import Sampler, Samples
from sdegen.sde.base import SDE, Score
from sdegen.training.trainer import DTYPES, find_device

LOADED = ("sde", "network", "parametrization", "dataset", "sampler")
"""The groups that sampling needs."""


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
        nodes: nodes to put in the place of the run's own, by group: ``sampler``, and ``network`` for the oracle.

    Raises:
        UserError: the folder, the checkpoint or its configuration is not what it should be.
    """
    saved, folder = checkpoints.read(Path(run), checkpoint), checkpoints.resolve(Path(run))
    examine(folder, saved, trust)
    config = {**saved.config, **(nodes or {})}
    plain_options = {key: value for key, value in config.items() if key not in GROUPS}
    config |= check({**{group: config[group] for group in LOADED}, **plain_options}, LOADED, TRAIN, trust)
    config["sampler"] = with_steps_of_chain(config["sampler"], config["sde"])
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

    Attributes:
        folder: the run's folder.
        config: its configuration, plain data.
        step: the step of the checkpoint.
        sde: the forward process.
        model: the trained score in the network's units, as samplers use it; :meth:`score` is in the user's. Or the
            trained classifier.
        sampler: the sampler it will use.
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
        """The trained score; UserError where the run holds a classifier."""
        if not isinstance(self.model, ScoreModel):
            raise UserError(f"{self.folder}: holds a classifier, not a score: it steers another run by guidance.run=")
        return self.model

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """∇ log p_t of what is decoded, in the user's units, float64: what samples are pulled by at time t.

        Args:
            x: ``(B, *)``, in the user's units.
            t: a number, or ``()`` or ``(B,)``.
        """
        t = torch.as_tensor(t, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            inner = self.score_model(self.units.encode(x).to(self.device, self.dtype), t)
        return self.units.score(x.to(self.device), inner)

    def flow(self, *, rtol: float = 1e-5, atol: float = 1e-5, batch_size: int = 1000) -> Flow:
        """The map between data and latents, by a solver that treats each point by itself: see :class:`Flow`.

        Args:
            rtol: relative tolerance of the solver.
            atol: absolute tolerance.
            batch_size: points computed at once.
        """
        solver = DormandPrince(rtol, atol, max_steps=10_000)
        return Flow(
            self.sde, self.score_model, self.units, solver, batch_size=batch_size, device=self.device, dtype=self.dtype
        )

    def encode(self, x: Tensor) -> Tensor:
        """The latents at T of points in the user's units: ``(N, *)`` to ``(N, *)`` float64."""
        return self.flow().encode(x)

    def decode(self, latent: Tensor) -> Tensor:
        """The points, in the user's units, of latents at T; the inverse of :meth:`encode`."""
        return self.flow().decode(latent)

    def interpolate(self, a: Tensor, b: Tensor, n: int) -> Tensor:
        """``n`` points from ``a`` to ``b``, one point each, through their latents: ``(n, *)`` in the user's units."""
        return self.flow().interpolate(a, b, n)

    def log_prob(self, x: Tensor, *, probes: int = 0, seed: int = 0) -> Tensor:
        """The log-density of the model at points, in nats, both in the user's units: ``(N, *)`` to ``(N,)`` float64.

        Args:
            x: the points; UserError where the run's data have no density, a warning where these are gone.
            probes: of the divergence, exact for 0; their standard error is in :meth:`Flow.log_prob`.
            seed: of the probes.
        """
        check_density_of_run(lambda: self.dataset)
        return self.flow().log_prob(x, by_probes(probes, self.units.size), seed).log_p

    def sample(self, count: int, *, seed: int = 0, batch_size: int = 1000, guidance: Guidance | None = None) -> Tensor:
        """``count`` samples in the user's units, ``(count, *)`` float64, on the run's device.

        Args:
            count: how many.
            seed: sample i depends on (seed, i) alone, where the sampler does not couple the samples of a batch.
            batch_size: samples computed at once.
            guidance: steers them, as :meth:`guide` gives it.
        """
        return self.units.decode(self.generate(count, seed=seed, batch_size=batch_size, guidance=guidance).x)

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
        """Samples in the network's units, with the number of evaluations and the path: see :func:`draw`."""
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
            guidance=guidance,
            first=first,
        )

    def guide(self, node: Mapping[str, Any], label: int | None = None, observed: Tensor | None = None) -> Guidance:
        """The guidance that a node names, ready to steer this run.

        Args:
            node: of the group ``guidance``.
            label: the class to steer towards, where it steers towards one.
            observed: the measurement to agree with, in the network's units, where it agrees with one.

        Raises:
            UserError: it does not go with this run.
        """
        if self.steers(node, "observed"):
            linear_units(self.units, choice(node))
        supplied = {"label": label, "observed": observed, "shape": self.units.shape, "load": self._model_of}
        guidance: Guidance = construct({"guidance": node}, "guidance", self._trust, **supplied)
        if guidance.conditional and self.model.network.label_dropout is None:
            raise UserError(
                f"guidance={choice(node)}: the network of {self.folder} is not told the class: train one with "
                f"network.label_dropout=0.1, as experiment=digits_conditional does"
            )
        if found := refusals({**self.config, "guidance": node}, {"guidance": guidance}, self._trust):
            raise Faults("\n".join(found))
        return guidance

    def steers(self, node: Mapping[str, Any], by: str) -> bool:
        """Whether the guidance of a node steers ``by`` a ``label``, or by what was ``observed``."""
        return schema.takes(node, by, self._trust)

    def measurement(self, node: Mapping[str, Any]) -> Measurement:
        """The measurement inside the node of a guidance."""
        name = "guidance.measurement"
        return construct({name: node["measurement"]}, name, self._trust, shape=self.units.shape)

    def _model_of(self, folder: str, kind: type) -> ScoreModel | ClassifierModel:
        """The model of another run, of the same data and process; UserError where it is not of a kind."""
        precision: Literal["float32", "float64"] = "float64" if self.dtype == torch.float64 else "float32"
        other = load(folder, device=str(self.device), precision=precision, trust=self._trust)
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
        return other.model

    def weights_used(self) -> str:
        """Which model it is, in words."""
        return "exact score" if self.model.network.exact else f"{self.weights} weights of step {self.step}"


def load_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network; UserError where a name or a shape is missing, foreign or different."""
    try:
        network.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = textwrap.shorten(str(error), 500, placeholder=" …")
        raise UserError(f"the checkpoint's weights do not fit its network: {reason}") from None


def on_cpu(model: ScoreModel, device: torch.device, dtype: torch.dtype) -> Score:
    """A score that takes and gives tensors of the CPU."""
    return lambda x, t: model(x.to(device, dtype), t.to(device, dtype)).cpu()
