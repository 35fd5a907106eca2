"""From a configuration to a run: build the parts, train them, reload them, sample from them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sdegen import checkpoint as checkpoints
from sdegen import files, schema
from sdegen.checkpoint import Checkpoint
from sdegen.datasets import Dataset, Units
from sdegen.errors import UserError
from sdegen.networks import Network
from sdegen.networks.oracle import Oracle
from sdegen.objective import Objective
from sdegen.optimizer import Optimizer
from sdegen.rng import SampleNoise, derive
from sdegen.samplers import Sampler, Samples
from sdegen.score import Parametrization, Raw, ScoreModel
from sdegen.sde.base import SDE, LinearSDE
from sdegen.times import TimeSampler
from sdegen.training import DTYPES, Stream, Trainer, Training, find_device
from sdegen.weighting import Weighting

log = logging.getLogger("sdegen")

Config = dict[str, Any]

GROUPS: dict[str, type] = {
    "sde": SDE,
    "network": Network,
    "parametrization": Parametrization,
    "dataset": Dataset,
    "objective": Objective,
    "weighting": Weighting,
    "times": TimeSampler,
    "optimizer": Optimizer,
    "trainer": Trainer,
    "sampler": Sampler,
}
"""The groups of a configuration and the class that every node of a group must be."""

COUNT = 2000
"""Samples drawn and measured at the end of a training."""
FRAMES = 101
"""States of the path kept for figures."""
PREVIEWED = 1000
"""Samples of a preview, and samples whose path is kept."""
LOADED = ("sde", "network", "parametrization", "dataset", "sampler")
"""The groups that sampling needs."""


TRAIN = {"name": str, "seed": int, "trust": tuple[str, ...], "resume": str | None}
"""The options of train.yaml beside its groups."""
SAMPLE = {
    "run": str,
    "checkpoint": int | None,
    "weights": Literal["ema", "raw"],
    "count": int,
    "batch_size": int,
    "seed": int,
    "device": str,
    "precision": Literal["float32", "float64"],
    "trust": tuple[str, ...],
}
"""The options of sample.yaml beside its groups."""


class Faults(UserError):
    """All that is wrong with a configuration, a line each."""


class Experiment(NamedTuple):
    """The parts of a run, wired."""

    config: Config
    dataset: Dataset
    sde: LinearSDE
    model: ScoreModel
    objective: Objective
    weighting: Weighting
    times: TimeSampler
    optimizer: Optimizer
    trainer: Trainer
    sampler: Sampler


def check(config: Config, groups: Sequence[str], types: Mapping[str, Any], trust: Sequence[str]) -> None:
    """Raise :class:`Faults` with all that is wrong with a configuration; nothing is built.

    Args:
        config: the configuration, plain.
        groups: the groups it must have.
        types: its other options, and their types.
        trust: modules whose classes the nodes may name.
    """
    found = schema.option_faults({key: value for key, value in config.items() if key not in groups}, types)
    for group in groups:
        found += schema.faults(config.get(group), GROUPS[group], group, trust)
    if not re.fullmatch(r"\w[\w.+-]*", str(config.get("name", "run"))):
        found.append(f"name: {config['name']!r} names a folder: use letters, digits, _ . + and - only")
    found += [
        f"{key}: must be at least 1, not {config[key]}" for key in ("count", "batch_size") if _below_1(config.get(key))
    ]
    if found:
        raise Faults("\n".join(found))


def build(config: Config, trust: Sequence[str] = schema.ANYTHING) -> Experiment:
    """Build the parts that a configuration names.

    The configuration of the result has ``auto`` replaced by the measured values.

    Raises:
        Faults: what is wrong with the configuration, all of it, a line each.
    """
    check(config, tuple(GROUPS), TRAIN, trust)
    found: list[str] = []

    def part(group: str, **supplied: object) -> Any:  # noqa: ANN401
        try:
            return schema.construct(config[group], trust, **supplied)
        except ValueError as error:
            found.append(_named(group, config[group], error))

    dataset: Dataset | None = part("dataset", seed=config["seed"])
    plain = {group: part(group) for group in GROUPS if group not in ("dataset", "sde", "network")}
    if dataset is None:
        part("sde")
        raise Faults("\n".join(found))
    config = {**config, "sde": _measured(config["sde"], dataset, trust)}
    sde: LinearSDE | None = part("sde")
    if sde is None:
        raise Faults("\n".join(found))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config["seed"], "network"))
        law = None if dataset.law is None else dataset.law.affine(*dataset.units)
        network = part("network", shape=dataset.units.shape, law=law, sde=sde)
    if found:
        raise Faults("\n".join(found))
    parametrization = plain.pop("parametrization")
    return Experiment(config, dataset, sde, connect(network, parametrization, sde), **plain)


def connect(network: Network, parametrization: Parametrization, sde: LinearSDE) -> ScoreModel:
    """A network read as a score. The oracle's output is the score already."""
    return ScoreModel(network, Raw() if isinstance(network, Oracle) else parametrization, sde)


