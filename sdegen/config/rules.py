"""Rules that say which parts of a training work together, and which parts work with the forward process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sdegen.config.compose import Config
from sdegen.config.options import Faults, choice
from sdegen.core import schema
from sdegen.core.randomness import generator
from sdegen.core.schema import Trust
from sdegen.datasets.fingerprint import difference, fingerprint
from sdegen.models.likelihood import Likelihood
from sdegen.models.score import ScoreModel
from sdegen.samplers import Sampler
from sdegen.samplers.grids import check_ends
from sdegen.sde.base import SDE, LinearSDE
from sdegen.training.perceptron import obstacle

Parts = Mapping[str, Any]

ONE_BY_ONE = "train the seeds one by one, with -m seed=0,1,2"

REMEDIES = {
    "network": "network=mlp",
    "network of a classifier": "network=classifier_mlp",
    "network of a regressor": "sde=vp, since no regressor works without a kernel",
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
"""Choices that work with every forward process, or a linear process if there are none, by group or option."""

NOUNS = {"score": "score", "class": "classifier", "condition": "regressor"}
"""Kinds of trained models, by what the network predicts."""
FITTING = {
    "class": ("objective=classification", "network=classifier_mlp"),
    "condition": ("objective=regression", "network=regressor_mlp"),
}
"""Objective and network of each kind of model that is not a score."""


def check_process(config: Config, parts: Parts, trust: Trust) -> None:
    """Checks that parts work with the forward process of a configuration.

    Args:
        config: configuration of the parts.
        parts: parts, or their classes, by group.
        trust: modules whose classes the configuration may name.

    Raises:
        Faults: parts do not work with the forward process; the message has one line, with the fix, for each of them.
    """
    sde = schema.resolve(config["sde"]["_target_"], trust)
    unfit = {group: part for group, part in parts.items() if not issubclass(sde, part.process)}
    if unfit:
        raise Faults("\n".join(_refusal(config, group, part, sde) for group, part in unfit.items()))


def _refusal(config: Config, group: str, part: Any, sde: type[SDE]) -> str:  # noqa: ANN401
    option, process, node = group, part.process, config[group]
    if group == "sampler":
        name, process = next((name, need) for name, need in part.processes.items() if not issubclass(sde, need))
        option = f"sampler.{name}"
        if node.get("predictor") and node.get("corrector"):
            # No choice of the sampler is named after both parts.
            group, node = f"sampler/{name}", node[name]
    elif group == "network" and part.predicts != "score":
        option = f"network of a {NOUNS[part.predicts]}"
    part_name, sde_name = choice(node), choice(config["sde"])
    if process is LinearSDE:
        lack = f"needs a closed-form kernel and sde={sde_name} has none"
    else:
        lack = f"works with the SDE {process.__name__} only, not with sde={sde_name}"
    return f"{group}={part_name} {lack}: use {REMEDIES.get(option, 'another ' + group)}"


def faults(config: Config, parts: Parts) -> list[str]:
    """Returns a message for each broken rule. A rule applies only if all parts that it needs could be built."""
    lines = [fault(config, parts) for needed, fault in RULES if needed <= parts.keys()]
    return [line for line in lines if line]


def check_times(sampler: Sampler, sde: SDE) -> None:
    """Raises Faults if a sampler has a list of times that does not go from T to eps of a process."""
    if line := _list_of_times({}, {"sampler": sampler, "sde": sde}):
        raise Faults(line)


def _list_of_times(config: Config, parts: Parts) -> str:
    grid = parts["sampler"].grid
    try:
        if isinstance(grid, tuple):
            check_ends(grid, parts["sde"])
    except ValueError as error:
        return f"sampler.{error}"
    return ""


def _smooth(config: Config, parts: Parts) -> str:
    objective, network = parts["objective"], parts["network"]
    if not (objective.differentiates and network.rough):
        return ""
    return (
        f"objective={choice(config['objective'])} differentiates the network twice, which "
        f"network={choice(config['network'])} does not support: {network.rough}"
    )


def _network_for_objective(config: Config, parts: Parts) -> str:
    trained, own = parts["objective"].predicts, parts["network"].predicts
    if trained == own:
        return ""
    objective, network = choice(config["objective"]), choice(config["network"])
    fix = FITTING[own][0] if trained == "score" else FITTING[trained][1]
    if trained == "condition" and parts["sde"].linear is None:
        fix += " and sde=vp"
    return f"objective={objective} trains a {NOUNS[trained]} and network={network} is a {NOUNS[own]}: use {fix}"


def _parameters_in_network(config: Config, parts: Parts) -> str:
    named = parts["model"].named_parameters()
    outside = [name for name, p in named if p.requires_grad and not name.startswith("network.")]
    if not outside:
        return ""
    return f"{outside[0]}: only parameters of the network are trained and saved: move this parameter into the network"


def _positive_loss(config: Config, parts: Parts) -> str:
    if parts["objective"].positive or not parts["weighting"].needs_positive_loss:
        return ""
    objective, weighting = choice(config["objective"]), choice(config["weighting"])
    return (
        f"weighting={weighting} divides by the mean loss, and the losses of objective={objective} can be negative: use "
        f"weighting=variance, or objective=denoising"
    )


def _network_of_a_map(config: Config, parts: Parts) -> str:
    objective, network = choice(config["objective"]), parts["network"]
    if not parts["objective"].maps:
        fix = "use network.times=auto, or objective=flow_map"
        return "" if network.times == 1 else f"network.times=2: objective={objective} trains no flow map: {fix}"
    if network.times == 2:
        return ""
    if "times" in config["network"]:
        return f"network.times=1: objective={objective} trains a network of two times: use network.times=auto"
    name = choice(config["network"])
    return (
        f"objective={objective} trains a network of two times, and network={name} takes one: use network=mlp, scorenet "
        f"or unet"
    )


def _condition_of_a_map(config: Config, parts: Parts) -> str:
    objective, own = parts["objective"], parts["network"].condition
    if not objective.maps:
        return ""
    known = None if objective.teacher is None else objective.teacher.model.network.condition
    # Each part is taken by both networks or by none, and is hidden in some rows by the teacher if by the map.
    names = ("label_dropout", "value_dropout")
    shares = [[None if one is None else getattr(one, name) for name in names] for one in (own, known)]
    if all((a is None) == (b is None) and not (a and not b) for a, b in zip(*shares, strict=True)):
        return ""
    fixes = zip(("label_dropout", "condition_dropout"), shares[1], strict=True)
    fix = " and ".join(f"network.{name}={'null' if share is None else f'{share:g}'}" for name, share in fixes)
    return f"objective={choice(config['objective'])} gives the network what its teacher takes: set {fix}"


def _gaussian_of_a_map(config: Config, parts: Parts) -> str:
    if parts["parametrization"].maps or not parts["objective"].maps:
        return ""
    return (
        f"objective={choice(config['objective'])} trains the difference from the flow of a Gaussian, which "
        f"parametrization={choice(config['parametrization'])} does not have: use parametrization=gaussian or karras"
    )


def _map_for_sampler(config: Config, parts: Parts) -> str:
    if parts["objective"].maps:
        # The rules for the network and the parametrization say what is missing.
        return ""
    try:
        check_map(config, parts["sampler"], parts["model"], "use objective=flow_map, or another sampler")
    except Faults as fault:
        return str(fault)
    return ""


def check_map(config: Config, sampler: Sampler, model: ScoreModel | Likelihood, fix: str) -> None:
    """Raises Faults if a sampler needs a flow map and the model has none; ``fix`` is the end of the message."""
    if sampler.maps and not (isinstance(model, ScoreModel) and model.maps):
        raise Faults(f"sampler={choice(config['sampler'])} follows a flow map, and the model has none: {fix}")


def _teacher(config: Config, parts: Parts) -> str:
    teacher = parts["objective"].teacher
    if teacher is None:
        return ""
    run, own = f"objective.run={teacher.folder}", f"in {teacher.folder}/config.yaml"
    data = parts["dataset"]
    found = difference(teacher.data, fingerprint(data, exact="path" in config["dataset"]))
    if found or not teacher.units.equals(data.units):
        return f"{run}: was trained on other data: use the seed and the options of dataset {own}"
    if teacher.sde != config["sde"]:
        return f"{run}: was trained with another SDE: use the options of sde {own}"
    return ""


def _noise_levels(config: Config, parts: Parts) -> str:
    sde, weighting, times = parts["sde"], parts["weighting"], parts["times"]
    if not isinstance(sde, weighting.process) or not isinstance(sde, times.process):
        # Reported by check_process.
        return ""
    u, group = torch.full((1, times.draws, 1), 0.5, dtype=torch.float64), "weighting"
    try:
        weighting(sde, sde.eps + (sde.T - sde.eps) * u)
        group = "times"
        times(sde, weighting, u)
    except ValueError as error:
        return f"{group}.{error}"
    return ""


def _gradient(config: Config, parts: Parts) -> str:
    trainer, replicas = parts["trainer"], f"trainer.replicas={parts['trainer'].replicas}"
    missing = obstacle(parts["model"], parts["objective"], trainer.precision == "bfloat16")
    if trainer.replicas > 1 and trainer.gradient == "autograd":
        return f"{replicas}: trainer.gradient=autograd trains only one network: use trainer.gradient=auto"
    if trainer.replicas > 1 and missing:
        return f"{replicas}: training several networks together needs {missing}: {ONE_BY_ONE}"
    if trainer.gradient == "written" and missing:
        return f"trainer.gradient=written needs {missing}: use trainer.gradient=auto"
    return ""


def _patience(config: Config, parts: Parts) -> str:
    patience, dataset = parts["trainer"].patience, parts["dataset"]
    draw = dataset.draw if dataset.y is None else dataset.draw_labelled
    drawn = draw(1, generator("cpu", 0, "patience"))
    if patience is None or dataset.held_out is not None or drawn is not None:
        return ""
    return (
        f"trainer.patience={patience}: no data are held out and the distribution of the data is not known: set "
        f"dataset.held_out, or trainer.patience=null"
    )


RULES: tuple[tuple[set[str], Callable[[Config, Parts], str]], ...] = (
    ({"objective", "network"}, _smooth),
    ({"objective", "network", "sde"}, _network_for_objective),
    ({"objective", "network"}, _network_of_a_map),
    ({"objective", "network"}, _condition_of_a_map),
    ({"objective", "network", "parametrization"}, _gaussian_of_a_map),
    ({"sampler", "model", "objective"}, _map_for_sampler),
    ({"objective", "dataset"}, _teacher),
    ({"model"}, _parameters_in_network),
    ({"objective", "weighting"}, _positive_loss),
    ({"sde", "weighting", "times"}, _noise_levels),
    ({"sampler", "sde"}, _list_of_times),
    ({"trainer", "model", "objective"}, _gradient),
    ({"trainer", "dataset"}, _patience),
)
"""Rules: the names of the parts that a rule needs, and a function that returns a fault or an empty string."""
