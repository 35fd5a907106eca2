"""Construction of the parts of a run, and of its replicas, from a configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from sdegen.config import rules
from sdegen.config.components import Components, chosen, moments_of, some
from sdegen.config.compose import Config
from sdegen.config.construction import connect, construct, make_network, measured, with_steps_of_chain
from sdegen.config.options import GROUPS, TRAIN, Faults, check
from sdegen.core import schema
from sdegen.core.capacity import memory
from sdegen.core.randomness import generator
from sdegen.core.schema import Trust
from sdegen.datasets import Dataset
from sdegen.models.moments import Moments, Regression
from sdegen.networks.base import at_most
from sdegen.training.teacher import Teacher
from sdegen.training.trainer import steps_or_default

REQUEST = ("trust", "resume", "forecast", "devices")
"""Options of train.yaml that a run's configuration does not contain."""
Load = Callable[[str | None, type], Teacher | None]
"""Function of the folder of a run, None for no run, and of the class of the result."""
PROCESS = ("network", "parametrization", "objective", "weighting", "times", "sampler")
"""Groups in which some classes do not work with every forward process."""
COPIES = 5
"""Memory of a training in multiples of the weights: weights, gradient, two moments of the optimiser, and average."""
REGRESSED = 100_000
"""Largest number of data points, chosen at random, from which the regression on the condition is computed."""


def without_runs(folder: str | None, kind: type) -> Teacher | None:
    """Returns None for no run: the function :data:`Load` where no run can be loaded."""
    if folder is not None:
        raise Faults(f"objective.run={folder}: runs are loaded by sdegen.runs.teachers: use its functions")
    return None


def build(
    config: Config, trust: Trust = schema.ANYTHING, moments: Moments | None = None, load: Load = without_runs
) -> Components:
    """Builds the parts of a run from its configuration.

    Args:
        config: configuration of a run.
        trust: modules whose classes the configuration may name.
        moments: moments of the data from a checkpoint; if None, the moments are computed from the data if the
            parametrization takes moments.
        load: function that loads the run of a teacher.

    Raises:
        Faults: the configuration has faults; the message has one line for each fault.
    """
    config = check(config, tuple(GROUPS), TRAIN, trust)
    parts = Parts({key: value for key, value in config.items() if key not in REQUEST}, trust)
    parts.add("dataset", seed=config["seed"])
    points = some(parts["dataset"]) if "dataset" in parts else None
    law = parts["dataset"].encoded_law if "dataset" in parts else None
    parts.add("objective", load=load, law=law)
    parts.replace_auto(points)
    _instantiate(parts, points, moments)
    parts.faults += rules.faults(parts.config, parts)
    if parts.faults:
        raise Faults("\n".join(parts.faults))
    return Components(parts.config, **{name: parts[name] for name in Components._fields if name != "config"})


def replicated(
    config: Config,
    trust: Trust = schema.ANYTHING,
    moments: Sequence[Moments | None] = (),
    load: Load = without_runs,
) -> list[Components]:
    """Builds the parts of a run and of its replicas. Replicas have the next seeds and are trained with the run.

    Args:
        config: configuration of the run.
        trust: modules whose classes the configuration may name.
        moments: moments of the data of each run from a checkpoint; if empty, :func:`build` computes the moments.
        load: function that loads the run of a teacher.

    Raises:
        Faults: the configuration has faults, or the replicas cannot be trained together.
    """
    known = dict(enumerate(moments))
    first = build(config, trust, known.get(0), load)
    seed, replicas = first.config["seed"], first.trainer.replicas
    runs = [first, *(build({**config, "seed": seed + k}, trust, known.get(k), load) for k in range(1, replicas))]
    if len({(len(one.dataset.x), one.dataset.units.shape) for one in runs}) > 1:
        raise Faults(f"trainer.replicas={replicas}: the data sets of the seeds differ in size: {rules.ONE_BY_ONE}")
    sde = first.config["sde"]
    if any(one.config["sde"] != sde for one in runs):
        numbers = ", ".join(f"sde.{key}={value}" for key, value in sde.items() if config["sde"].get(key) == "auto")
        raise Faults(
            f"trainer.replicas={replicas}: options of sde with the value auto differ between the seeds: set numbers, "
            f"for example {numbers}"
        )
    return runs


