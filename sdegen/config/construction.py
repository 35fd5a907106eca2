"""The construction of single parts; a constructor's error becomes one line with the option's full path."""

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
from sdegen.models.parametrizations import Parametrization, Raw
from sdegen.models.score import ScoreModel
from sdegen.networks import Network
from sdegen.sde.base import SDE


def construct(config: Config, group: str, trust: Trust, **supplied: object) -> Any:  # noqa: ANN401
    """Builds the node of a group; raises Faults, in one line, if it cannot be built."""
    try:
        return schema.construct(config[group], trust, **supplied)
    except ValueError as error:
        raise Faults(_with_path(group, config[group], error)) from None
    except (RuntimeError, TypeError, OverflowError, MemoryError, OSError) as error:
        # Absurd values of the right type: a layer larger than the memory, a file name of thousands of letters.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        reason = "not enough memory" if NO_MEMORY.search(reason) else reason
        raise Faults(f"{group}: cannot be built with these options: {reason}") from None


def make_network(config: Config, trust: Trust, **supplied: object) -> Network:
    """Builds the network; raises Faults, in one line, if it cannot be built or trained.

    The run's seed fixes all random numbers of the construction, also those that ``state_dict`` does not contain.
    """
    with own_layers("cpu", config["seed"], "network"):
        network: Network = construct(config, "network", trust, **supplied)
        if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
            # Lazy layers draw their weights at the first point.
            network.work(supplied["shape"])  # type: ignore[arg-type]
    for name, p in network.named_parameters():
        if p.requires_grad and not p.is_floating_point():
            raise Faults(f"network: its parameter {name} is not of floating-point numbers and cannot be trained")
    for name, x in [*network.named_parameters(), *network.named_buffers()]:
        if x.is_complex():
            raise Faults(
                f"network: {name} is complex, and would lose its imaginary part in the precision of the run: store it "
                f"as real numbers, with torch.view_as_real()"
            )
    return network


def connect(network: Network, parametrization: Parametrization, sde: SDE) -> ScoreModel | ClassifierModel:
    """Returns the classifier or the score model of a network; the output of an exact network is the score itself."""
    if network.classifies:
        return ClassifierModel(network, sde)
    return ScoreModel(network, Raw() if network.exact else parametrization, sde)


def with_steps_of_chain(sampler: Config, sde: Config) -> Config:
    """Returns the node of a sampler, with ``steps=auto`` replaced by the number of steps of a chain."""
    levels = sde.get("levels")
    if sampler.get("steps") != "auto" or not isinstance(levels, int | float):
        return sampler
    return {**sampler, "steps": levels - 1}


def measured(node: Config, x: Tensor, trust: Trust) -> Config:
    """Returns the node of an SDE with its ``auto`` options measured on data in the network's units, ``(N, *)``."""
    auto = [key for key, value in node.items() if value == "auto"]
    if not auto:
        return node
    values = schema.resolve(node["_target_"], trust).measure(x)  # type: ignore[attr-defined]
    return {**node, **{key: values[key] for key in auto}}


def _with_path(group: str, node: Mapping[str, Any], error: ValueError) -> str:
    """Returns a constructor's message, which begins with an option, with the full path of the option."""
    found = re.match(r"\w*", str(error))
    option = found[0] if found else ""
    inner = [f"{group}.{key}" for key, value in node.items() if isinstance(value, Mapping) and option in value]
    path = group if option in node else inner[0] if inner else None
    return f"{path}.{error}" if path else f"{group}: {error}"
