"""A trained run, reloaded: its score, its samples, and what they are worth."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sdegen import checkpoint as checkpoints
from sdegen import files, schema
from sdegen.assembly import GROUPS, TRAIN, Config, Faults, check, choice, connect, construct, refusals
from sdegen.checkpoint import Checkpoint
from sdegen.datasets import Dataset, Units
from sdegen.errors import UserError
from sdegen.likelihood import Flow, by_probes
from sdegen.networks import Network
from sdegen.ode import Dopri5
from sdegen.rng import SampleNoise
from sdegen.samplers import Sampler, Samples
from sdegen.score import ScoreModel
from sdegen.sde.base import SDE, Score
from sdegen.training import DTYPES, find_device

log = logging.getLogger("sdegen")

FRAMES = 101
"""States of the path kept for figures."""
SHOWN = 1000
"""Samples whose path is kept."""
LOADED = ("sde", "network", "parametrization", "dataset", "sampler")
"""The groups that sampling needs."""


def load(
    run: str | Path,
    *,
    checkpoint: int | None = None,
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
        checkpoint: the step of the checkpoint; None for the last.
        weights: ``ema``, the moving average, or ``raw``.
        device: ``auto``, ``cpu``, ``cuda``, …
        precision: of the computation.
        trust: modules whose classes the configuration may name, beside the package's own.
        nodes: nodes to put in the place of the run's own, by group: ``sampler``, and ``network`` for the oracle.

    Raises:
        UserError: the folder, the checkpoint or its configuration is not what it should be.
    """
    path = checkpoints.find(Path(run), checkpoint)
    saved = checkpoints.load(path)
    config = {**plain(saved.config), **(nodes or {})}
    plain_options = {key: value for key, value in config.items() if key not in GROUPS}
    config |= check({**{group: config[group] for group in LOADED}, **plain_options}, LOADED, TRAIN, trust)
    own, network = saved.config["network"], schema.resolve(config["network"]["_target_"], trust)
    if config["network"] != own and not network.exact:  # type: ignore[attr-defined]
        raise UserError("network: a checkpoint's weights belong to its own network; only network=oracle can replace it")
    try:
        found = find_device(device)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Run(checkpoints.resolve(Path(run)), saved, config, weights, found, precision, trust)


class Run:
    """A trained run, reloaded.

    Attributes:
        folder: the run's folder.
        config: its configuration, plain data.
        step: the step of the checkpoint.
        sde: the forward process.
        model: the trained score in the network's units, as samplers use it; :meth:`score` is in the user's.
        sampler: the sampler it will use.
        units: between the network's units and the user's.
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
        self.units = Units(**saved.units)
        self.sde: SDE = construct(config, "sde", trust)
        self.sampler: Sampler = construct(config, "sampler", trust)
        network_class = schema.resolve(config["network"]["_target_"], trust)
        if found := refusals(config, {"sampler": self.sampler, "network": network_class}, trust):
            raise Faults("\n".join(found))
        exact = network_class.exact  # type: ignore[attr-defined]
        # Only an exact score needs the law, and with it the data, whose file may be gone.
        law = self.dataset.encoded_law if exact else None
        with torch.random.fork_rng(devices=[]):
            network = construct(config, "network", trust, shape=self.units.shape, law=law, sde=self.sde)
        if not exact:
            load_weights(network, saved.ema if weights == "ema" else saved.weights)
        self.model = connect(network, construct(config, "parametrization", trust), self.sde).to(device, self.dtype)

    @cached_property
    def dataset(self) -> Dataset:
        """The training data, made or read again.

        Raises:
            UserError: its file is no longer there.
        """
        dataset: Dataset = construct(self.config, "dataset", self._trust, seed=self.config["seed"])
        dataset.units = self.units
        return dataset

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        r"""∇ log p_t in the user's units, float64: what samples are pulled by at time t.

        With ``x = shift + scale * x'``, the score of x is that of x' over ``scale``.

        Args:
            x: ``(B, *)``, in the user's units.
            t: a number, or ``()`` or ``(B,)``.
        """
        t = torch.as_tensor(t, device=self.device, dtype=self.dtype)
        with torch.no_grad():
            inner = self.model(self.units.encode(x).to(self.device, self.dtype), t)
        return inner.double() / self.units.scale.to(self.device)

    def flow(self, *, rtol: float = 1e-5, atol: float = 1e-5, batch_size: int = 1000) -> Flow:
        """The map between data and latents, by a solver that treats each point by itself: see :class:`Flow`.

        Args:
            rtol: relative tolerance of the solver.
            atol: absolute tolerance.
            batch_size: points computed at once.
        """
        self.model.eval()
        solver = Dopri5(rtol, atol, max_steps=10_000)
        return Flow(
            self.sde, self.model, self.units, solver, batch_size=batch_size, device=self.device, dtype=self.dtype
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
            x: the points.
            probes: of the divergence, exact for 0; their standard error is in :meth:`Flow.log_prob`.
            seed: of the probes.
        """
        return self.flow().log_prob(x, by_probes(probes, self.units.shift.numel()), seed).log_p

    def sample(self, count: int, *, seed: int = 0, batch_size: int = 1000) -> Tensor:
        """``count`` samples in the user's units, ``(count, *)`` float64, on the run's device."""
        return self.units.decode(self.generate(count, seed=seed, batch_size=batch_size).x)

    def generate(self, count: int, *, seed: int = 0, batch_size: int = 1000, frames: int = 0) -> Samples:
        """Samples in the network's units, with the number of evaluations and the path: see :func:`draw`."""
        return draw(
            self.sde,
            self.model,
            self.sampler,
            self.units,
            count,
            seed=seed,
            batch_size=batch_size,
            device=self.device,
            dtype=self.dtype,
            frames=frames,
        )

    def write(self, count: int, *, seed: int = 0, batch_size: int = 1000) -> Written:
        """Sample, measure and draw into ``samples/<number>-<sampler>/`` of the run's folder."""
        from sdegen import figures, metrics

        name = choice(self.config["sampler"])
        log.info(f"sampling {count} by {name}, {self.weights_used()}")
        started = time.perf_counter()
        vectors = len(self.units.shape) == 1
        samples = self.generate(count, seed=seed, batch_size=batch_size, frames=FRAMES if vectors else 0)
        seconds = time.perf_counter() - started
        x = self.units.decode(samples.x).cpu()
        nfe = f"{samples.nfe:.0f}" if samples.nfe == round(samples.nfe) else f"on average {samples.nfe:.1f}"
        accepted = "" if samples.acceptance is None else f", {samples.acceptance:.1%} of the corrector's moves accepted"
        log.info(f"{nfe} evaluations a sample, {seconds:.1f} s{accepted}")
        with files.new_folder(self.folder / "samples", name) as (folder, final):
            files.write_yaml(
                folder / "config.yaml",
                {
                    "step": self.step,
                    "weights": self.weights,
                    "seed": seed,
                    "batch_size": batch_size,
                    "sampler": self.config["sampler"],
                    "network": self.config["network"],
                },
            )
            files.write_samples(folder, x, nfe=samples.nfe, seconds=seconds, seed=seed, step=self.step)
            found: dict[str, dict[str, Any]] = {}
            try:
                dataset = self.dataset
            except UserError as error:
                log.warning(f"no metrics and no figures: {error}")
            else:
                found = metrics.measure(dataset, x)
                off = metrics.score_error(dataset, self.sde, on_cpu(self.model, self.device, self.dtype))
                if off is not None:
                    found["score_error"] = {"value": off, "floor": 0.0, "train": None, "floor_from": "exact score"}
                files.write_json(folder / "metrics.json", found)
                figures.save(figures.compare(dataset, x), folder / "figures" / "samples.png")
                if vectors:
                    for draw_figure in (figures.marginals, figures.trajectories):
                        figure = draw_figure(dataset, samples, self.sde)
                        figures.save(figure, folder / "figures" / f"{draw_figure.__name__}.png")
                log.info(metrics.table(found))
        return Written(final, found, samples.nfe, seconds)

    def weights_used(self) -> str:
        """Which score it is, in words."""
        if self.model.network.exact:
            return "exact score"
        return f"{self.weights} weights of step {self.step}"


