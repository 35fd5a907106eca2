"""Options of the commands, a check of configurations before anything is built, and short names for choices."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from sdegen.config.compose import CONF, Config
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust
from sdegen.datasets import Dataset
from sdegen.guidance.classes import Guidance
from sdegen.models.parametrizations import Parametrization
from sdegen.networks import Network
from sdegen.samplers import Sampler
from sdegen.sde.base import SDE
from sdegen.training.logger import Logger
from sdegen.training.objective import Objective
from sdegen.training.optimizer import Optimizer
from sdegen.training.times import TimeSampler
from sdegen.training.trainer import Trainer
from sdegen.training.weighting import Weighting

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
    "logger": Logger,
}
"""Base class of each group of a training."""

NODES: dict[str, type] = {**GROUPS, "guidance": Guidance}
"""Base class of each group of all commands. Only ``sdegen sample`` has guidance."""

TRAIN = {
    "name": str,
    "seed": int,
    "count": int,
    "figures": bool,
    "trust": tuple[str, ...],
    "resume": str | None,
    "forecast": bool,
    "devices": int | None,
}
"""Types of the options of train.yaml that are not groups."""
SAMPLE = {
    "run": str,
    "checkpoint": int | Literal["last", "best"],
    "weights": Literal["ema", "raw"],
    "ema": float | None,
    "count": int,
    "batch_size": int,
    "seed": int,
    "label": int | float | str | bool | None,
    "condition": float | tuple[float, ...] | str | None,
    "figures": bool,
    "animate": bool,
    "device": str,
    "precision": Literal["float32", "float64"],
    "trust": tuple[str, ...],
}
"""Types of the options of sample.yaml that are not groups."""
METRIC = Literal["likelihood", "interpolation", "samples", "c2st", "fid", "calibration"]
EVALUATE = {
    **{option: kind for option, kind in SAMPLE.items() if option not in ("label", "condition", "figures", "animate")},
    "ema": float | Literal["sweep"] | None,
    "metrics": METRIC | tuple[METRIC, ...],
    "points": str | None,
    "features": str | None,
    "features_class": str | None,
    "features_sha256": str | None,
    "probes": int,
    "rtol": float,
    "atol": float,
}
"""Types of the options of evaluate.yaml that are not groups."""
MOST = 10**9
"""Upper limit of ``count`` and ``batch_size``."""


class Faults(UserError):
    """Error for a configuration with faults. The message has one line for each fault."""


def check(config: Config, groups: Sequence[str], types: Mapping[str, Any], trust: Trust) -> Config:
    """Checks a configuration; returns it with options outside the groups converted to their types (1e3 to an integer).

    Args:
        config: configuration, which must have a node for each group.
        groups: groups whose nodes are checked.
        types: types of the options outside the groups; further options are faults.
        trust: modules whose classes the nodes may name.

    Raises:
        Faults: the configuration has faults.
    """
    plain = {key: value for key, value in config.items() if key not in groups}
    found = schema.option_faults(plain, types)
    for group in groups:
        found += schema.faults(config.get(group), NODES[group], group, trust)
    if not re.fullmatch(r"\w[\w.+-]*", str(config.get("name", "run"))):
        found.append(f"name: {config['name']!r} is no name for a folder: use only letters, digits, _ . + and -")
    found += [
        f"{key}: must lie between 1 and {MOST:.0e}, not {config[key]}"
        for key in ("count", "batch_size")
        if isinstance(config.get(key), int) and not 1 <= config[key] <= MOST
    ]
    if found:
        raise Faults("\n".join(found))
    return {key: schema.convert(value, types[key]) if key in plain else value for key, value in config.items()}


OWN = "operator"
"""Choice of the group ``guidance`` whose measurement has a class of the user's own."""


def choice(node: Mapping[str, Any]) -> str:
    """Returns the name of a choice: of the predictor and the corrector of a sampler that has them, else of the node.

    It is the name of the YAML file with the class of the node. Files with one class differ in their inner choices.
    Other classes have a name like that of the class.
    """
    parts = [node[key] for key in ("predictor", "corrector") if node.get(key)] or [node]
    return "-".join(map(_name, parts))


def _name(node: Mapping[str, Any]) -> str:
    files = _files().get(node["_target_"], {})
    if len(files) == 1:
        return next(iter(files))
    own = {key: _name(value) for key, value in node.items() if isinstance(value, Mapping) and "_target_" in value}
    for name, inner in files.items():
        # The first inner choice makes the file; the user may have changed the others.
        if inner and own.keys() <= inner.keys() and own.items() >= {*list(inner.items())[:1]}:
            return name
    return OWN if "measurement" in node else schema.snake_case(node["_target_"].rpartition(".")[2])


@cache
def _files() -> dict[str, dict[str, dict[str, str]]]:
    """Returns the names of the YAML files of each class, each with its inner choices by group."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for path in CONF.glob("*/**/*.yaml"):
        text = path.read_text(encoding="utf-8")
        if match := re.search(r"^_target_: (\S+)$", text, re.MULTILINE):
            found.setdefault(match[1], {})[path.stem] = dict(re.findall(r"^  - (\w+): (\w+)$", text, re.MULTILINE))
    return found


def flat(node: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Returns the path and the value of each option of a node."""
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        pairs += flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return pairs


def flat_options(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the path and the value of each option of a configuration. The value of a group is its choice."""
    pairs: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and "_target_" in value:
            pairs.append((key, choice(value)))
            pairs += [(f"{key}.{k}", v) for k, v in flat(value) if not k.endswith("_target_")]
        else:
            pairs.append((key, value))
    return pairs