def train(
    config: Config,
    folder: Path,
    *,
    trust: Sequence[str] = schema.ANYTHING,
    resume: Checkpoint | None = None,
    command: str = "",
) -> Run:
    """Train into a run's folder, then sample, measure and draw there.

    Args:
        config: a configuration of train.yaml, resolved, plain.
        folder: the run's folder.
        trust: modules whose classes the configuration may name; any, where the user has composed it himself.
        resume: where to go on, from the same folder.
        command: the command line, for the record.

    Returns:
        The trained run, as :func:`load` gives it.
    """
    # Late: TensorBoard and matplotlib cost seconds for which an error in the configuration need not wait.
    from sdegen import figures, metrics
    from sdegen.recorder import Recorder

    parts = build(config, trust)
    trainer, dataset = parts.trainer, parts.dataset
    torch.set_num_threads(trainer.threads)
    dtype = DTYPES[trainer.precision]
    model = parts.model.to(trainer.device, dtype)
    x = dataset.units.encode(dataset.x).to(trainer.device, dtype)
    trainable = any(p.requires_grad for p in model.parameters())
    steps = trainer.total(len(x)) if trainable else 0
    stream = Stream(config["seed"], x, trainer.batch_size, parts.objective, parts.weighting, parts.times, model)
    training = Training(model, parts.objective, parts.optimizer, trainer, stream, steps)
    if resume is None:
        provenance = files.provenance(command)
        files.write_yaml(folder / "config.yaml", parts.config)
        files.write_json(folder / "provenance.json", provenance)
    else:
        provenance = resume.provenance
        restore(training, resume)
        if training.step >= steps:
            raise UserError(
                f"resume={folder}: all {steps} steps are taken: ask for more with trainer.steps= or trainer.epochs="
            )
    checkpoints.point_latest(folder)

    def save() -> None:
        checkpoints.save(
            Checkpoint(
                config=parts.config,
                step=training.step,
                weights=training.model.network.state_dict(),
                ema=training.average.network.state_dict(),
                optimizer=training.optimizer.state_dict(),
                units=dataset.units._asdict(),
                provenance=provenance,
            ),
            folder / "checkpoints",
        )

    def preview() -> None:
        samples = draw(
            parts.sde, training.average, parts.sampler, dataset.units, PREVIEWED, device=trainer.device, dtype=dtype
        )
        recorder.figure(training.step, "samples", figures.compare(dataset, dataset.units.decode(samples.x)))
        error = metrics.score_error(dataset, parts.sde, _moved(training.average, trainer.device, dtype))
        if error is not None:
            recorder.scalars(training.step, {"metrics/score_error": error})

    with files.logging_to(folder / "train.log"):
        if trainer.precision == "bfloat16" and len(dataset.units.shape) == 1:
            log.warning(
                "trainer.precision=bfloat16 rounds coordinates to 2^-8 of their size, far above the noise at small t: "
                "points want float32"
            )
        size = sum(p.numel() for p in model.parameters())
        task = f"training {size} parameters, steps {training.step} to {steps}" if trainable else "the score is exact"
        log.info(f"{folder}: {task}, on {trainer.device}")
        recorder = Recorder(folder, training.step, steps)
        try:
            if trainable:
                training.run(recorder.progress, save, preview)
                log.info(f"trained in {training.seconds:.1f} s, without previews and checkpoints")
            else:
                save()
            result = load(folder, device=str(trainer.device), trust=trust)
            written = result.write(COUNT, seed=config["seed"])
            recorder.scalars(steps, {f"metrics/{name}": entry["value"] for name, entry in written.metrics.items()})
        finally:
            recorder.close()
        cost = {"steps": training.step, "seconds": training.seconds, "peak_memory_mib": files.peak_memory_mib()}
        files.write_json(folder / "provenance.json", {**provenance, "training": cost})
        files.copy(written.folder / "metrics.json", folder / "metrics.json")
        files.copy(written.folder / "figures", folder / "figures")
    return result


