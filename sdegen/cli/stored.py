"""Registration of the configuration nodes of a trained run with Hydra.

Each node becomes the choice ``run`` of the node's group, so that overrides can change the node. The nodes are read
before Hydra composes a configuration. A checkpoint may come from a stranger, so only nodes that passed the checks
of :mod:`sdegen.config` reach Hydra.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore

from sdegen.cli.arguments import Arguments, names
from sdegen.config.compose import CONF, Config
from sdegen.core.errors import UserError

if TYPE_CHECKING:
    from sdegen.runs.run import Run


REPLACED = ("network", "sde")
"""Groups whose nodes in a configuration replace those of the run."""


def offer(groups: Sequence[str], arguments: Arguments, required: bool) -> None:
    """Register nodes of the run given by ``run=``, each as the choice ``run`` of the node's group.

    Args:
        groups: groups whose nodes are read.
        arguments: arguments of the command.
        required: True if ``run=`` must be given; False for help, where the nodes are empty without a run.

    Raises:
        UserError: the run does not exist, or its nodes are refused.
    """
    nodes = _nodes(groups, arguments) if required or "run" in arguments.values() else dict.fromkeys(groups, {})
    for group, node in nodes.items():
        store(group, node)


def loaded(config: Config) -> Run:
    """Loads the run of a checked configuration, whose nodes ``network`` and ``sde`` replace those of the run.

    The last run is kept, so that the jobs of a command that run in one process load it once, and read its data once.
    """
    from sdegen.runs import checkpoint

    file = checkpoint.find(Path(config["run"]), config["checkpoint"])
    options = ("run", "checkpoint", "weights", "device", "precision", "trust", *REPLACED)
    settings = {key: config[key] for key in options}
    return _loaded(json.dumps(settings), str(file.resolve()), file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _loaded(settings: str, path: str, changed: int) -> Run:
    """Loads a run with settings in JSON; ``path`` and ``changed`` are the checkpoint's file and its last change."""
    from sdegen.runs.run import load

    options = json.loads(settings)
    return load(options.pop("run"), nodes={group: options.pop(group) for group in REPLACED}, **options)


def store(group: str, node: Mapping[str, Any]) -> None:
    """Register a checked node as the choice ``run`` of a group, and each inner node as a choice of a sub-group.

    Raises:
        UserError: Hydra could read an option's name as part of a defaults list, and such a list can build any class.
    """
    refused = [str(key) for key in node if key == "defaults" or not re.fullmatch(r"\w+", str(key))]
    if refused:
        raise UserError(
            f"{group}: the checkpoint's configuration is refused: the option name {refused[0]!r} is not allowed: use "
            f"the original checkpoint"
        )
    inner = {key: value for key, value in node.items() if isinstance(value, Mapping) and "_target_" in value}
    for key, value in inner.items():
        store(f"{group}/{key}", value)
    # If an optional part is null, use the choice "none" of its sub-group, so that an override can choose another part.
    absent = [key for key, value in node.items() if value is None and (CONF / group / key / "none.yaml").exists()]
    own = {key: value for key, value in node.items() if key not in inner and key not in absent}
    defaults = [*({key: "run"} for key in inner), *({key: "none"} for key in absent), "_self_"]
    ConfigStore.instance().store(name="run", group=group, node={**own, "defaults": defaults})


def _nodes(groups: Sequence[str], arguments: Arguments) -> Config:
    from sdegen.config.options import SAMPLE, check
    from sdegen.config.trust import plain
    from sdegen.core.schema import option_faults
    from sdegen.runs import checkpoint

    given = arguments.values()
    if found := option_faults({key: given[key] for key in ("run", "checkpoint") if key in given}, SAMPLE):
        raise UserError("\n".join(found))
    if "run" not in given:
        swept = any(override.startswith("run=") for override in arguments.overrides)
        raise UserError(
            "run= cannot be swept: use one command for each run"
            if swept
            else "run= is missing: name the folder of a run, as in run=outputs/smile/latest"
        )
    step = given.get("checkpoint")
    which: Any = step if isinstance(step, str) else "last" if step is None else int(step)
    config = plain(checkpoint.read(Path(given["run"]), which).config)
    return check({group: config[group] for group in groups}, groups, {}, names(given.get("trust")))
