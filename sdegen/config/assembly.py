"""From a configuration to the parts of a run: check it, replace ``auto``, build, apply the rules between parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sdegen.config import rules
from sdegen.config.automatic import resolved
from sdegen.config.checks import Faults, check
from sdegen.config.components import Components
from sdegen.config.compose import Config
from sdegen.config.construction import connect, construct, make_network
from sdegen.config.options import GROUPS, TRAIN
from sdegen.config.remedies import refusals
from sdegen.core import schema
from sdegen.core.randomness import generator
from sdegen.datasets import Dataset
from sdegen.datasets.base import memory
from sdegen.models.moments import Moments
from sdegen.networks.base import at_most

REQUEST = ("trust", "resume", "forecast")
"""Options that say how a run is asked for; they are no part of its configuration."""
PROCESS = ("network", "parametrization", "objective", "weighting", "times", "sampler")
"""The groups whose classes may not suit every forward process."""
COPIES = 5
"""Copies of a network's weights while it is trained: weights, gradient, two moments and average."""
MEASURED = 5000
"""Points on which options left to ``auto`` are measured: a random part of the data, if there are more."""


class Parts(dict[str, Any]):
    """The parts of a run by name, as they are built. One that cannot be built is absent, and its fault is kept.

    Args:
        config: the configuration, checked.
        trust: modules whose classes the nodes may name.
    """

    def __init__(self, config: Config, trust: Sequence[str]) -> None:
        super().__init__()
        self.config, self.trust = config, trust
        self.faults: list[str] = []

    def add(self, group: str, **supplied: object) -> None:
        """Builds the node of a group."""
        with self.collected():
            self[group] = construct(self.config, group, self.trust, **supplied)

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Keeps the faults that are raised inside."""
        try:
            yield
        except Faults as fault:
            self.faults.append(str(fault))


def build(config: Config, trust: Sequence[str] = schema.ANYTHING, moments: Moments | None = None) -> Components:
    """Builds the parts that a configuration names.

    Args:
        config: the configuration, plain.
        trust: modules whose classes it may name.
        moments: of the data, from a checkpoint; None measures them if the parametrization takes them.

    Raises:
        Faults: all that is wrong with the configuration, a line each.
    """
    config = check(config, tuple(GROUPS), TRAIN, trust)
    parts = Parts({key: value for key, value in config.items() if key not in REQUEST}, trust)
    parts.add("dataset", seed=config["seed"])
    points = _some(parts["dataset"]) if "dataset" in parts else None
    encoded = None if points is None else parts["dataset"].units.encode(points)
    parts.config = resolved(parts.config, encoded, trust)
    _instantiate(parts, points, moments)
    parts.faults += rules.faults(parts.config, parts)
    if parts.faults:
        raise Faults("\n".join(parts.faults))
    return Components(parts.config, **{name: parts[name] for name in Components._fields if name != "config"})


def replicated(
    config: Config, trust: Sequence[str] = schema.ANYTHING, moments: Sequence[Moments | None] = ()
) -> list[Components]:
    """Builds the parts of a run and of those to be trained together with it, of the seeds that follow its own.

    Args:
        config: the configuration, plain.
        trust: modules whose classes it may name.
        moments: of the data of each run, from checkpoints; empty for a new run.

    Raises:
        Faults: what is wrong with the configuration.
    """
    known = dict(enumerate(moments))
    first = build(config, trust, known.get(0))
    seed, replicas = first.config["seed"], first.trainer.replicas
    runs = [first, *(build({**config, "seed": seed + k}, trust, known.get(k)) for k in range(1, replicas))]
    if len({(len(one.dataset.x), one.dataset.units.shape) for one in runs}) > 1:
        raise Faults(f"trainer.replicas={replicas}: the data sets of the seeds differ in size: {rules.ONE_BY_ONE}")
    sde = first.config["sde"]
    if any(one.config["sde"] != sde for one in runs):
        numbers = ", ".join(f"sde.{key}={value}" for key, value in sde.items() if config["sde"].get(key) == "auto")
        raise Faults(
            f"trainer.replicas={replicas}: options of sde= that are left to auto differ between the seeds: give "
            f"numbers, as {numbers}"
        )
    return runs


def _some(dataset: Dataset) -> Tensor:
    """Returns the points on which options are measured, in the user's units."""
    if len(dataset.x) <= MEASURED:
        return dataset.x
    # Random, because the rows may be sorted; in their order, because they may lie on the disk.
    order = torch.randperm(len(dataset.x), generator=generator("cpu", 0, "measured"))
    return dataset.x[order[:MEASURED].sort().values]


def _instantiate(parts: Parts, points: Tensor | None, moments: Moments | None) -> None:
    """Builds the other parts in the order in which they need each other.

    Args:
        parts: has the data set, if it could be built.
        points: points of the data set, in the user's units; None where there is none.
        moments: of the data, if they are known.
    """
    for group in ("objective", "weighting", "times", "optimizer", "trainer", "sampler"):
        parts.add(group)
    if points is not None:
        parts["moments"] = _moments(parts, points) if moments is None else moments
        parts.add("parametrization", moments=parts["moments"])
    named = {**parts, "network": schema.resolve(parts.config["network"]["_target_"], parts.trust)}
    parts.faults += refusals(parts.config, {group: named[group] for group in PROCESS if group in named}, parts.trust)
    if "dataset" in parts or "auto" not in parts.config["sde"].values():
        parts.add("sde")
    if parts.keys() >= {"dataset", "sde"}:
        _add_network(parts)
    if parts.keys() >= {"network", "parametrization", "sde"}:
        parts["model"] = connect(parts["network"], parts["parametrization"], parts["sde"])


def _moments(parts: Parts, points: Tensor) -> Moments | None:
    """Returns the moments of the data as the network is trained on them; None where no part asks for them."""
    if not schema.takes(parts.config["parametrization"], "moments", parts.trust):
        return None
    dataset: Dataset = parts["dataset"]
    return Moments.of(dataset.units.encode(dataset.dequantized(points, generator("cpu", 0, "moments"))))


def _add_network(parts: Parts) -> None:
    """Builds the network, unless its training would not fit into the memory."""
    dataset: Dataset = parts["dataset"]
    supplied = {"shape": dataset.units.shape, "law": dataset.encoded_law, "classes": dataset.classes}
    room = memory() / COPIES / max(parts.config["trainer"].get("replicas", 1), 1)
    with parts.collected(), at_most(room, "the memory of this machine holds to train them: make it smaller"):
        parts["network"] = make_network(parts.config, parts.trust, sde=parts["sde"], **supplied)
