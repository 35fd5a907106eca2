"""Options left to ``auto``: the values that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sdegen.config.compose import Config
from sdegen.core import schema
from sdegen.training.trainer import steps_or_default


def resolved(config: Config, points: Tensor | None, trust: Sequence[str]) -> Config:
    """Returns the configuration of a training with ``auto`` replaced by the values that a run records.

    Args:
        config: the configuration.
        points: data in the network's units, ``(N, *)``; None leaves what is measured on them to ``auto``.
        trust: modules whose classes the nodes may name.
    """
    trainer = dict(config["trainer"])
    if trainer.get("steps") == "auto":
        trainer["steps"] = steps_or_default("auto", trainer.get("epochs"))
    sampler = with_steps_of_chain(config["sampler"], config["sde"])
    sde = config["sde"] if points is None else measured(config["sde"], points, trust)
    return {**config, "sampler": sampler, "trainer": trainer, "sde": sde}


def with_steps_of_chain(sampler: Config, sde: Config) -> Config:
    """Returns the node of a sampler whose ``steps=auto`` are the steps from a chain's last level to its first."""
    levels = sde.get("levels")
    if sampler.get("steps") != "auto" or not isinstance(levels, int | float):
        return sampler
    return {**sampler, "steps": levels - 1}


def measured(node: Mapping[str, Any], x: Tensor, trust: Sequence[str]) -> Config:
    """Returns the node of an SDE with its ``auto`` options measured on data in the network's units, ``(N, *)``."""
    auto = [key for key, value in node.items() if value == "auto"]
    if not auto:
        return dict(node)
    values = schema.resolve(node["_target_"], trust).measure(x)  # type: ignore[attr-defined]
    return {**node, **{key: values[key] for key in auto}}