class Parts(dict[str, Any]):
    """Parts of a run by name. A part that cannot be built is absent, and ``faults`` contains the reason."""

    def __init__(self, config: Config, trust: Trust) -> None:
        super().__init__()
        self.config, self.trust = config, trust
        self.faults: list[str] = []

    def add(self, group: str, **supplied: object) -> None:
        """Builds the part of a group from its node."""
        with self.collected():
            self[group] = construct(self.config, group, self.trust, **supplied)

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """Adds the faults that are raised inside the context to ``faults``."""
        try:
            yield
        except Faults as fault:
            self.faults.append(str(fault))

    def replace_auto(self, points: Tensor | None) -> None:
        """Replaces ``auto`` in the configuration by values. If ``points`` is None, the SDE is not changed."""
        trainer, sde = self.config["trainer"], self.config["sde"]
        if trainer.get("steps") == "auto":
            trainer = {**trainer, "steps": steps_or_default("auto", trainer.get("epochs"))}
        if points is not None:
            with self.collected():
                sde = measured(sde, self["dataset"].units.encode(points), self.trust)
        sampler = with_steps_of_chain(self.config["sampler"], self.config["sde"])
        self.config = {**self.config, "sampler": sampler, "trainer": trainer, "sde": sde}
        if "objective" in self:
            objective, network = self["objective"], self.config["network"]
            if network.get("times") == "auto":
                self.config["network"] = {**network, "times": 2 if objective.maps else 1}
            if (teacher := objective.teacher) is not None:
                # A resumed run takes the same step of the same folder, whatever run is the latest by then, and refuses
                # it if its weights have changed.
                own = {"run": teacher.folder, "checkpoint": teacher.step, "digest": teacher.digest}
                self.config["objective"] = {**self.config["objective"], **own}


def _instantiate(parts: Parts, points: Tensor | None, moments: Moments | None) -> None:
    """Builds all parts except the data set, each after the parts that it needs.

    ``points`` are data points in the user's units, or None if the data set could not be built.
    """
    for group in ("weighting", "times", "optimizer", "trainer", "sampler", "logger"):
        parts.add(group)
    if points is not None:
        parts["moments"] = _moments(parts, points) if moments is None else moments
        parts.add("parametrization", moments=parts["moments"])
    named = {**parts, "network": schema.resolve(parts.config["network"]["_target_"], parts.trust)}
    # A classifier or a regressor has no parametrization.
    groups = [group for group in PROCESS if group != "parametrization" or named["network"].predicts == "score"]
    with parts.collected():
        rules.check_process(parts.config, {group: named[group] for group in groups if group in named}, parts.trust)
    if "auto" not in parts.config["sde"].values():
        parts.add("sde")
    if parts.keys() >= {"dataset", "sde"}:
        _add_network(parts)
    if parts.keys() >= {"network", "parametrization", "sde"}:
        parts["model"] = connect(parts["network"], parts["parametrization"], parts["sde"])


def _moments(parts: Parts, points: Tensor) -> Moments | None:
    """Returns the moments of the data in the network's units; None if the parametrization takes no moments."""
    if not schema.takes(parts.config["parametrization"], "moments", parts.trust):
        return None
    dataset: Dataset = parts["dataset"]
    moments = moments_of(dataset, points)
    if dataset.c is None or dataset.conditions is None or moments.axes is None:
        return moments
    rows = chosen(dataset, REGRESSED)
    x = dataset.units.encode(dataset.dequantized(dataset.x[rows], generator("cpu", 0, "moments")))
    return moments._replace(regression=Regression.of(x, dataset.conditions.encode(dataset.c[rows])))


def _add_network(parts: Parts) -> None:
    """Builds the network. If the memory is too small for its training, a fault is added instead."""
    dataset: Dataset = parts["dataset"]
    condition = None if dataset.conditions is None else dataset.conditions.shape
    supplied = {
        "shape": dataset.units.shape,
        "law": dataset.encoded_law,
        "classes": dataset.classes,
        "condition_shape": condition,
    }
    trainer = parts.config["trainer"]
    copies = (COPIES + len(trainer.get("widths") or ())) * max(trainer.get("replicas", 1), 1)
    room = memory() / copies
    with parts.collected(), at_most(room, f"this process can train, {room / 2**30:.3g} GiB: use a smaller network"):
        parts["network"] = make_network(parts.config, parts.trust, sde=parts["sde"], **supplied)
