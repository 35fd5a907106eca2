"""Parts that do not suit the forward process, and what to use in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sdegen.core import schema
from sdegen.sde.base import SDE, LinearSDE

REMEDIES = {
    "network": "network=classifier_mlp for classes, or network=mlp",
    "parametrization": "parametrization=residual or parametrization=raw",
    "objective": "objective=sliced or objective=implicit",
    "weighting": "weighting=likelihood or weighting=uniform",
    "times": "times=stratified",
    "guidance": "guidance=none",
    "sampler.predictor": "sampler=euler_maruyama, stochastic_heun or dopri5",
    "sampler.corrector": "sampler/corrector=none",
    "sampler.grid": "sampler.grid=uniform",
    "sampler.denoise": "sampler.denoise=false",
}
"""Choices that work with every process, by group, and for samplers by the option that needs another process."""


class Part(Protocol):
    """A part of an experiment, or its class."""

    @property
    def process(self) -> type[SDE]:
        """The type of process that it works with."""


def suits(part: Part, sde: type[SDE]) -> bool:
    """True if a part works with a process."""
    return issubclass(sde, part.process)


def refusals(config: Mapping[str, Any], parts: Mapping[str, Any], trust: Sequence[str]) -> list[str]:
    """Returns a line, with the fix, for each part that does not work with the process of a configuration.

    Args:
        config: the configuration, which names the parts.
        parts: objects or classes by their group; None where one is broken.
        trust: modules whose classes the nodes may name.
    """
    sde = schema.resolve(config["sde"]["_target_"], trust)
    return [
        _refusal(config, group, part, sde) for group, part in parts.items() if part is not None and not suits(part, sde)
    ]


def choice(node: Mapping[str, Any]) -> str:
    """Returns a short name for a node: that of its predictor and corrector if it has them, else of its own class."""
    parts = [node[key] for key in ("predictor", "corrector") if node.get(key)] or [node]
    return "-".join(schema.snake_case(part["_target_"].rpartition(".")[2]) for part in parts)


def _refusal(config: Mapping[str, Any], group: str, part: Any, sde: type[SDE]) -> str:  # noqa: ANN401
    option, process = group, part.process
    if group == "sampler":
        name, process = next((name, need) for name, need in part.processes.items() if not issubclass(sde, need))
        option = f"sampler.{name}"
    part_name, sde_name = choice(config[group]), choice(config["sde"])
    if process is LinearSDE:
        lack = f"needs a closed-form kernel and sde={sde_name} has none"
    else:
        lack = f"works with the SDE {process.__name__} only, not with sde={sde_name}"
    return f"{group}={part_name} {lack}: use {REMEDIES.get(option, 'another ' + group)}"
