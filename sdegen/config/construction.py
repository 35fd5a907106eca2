"""Construction of single parts. An error of a constructor becomes one line with the full path of the option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from sdegen.config.compose import Config
from sdegen.config.options import Faults
from sdegen.core import schema
from sdegen.core.errors import NO_MEMORY
from sdegen.core.randomness import own_layers
from sdegen.core.schema import Trust
from sdegen.models.classifier import ClassifierModel
from sdegen.models.likelihood import Likelihood
from sdegen.models.parametrizations import Parametrization, Raw
from sdegen.models.regressor import RegressorModel
from sdegen.models.score import ScoreModel
from sdegen.networks import Network
from sdegen.sde.base import SDE


def construct(config: Config, group: str, trust: Trust, **supplied: object) -> Any:  # noqa: ANN401
    """Builds the part of a group from its node; raises Faults, with one line, if the part cannot be built."""
    try:
        return schema.construct(config[group], trust, **supplied)
    except ValueError as error:
        raise Faults(_with_path(group, config[group], error)) from None
    except (RuntimeError, TypeError, OverflowError, MemoryError, OSError) as error:
        # Values of the right type can be impossible, such as a layer that does not fit in memory, or a file name
        # that is too long.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        reason = "not enough memory" if NO_MEMORY.search(reason) else reason
        raise Faults(f"{group}: cannot be built with these options: {reason}: change the options") from None


def make_network(config: Config, trust: Trust, **supplied: object) -> Network:
    """Builds the network; raises Faults, with one line, if the network cannot be built or trained.

    The run's seed fixes all random numbers that the constructor draws, even if ``state_dict`` does not contain them.
    """
    with own_layers("cpu", config["seed"], "network"):
        network: Network = construct(config, "network", trust, **supplied)
        if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
            # Lazy layers draw their weights in their first call.
            network.work(supplied["shape"])  # type: ignore[arg-type]
    for name, p in network.named_parameters():
        if p.requires_grad and not p.is_floating_point():
            raise Faults(f"network: the parameter {name} is {p.dtype} and cannot be trained: make it floating-point")
    for name, x in [*network.named_parameters(), *network.named_buffers()]:
        if x.is_complex():
            raise Faults(
                f"network: {name} is complex, and would lose its imaginary part in the precision of the run: store it "
                f"as real numbers, with torch.view_as_real()"
            )
    return network


def connect(network: Network, parametrization: Parametrization, sde: SDE) -> ScoreModel | Likelihood:
    """Returns the model of a network, by what it predicts. The output of an exact network is used as the score."""
    if network.predicts == "score":
        return ScoreModel(network, Raw() if network.exact else parametrization, sde)
    return ClassifierModel(network, sde) if network.predicts == "class" else RegressorModel(network, sde)


def with_steps_of_chain(sampler: Config, sde: Config) -> Config:
    """Returns the node of a sampler. The steps of a list of times, or those of a chain, replace ``steps=auto``."""
    if sampler.get("steps") == "auto" and isinstance(grid := sampler.get("grid"), list | tuple):
        return {**sampler, "steps": len(grid) - 1}
    levels = sde.get("levels")
    if sampler.get("steps") != "auto" or not isinstance(levels, int | float):
        return sampler
    return {**sampler, "steps": levels - 1}


def measured(node: Config, x: Tensor, trust: Trust) -> Config:
    """Returns the node of an SDE in which values computed from ``x`` replace ``auto``.

    ``x`` is ``(N, *)``, in the network's units. Raises Faults if a value cannot be computed.
    """
    auto = [key for key, value in node.items() if value == "auto"]
    if not auto:
        return node
    try:
        values = schema.resolve(node["_target_"], trust).measure(x, node)  # type: ignore[attr-defined]
    except ValueError as error:
        raise Faults(_with_path("sde", node, error)) from None
    return {**node, **{key: values[key] for key in auto}}


def _with_path(group: str, node: Mapping[str, Any], error: ValueError) -> str:
    """Returns a constructor's message. If it begins with the name of an option, the full path replaces the name.

    A message that begins with the group and a choice, such as ``guidance=auto``, needs no path.
    """
    found = re.match(r"\w*", str(error))
    option = found[0] if found else ""
    if str(error).startswith(f"{group.partition('.')[0]}="):
        return str(error)
    inner = [f"{group}.{key}" for key, value in node.items() if isinstance(value, Mapping) and option in value]
    path = group if option in node else inner[0] if inner else None
    return f"{path}.{error}" if path else f"{group}: {error}"