def restore(training: Training, saved: Checkpoint) -> None:
    """Put a checkpoint's state into a training, strictly."""
    _load_weights(training.model.network, saved.weights)
    _load_weights(training.average.network, saved.ema)
    training.optimizer.load_state_dict(saved.optimizer)
    training.step = saved.step


def draw(
    sde: LinearSDE,
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
        frames: states of the path to keep, for the first :data:`PREVIEWED` samples of the first batch.
    """
    model.eval()
    batches: list[Samples] = []
    with torch.no_grad():
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            noise = SampleNoise(seed, start, stop, units.shape, device)
            like = torch.empty(stop - start, *units.shape, device=device, dtype=dtype)
            prior = sde.sample_prior(like, noise)
            batches.append(sampler(sde, model, prior, noise=noise, frames=frames if start == 0 else 0))
    model.train()
    x = torch.cat([batch.x for batch in batches])
    broken = int((~x.flatten(1).isfinite().all(1)).sum())
    if broken:
        raise UserError(f"{broken} of {count} samples are not finite: try more sampler.steps, or another sampler")
    nfe = sum(batch.nfe * len(batch.x) for batch in batches) / count
    return Samples(x, nfe, batches[0].path[:, :PREVIEWED], batches[0].times)


class Written(NamedTuple):
    """What sampling left on the disk."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    nfe: float
    seconds: float


class Run:
    """A trained run, reloaded.

    Attributes:
        folder: the run's folder.
        config: its configuration, plain data.
        step: the step of the checkpoint.
        sde: the forward process.
        score: the trained score, ``(x, t) -> ∇ log p_t(x)``, in the network's units.
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
        self.sde: LinearSDE = _part(config, "sde", trust)
        self.sampler: Sampler = _part(config, "sampler", trust)
        oracle = schema.resolve(config["network"]["_target_"], trust) is Oracle
        law = self.dataset.law.affine(*self.units) if oracle and self.dataset.law is not None else None
        network = _part(config, "network", trust, shape=self.units.shape, law=law, sde=self.sde)
        if not oracle:
            _load_weights(network, saved.ema if weights == "ema" else saved.weights)
        self.score = connect(network, _part(config, "parametrization", trust), self.sde).to(device, self.dtype)

    @cached_property
    def dataset(self) -> Dataset:
        """The training data, made or read again.

        Raises:
            UserError: its file is no longer there.
        """
        dataset: Dataset = _part(self.config, "dataset", self._trust, seed=self.config["seed"])
        dataset.units = self.units
        return dataset

    def sample(self, count: int, *, seed: int = 0, batch_size: int = 1000) -> Tensor:
        """``count`` samples in the user's units, ``(count, *)`` float64, on the run's device."""
        return self.units.decode(self.generate(count, seed=seed, batch_size=batch_size).x)

    def generate(self, count: int, *, seed: int = 0, batch_size: int = 1000, frames: int = 0) -> Samples:
        """Samples in the network's units, with the number of evaluations and the path: see :func:`draw`."""
        return draw(
            self.sde,
            self.score,
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

        started = time.perf_counter()
        samples = self.generate(count, seed=seed, batch_size=batch_size, frames=FRAMES)
        seconds = time.perf_counter() - started
        x = self.units.decode(samples.x).cpu()
        name = sampler_name(self.config["sampler"])
        log.info(
            f"{count} samples by {name}, {self._weights_used()}: {samples.nfe:g} evaluations each, {seconds:.1f} s"
        )
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
                off = metrics.score_error(dataset, self.sde, _moved(self.score, self.device, self.dtype))
                if off is not None:
                    found["score_error"] = {"value": off, "floor": 0.0, "train": None, "floor_from": "exact score"}
                files.write_json(folder / "metrics.json", found)
                figures.save(figures.compare(dataset, x), folder / "figures" / "samples.png")
                figures.save(figures.marginals(dataset, samples, self.sde), folder / "figures" / "marginals.png")
                if len(self.units.shape) == 1:
                    paths = figures.trajectories(dataset, samples, self.sde)
                    figures.save(paths, folder / "figures" / "trajectories.png")
                log.info(metrics.table(found))
        return Written(final, found, samples.nfe, seconds)

    def _weights_used(self) -> str:
        if isinstance(self.score.network, Oracle):
            return "exact score"
        return f"{self.weights} weights of step {self.step}"


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
    check({group: config[group] for group in LOADED}, LOADED, {}, trust)
    own = saved.config["network"]
    if config["network"] != own and schema.resolve(config["network"]["_target_"], trust) is not Oracle:
        raise UserError("network: a checkpoint's weights belong to its own network; only network=oracle can replace it")
    try:
        found = find_device(device)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Run(checkpoints.resolve(Path(run)), saved, config, weights, found, precision, trust)


def plain(config: Config) -> Config:
    """A checkpoint's configuration, refused where it holds an interpolation.

    Raises:
        UserError: it does.
    """
    if "${" in repr(config):
        raise UserError("the checkpoint's configuration is refused: it holds an interpolation, ${…}")
    missing = [group for group in (*GROUPS, "seed") if group not in config]
    if missing:
        raise UserError(f"the checkpoint's configuration is refused: it has no {', '.join(missing)}")
    return config


def sampler_name(node: Mapping[str, Any]) -> str:
    """A short name for a sampler's node: its predictor and corrector, or its own class."""
    parts = [node[key] for key in ("predictor", "corrector") if node.get(key)] or [node]
    return "-".join(files.snake_case(part["_target_"].rpartition(".")[2]) for part in parts)


def _below_1(value: object) -> bool:
    return isinstance(value, int) and value < 1


def _part(config: Config, group: str, trust: Sequence[str], **supplied: object) -> Any:  # noqa: ANN401
    try:
        return schema.construct(config[group], trust, **supplied)
    except ValueError as error:
        raise Faults(_named(group, config[group], error)) from None


def _named(group: str, node: Mapping[str, Any], error: ValueError) -> str:
    """A constructor's complaint, with the full path of the option it begins with."""
    option = re.match(r"\w*", str(error))
    return f"{group}.{error}" if option and option[0] in node else f"{group}: {error}"


def _measured(node: Mapping[str, Any], dataset: Dataset, trust: Sequence[str]) -> dict[str, Any]:
    """A node of the SDE whose options left to ``auto`` are measured on the data."""
    auto = [key for key, value in node.items() if value == "auto"]
    if not auto:
        return dict(node)
    values = schema.resolve(node["_target_"], trust).measure(dataset.units.encode(dataset.x))  # type: ignore[attr-defined]
    return {**node, **{key: values[key] for key in auto}}


def _load_weights(network: Network, weights: Mapping[str, Tensor]) -> None:
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the checkpoint's weights do not fit its network: {reason}") from None


def _moved(model: ScoreModel, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """A score that takes and gives tensors of the CPU."""
    return lambda x, t: model(x.to(device, dtype), t.to(device, dtype)).cpu()
