"""Rules between the parts of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sdegen.config.compose import Config
from sdegen.config.remedies import choice
from sdegen.training.perceptron import obstacle

Parts = Mapping[str, Any]

ONE_BY_ONE = "train them one by one, by -m seed=0,1,2"


class Rule(NamedTuple):
    """A rule between parts.

    Attributes:
        parts: the parts that it looks at; the rule holds only where all of them could be built.
        fault: returns what is wrong, in one line; empty where nothing is.
    """

    parts: frozenset[str]
    fault: Callable[[Config, Parts], str]


def faults(config: Config, parts: Parts) -> list[str]:
    """Returns a line for each rule that the parts of a configuration break."""
    lines = [rule.fault(config, parts) for rule in RULES if rule.parts <= parts.keys()]
    return [line for line in lines if line]


def _smooth(config: Config, parts: Parts) -> str:
    objective, network = parts["objective"], parts["network"]
    if not (objective.differentiates and network.rough):
        return ""
    return (
        f"objective={choice(config['objective'])} differentiates the network twice, which "
        f"network={choice(config['network'])} does not support: {network.rough}"
    )


def _classifier_for_classification(config: Config, parts: Parts) -> str:
    if parts["objective"].classifies == parts["network"].classifies:
        return ""
    objective, network = choice(config["objective"]), choice(config["network"])
    if parts["objective"].classifies:
        return f"objective={objective} trains a classifier and network={network} is not one: use network=classifier_mlp"
    return f"network={network} is a classifier and objective={objective} trains a score: use objective=classification"


def _parameters_in_network(config: Config, parts: Parts) -> str:
    named = parts["model"].named_parameters()
    outside = [name for name, p in named if p.requires_grad and not name.startswith("network.")]
    if not outside:
        return ""
    return f"{outside[0]}: only parameters of the network are trained and saved: make it one of these"


def _gradient(config: Config, parts: Parts) -> str:
    trainer, replicas = parts["trainer"], f"trainer.replicas={parts['trainer'].replicas}"
    missing = obstacle(parts["model"], parts["objective"], trainer.precision == "bfloat16")
    if trainer.replicas > 1 and trainer.gradient == "autograd":
        return f"{replicas}: only the written gradient trains networks together: use trainer.gradient=auto"
    if trainer.replicas > 1 and missing:
        return f"{replicas}: only the written gradient trains networks together, and it needs {missing}: {ONE_BY_ONE}"
    if trainer.gradient == "written" and missing:
        return f"trainer.gradient=written: it needs {missing}: use trainer.gradient=auto"
    return ""


RULES = (
    Rule(frozenset({"objective", "network"}), _smooth),
    Rule(frozenset({"objective", "network"}), _classifier_for_classification),
    Rule(frozenset({"model"}), _parameters_in_network),
    Rule(frozenset({"trainer", "model", "objective"}), _gradient),
)
