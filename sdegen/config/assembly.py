"""From a configuration to objects: check every node, build the parts, wire them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from sdegen.core import schema
from sdegen.core.errors import NO_MEMORY, UserError
from sdegen.core.randomness import generator, own_layers
from sdegen.datasets import Dataset
from sdegen.datasets.base import memory
from sdegen.datasets.fingerprint import fingerprint
from sdegen.guidance.classes import Guidance
from sdegen.models.classifier import ClassifierModel
from sdegen.models.moments import Moments
from sdegen.models.score import Parametrization, Raw, ScoreModel
from sdegen.networks import Network
from sdegen.networks.base import at_most
from sdegen.samplers import Sampler
from sdegen.sde.base import SDE, LinearSDE
from sdegen.training.batches import Points, Stream
from sdegen.training.gradient import ONE_BY_ONE, Gradient, choose
from sdegen.training.held_out import HeldOut
from sdegen.training.loop import DTYPES, Trainer, Training, enough
from sdegen.training.objective import Objective
from sdegen.training.optimizer import Optimizer
from sdegen.training.times import TimeSampler
from sdegen.training.weighting import Weighting

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

NODES: dict[str, type] = {**GROUPS, "guidance": Guidance}
"""These, and those that are chosen when a run is sampled."""

KERNEL = ("network", "parametrization", "objective", "weighting", "times", "sampler")
"""The groups whose classes say by ``kernel`` whether they work with an SDE that has no closed-form kernel."""

TRAIN = {"name": str, "seed": int, "count": int, "trust": tuple[str, ...], "resume": str | None, "forecast": bool}
"""The options of train.yaml beside its groups."""
SAMPLE = {
    "run": str,
    "checkpoint": int | Literal["last", "best"],
    "weights": Literal["ema", "raw"],
    "count": int,
    "batch_size": int,
    "seed": int,
    "label": int | Literal["all"] | None,
    "animate": bool,
    "device": str,
    "precision": Literal["float32", "float64"],
    "trust": tuple[str, ...],
}
"""The options of sample.yaml beside its groups."""
METRIC = Literal["likelihood", "interpolation"]
EVALUATE = {
    **{option: kind for option, kind in SAMPLE.items() if option not in ("label", "animate")},
    "metrics": METRIC | tuple[METRIC, ...],
    "probes": int,
    "rtol": float,
    "atol": float,
}
"""The options of evaluate.yaml beside its group."""


MOST = 10**9
"""Samples that may be asked for: more would be no use to anybody, and never come to an end."""
COPIES = 5
"""Of the weights of a network, while it is trained: they, their gradient, two moments and the average."""
MEASURED = 5000
"""Points on which an option left to ``auto`` is measured: of more, a random part."""


class Faults(UserError):
    """All that is wrong with a configuration, a line each."""


class Experiment(NamedTuple):
    """The parts of a run, wired."""

    config: Config
    dataset: Dataset
    moments: Moments | None
    sde: SDE
    model: ScoreModel | ClassifierModel
    gradient: Gradient
    objective: Objective
    weighting: Weighting
    times: TimeSampler
    optimizer: Optimizer
    trainer: Trainer
    sampler: Sampler

    def held_out(self) -> HeldOut:
        """The loss on points that it is not trained on, on the trainer's device."""
        trainer = self.trainer
        return HeldOut(
            self.dataset,
            self.config["seed"],
            trainer.batch_size,
            self.objective,
            self.weighting,
            self.times,
            self.sde,
            trainer.device,
            DTYPES[trainer.precision],
        )

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint of the data; of all bytes where they were read from a file."""
        return known_by(self.config, self.dataset)

    def training(self) -> Training:
        """The training before its first step: see :func:`together`."""
        return together([self])


def together(parts: Sequence[Experiment]) -> Training:
    """The training of runs that differ in their seeds, before its first step, on the trainer's device.

    Of no steps where there is nothing to train.
    """
    first, trainer = parts[0], parts[0].trainer
    device, dtype = trainer.device, DTYPES[trainer.precision]
    models = [one.model.to(device, dtype) for one in parts]
    trainable = any(p.requires_grad for p in models[0].parameters())
    dropout = first.model.network.label_dropout
    points = [Points(one.config["seed"], one.dataset, trainer.batch_size, dropout, device, dtype) for one in parts]
    prepare, apart = first.gradient.prepare, not (first.gradient.rowwise and first.times.rowwise)
    stream = Stream(points, prepare, first.weighting, first.times, first.sde, apart)
    steps = trainer.total(len(first.dataset.x)) if trainable else 0
    torch.set_num_threads(trainer.threads_for(work(parts)))
    return Training(models, first.gradient, first.optimizer, trainer, stream, steps)


def work(parts: Sequence[Experiment]) -> float:
    """Multiplications and additions of a pass of a step's rows, or those of a chunk of it, through the networks."""
    first = parts[0]
    rows = min(first.trainer.batch_size, len(first.dataset.x)) * first.times.chunk * len(parts)
    return 0.0 if first.model.network.exact else rows * first.model.network.work(first.dataset.units.shape)