class Written(NamedTuple):
    """What sampling left on the disk."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    nfe: float
    seconds: float


def draw(
    sde: SDE,
    model: ScoreModel,
    sampler: Sampler,
    units: Units,
    count: int,
    *,
    seed: int = 0,
    batch_size: int = 1000,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    frames: int = 0,
) -> Samples:
    """Samples 0 to ``count`` of a seed, in the network's units.

    Sample i depends on (seed, i) alone, not on the batch it is computed in (but for SciPy's RK45).

    Args:
        sde: the forward process.
        model: the score.
        sampler: carries the prior to data.
        units: tell the shape of a sample.
        count: how many.
        seed: of the samples; unrelated to the seed of the training.
        batch_size: samples computed at once; bounds the memory.
        device: where to compute.
        dtype: of the computation.
        frames: states of the path to keep, for the first :data:`SHOWN` samples of the first batch.
    """
    if count < 1 or batch_size < 1:
        raise ValueError(f"count={count} and batch_size={batch_size} must be at least 1")
    was_training = model.training
    model.eval()
    batches: list[Samples] = []
    try:
        with torch.no_grad():
            for start in range(0, count, batch_size):
                stop = min(start + batch_size, count)
                noise = SampleNoise(seed, start, stop, units.shape, device)
                like = torch.empty(stop - start, *units.shape, device=device, dtype=dtype)
                prior = sde.sample_prior(like, noise)
                batches.append(sampler(sde, model, prior, noise=noise, frames=frames if start == 0 else 0))
    finally:
        model.train(was_training)
    x = torch.cat([batch.x for batch in batches])
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if broken:
        raise UserError(f"{broken} of {count} samples are not finite: try more sampler.steps, or another sampler")
    nfe = sum(batch.nfe * len(batch.x) for batch in batches) / count
    accepted = [batch.acceptance * len(batch.x) for batch in batches if batch.acceptance is not None]
    acceptance = sum(accepted) / count if accepted else None
    return Samples(x, nfe, batches[0].path[:, :SHOWN], batches[0].times, acceptance)


def plain(config: Config) -> Config:
    """A checkpoint's configuration, refused where it holds an interpolation.

    Raises:
        UserError: it does.
    """
    try:
        text = repr(config)
    except RecursionError:
        raise UserError("the checkpoint's configuration is refused: it is nested too deeply") from None
    if "${" in text:
        raise UserError("the checkpoint's configuration is refused: it holds an interpolation, ${…}")
    missing = [group for group in (*GROUPS, "seed") if group not in config]
    if missing:
        raise UserError(f"the checkpoint's configuration is refused: it has no {', '.join(missing)}")
    return config


def load_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network; UserError where a name or a shape is missing, foreign or different."""
    try:
        network.load_state_dict(weights, strict=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint's weights do not fit its network: {reason}") from None


def on_cpu(model: ScoreModel, device: torch.device, dtype: torch.dtype) -> Score:
    """A score that takes and gives tensors of the CPU."""
    return lambda x, t: model(x.to(device, dtype), t.to(device, dtype)).cpu()