def check(config: Config, groups: Sequence[str], types: Mapping[str, Any], trust: Sequence[str]) -> Config:
    """The configuration with its plain options in their types, such as 1e3 for an integer; nothing is built.

    Args:
        config: the configuration, plain.
        groups: the groups it must have.
        types: its other options, and their types.
        trust: modules whose classes the nodes may name.

    Raises:
        Faults: all that is wrong with it.
    """
    plain = {key: value for key, value in config.items() if key not in groups}
    found = schema.option_faults(plain, types)
    for group in groups:
        found += schema.faults(config.get(group), NODES[group], group, trust)
    if not re.fullmatch(r"\w[\w.+-]*", str(config.get("name", "run"))):
        found.append(f"name: {config['name']!r} names a folder: use letters, digits, _ . + and - only")
    found += [
        f"{key}: must lie between 1 and {MOST:.0e}, not {config[key]}"
        for key in ("count", "batch_size")
        if isinstance(config.get(key), int) and not 1 <= config[key] <= MOST
    ]
    if found:
        raise Faults("\n".join(found))
    return {key: schema.convert(value, types[key]) if key in plain else value for key, value in config.items()}


def build(config: Config, trust: Sequence[str] = schema.ANYTHING, moments: Moments | None = None) -> Experiment:
    """Build the parts that a configuration names.

    The configuration of the result has ``auto`` replaced by the measured values.

    Args:
        config: the configuration, plain.
        trust: modules whose classes it may name.
        moments: of the data, from a checkpoint; None measures them if the parametrization takes them.

    Raises:
        Faults: what is wrong with the configuration, all of it, a line each.
    """
    config = check(config, tuple(GROUPS), TRAIN, trust)
    # How the run was asked for is no part of what it is.
    config = {key: value for key, value in config.items() if key not in ("trust", "resume", "forecast")}
    config = {**config, "sampler": paced(config["sampler"], config["sde"]), "trainer": limited(config["trainer"])}
    found: list[str] = []

    def part(group: str, **supplied: object) -> Any:  # noqa: ANN401
        try:
            return construct(config, group, trust, **supplied)
        except Faults as fault:
            found.append(str(fault))
            return None

    dataset: Dataset | None = part("dataset", seed=config["seed"])
    plain = {group: part(group) for group in GROUPS if group not in ("dataset", "sde", "network", "parametrization")}
    if dataset is None:
        part("sde")
        raise Faults("\n".join(found))
    points = dataset.x
    if len(points) > MEASURED:
        # A random part, for rows may come in turns; in order, for some stay on the disk.
        points = points[torch.randperm(len(points), generator=generator("cpu", 0, "measured"))[:MEASURED].sort().values]
    some = dataset.units.encode(points)
    if moments is None and schema.takes(config["parametrization"], "moments", trust):
        # Those of what the network is trained on.
        moments = Moments.of(dataset.units.encode(dataset.dequantized(points, generator("cpu", 0, "moments"))))
    plain["parametrization"] = part("parametrization", moments=moments)
    classes = {"network": schema.resolve(config["network"]["_target_"], trust)}
    found += refusals(config, {group: {**plain, **classes}[group] for group in KERNEL}, trust)
    config = {**config, "sde": measured(config["sde"], some, trust)}
    sde: SDE | None = part("sde")
    if sde is None:
        raise Faults("\n".join(found))
    supplied = {"shape": dataset.units.shape, "law": dataset.encoded_law, "classes": dataset.classes}
    trainer: Trainer | None = plain["trainer"]
    room = memory() / COPIES / (1 if trainer is None else trainer.replicas)
    network: Network | None = None
    try:
        with at_most(room, "the memory of this machine holds to train them: make it smaller"):
            network = make_network(config, trust, sde=sde, **supplied)
    except Faults as fault:
        found.append(str(fault))
    objective: Objective | None = plain["objective"]
    if objective is not None and objective.differentiates and network is not None and network.rough:
        named = f"objective={choice(config['objective'])} differentiates the network twice"
        found.append(f"{named}, which network={choice(config['network'])} does not bear: {network.rough}")
    if objective is not None and network is not None and objective.classifies != network.classifies:
        named, other = choice(config["objective"]), choice(config["network"])
        found.append(
            f"objective={named} trains a classifier and network={other} is none: use network=classifier_mlp"
            if objective.classifies
            else f"network={other} is a classifier and objective={named} trains a score: use objective=classification"
        )
    if found:
        raise Faults("\n".join(found))
    parametrization = plain.pop("parametrization")
    assert trainer is not None and network is not None
    model = connect(network, parametrization, sde)
    if own := [name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("network.")]:
        raise Faults(f"{own[0]}: only parameters of the network are trained and saved: make it one of these")
    try:
        gradient = choose(
            trainer.gradient, model, plain["objective"], trainer.precision == "bfloat16", trainer.replicas
        )
    except UserError as error:
        raise Faults(str(error)) from None
    return Experiment(config, dataset, moments, sde, model, gradient, **plain)


def known_by(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Returns the fingerprint of the data of a configuration; of all bytes where they were read from a file."""
    return fingerprint(dataset, exact="path" in config["dataset"])


def make_network(config: Config, trust: Sequence[str], **supplied: object) -> Network:
    """Build the network, whose first numbers, those outside of its ``state_dict`` too, are those of the run's seed."""
    with own_layers("cpu", config["seed"], "network"):
        network: Network = construct(config, "network", trust, **supplied)
        if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
            # Lazy layers draw their weights when they first see a point.
            network.work(supplied["shape"])  # type: ignore[arg-type]
    foreign = [name for name, p in network.named_parameters() if p.requires_grad and not p.is_floating_point()]
    if foreign:
        raise Faults(f"network: its parameter {foreign[0]} holds no real numbers, and no other can be trained")
    if imaginary := [name for name, x in [*network.named_parameters(), *network.named_buffers()] if x.is_complex()]:
        raise Faults(
            f"network: {imaginary[0]} is complex, and would lose its imaginary part in the precision of the run: keep "
            f"it as real numbers, by torch.view_as_real()"
        )
    return network


def replicated(
    config: Config, trust: Sequence[str] = schema.ANYTHING, moments: Sequence[Moments | None] = ()
) -> list[Experiment]:
    """The parts of a run, and of those to be trained together with it, of the seeds that follow its own.

    Args:
        config: the configuration, plain.
        trust: modules whose classes it may name.
        moments: of the data of each, from checkpoints; none for a new run.

    Raises:
        Faults: what is wrong with the configuration.
    """
    known = dict(enumerate(moments))
    first = build(config, trust, known.get(0))
    seed = first.config["seed"]
    others = [build({**config, "seed": seed + k}, trust, known.get(k)) for k in range(1, first.trainer.replicas)]
    sizes = {(len(one.dataset.x), one.dataset.units.shape) for one in (first, *others)}
    sdes = [one.config["sde"] for one in (first, *others)]
    if len(sizes) > 1:
        raise Faults(f"trainer.replicas={len(others) + 1}: the data sets of the seeds differ in size: {ONE_BY_ONE}")
    if any(sde != sdes[0] for sde in sdes):
        raise Faults(
            f"trainer.replicas={len(others) + 1}: options of sde= that are left to auto differ between the seeds: give "
            f"numbers, as {', '.join(f'sde.{k}={v}' for k, v in sdes[0].items() if config['sde'].get(k) == 'auto')}"
        )
    return [first, *others]


def refusals(config: Config, parts: Mapping[str, Any], trust: Sequence[str]) -> list[str]:
    """A line with the fix for each part that needs a closed-form kernel where the SDE has none.

    Args:
        config: the configuration, which names the parts.
        parts: objects or classes by their group, of those in :data:`KERNEL`; None where one is broken.
        trust: modules whose classes the nodes may name.
    """
    if issubclass(schema.resolve(config["sde"]["_target_"], trust), LinearSDE):
        return []
    return [
        f"{group}={choice(config[group])} needs a closed-form kernel and sde={choice(config['sde'])} has none: {fix}"
        for group, part in parts.items()
        if part is not None and (fix := part.kernel)
    ]


def choice(node: Mapping[str, Any]) -> str:
    """A short name for a node: that of its predictor and corrector, where it has them, or of its own class."""
    parts = [node[key] for key in ("predictor", "corrector") if node.get(key)] or [node]
    return "-".join(schema.snake_case(part["_target_"].rpartition(".")[2]) for part in parts)


def flat(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The options of a node by their paths."""
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs


def flat_options(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """All options of a configuration by their paths; a group's own stands for the class of its node."""
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and "_target_" in value:
            pairs.append((key, choice(value)))
            pairs += [(f"{key}.{k}", v) for k, v in flat(value) if not k.endswith("_target_")]
        else:
            pairs.append((key, value))
    return pairs


def connect(network: Network, parametrization: Parametrization, sde: SDE) -> ScoreModel | ClassifierModel:
    """A network read as what it is: log-probabilities of classes, or a score, as an exact one's output is already."""
    if network.classifies:
        return ClassifierModel(network, sde)
    return ScoreModel(network, Raw() if network.exact else parametrization, sde)


def construct(config: Config, group: str, trust: Sequence[str], **supplied: object) -> Any:  # noqa: ANN401
    """Build the node of a group; :class:`Faults` tells in one line why it cannot be built."""
    try:
        return schema.construct(config[group], trust, **supplied)
    except ValueError as error:
        raise Faults(_named(group, config[group], error)) from None
    except (RuntimeError, TypeError, OverflowError, MemoryError, OSError) as error:
        # Values of the right type that are absurd: a layer or a data set larger than the memory, a name of a file of
        # thousands of letters.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        reason = "there is not so much memory" if NO_MEMORY.search(reason) else reason
        raise Faults(f"{group}: cannot be built with these options: {reason}") from None


def _named(group: str, node: Mapping[str, Any], error: ValueError) -> str:
    """A constructor's complaint, with the full path of the option it begins with."""
    found = re.match(r"\w*", str(error))
    option = found[0] if found else ""
    inner = [f"{group}.{key}" for key, value in node.items() if isinstance(value, Mapping) and option in value]
    path = group if option in node else inner[0] if inner else None
    return f"{path}.{error}" if path else f"{group}: {error}"


def paced(sampler: Config, sde: Config) -> Config:
    """A node of a sampler whose number of steps, where it is left to ``auto``, is that from a chain's last level to its
    first.
    """
    levels = sde.get("levels")
    if sampler.get("steps") != "auto" or not isinstance(levels, int | float):
        return sampler
    return {**sampler, "steps": levels - 1}


def limited(trainer: Config) -> Config:
    """A node of the trainer whose number of steps, where it is left to ``auto``, is a number, or that of its epochs."""
    return {**trainer, "steps": enough(trainer.get("epochs"))} if trainer.get("steps") == "auto" else trainer


def measured(node: Mapping[str, Any], x: Tensor, trust: Sequence[str]) -> dict[str, Any]:
    """A node of the SDE whose options left to ``auto`` are measured on data in the network's units, ``(N, *)``."""
    auto = [key for key, value in node.items() if value == "auto"]
    if not auto:
        return dict(node)
    values = schema.resolve(node["_target_"], trust).measure(x)  # type: ignore[attr-defined]
    return {**node, **{key: values[key] for key in auto}}
