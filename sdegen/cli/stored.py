"""Registration of the configuration nodes of a trained run with Hydra.

Each node becomes the choice ``run`` of the node's group, so that overrides can change the node. The nodes are read
before Hydra composes a configuration. A checkpoint may come from a stranger, so only nodes that passed the checks
of :mod:`sdegen.config` reach Hydra.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from sdegen.cli.arguments import Arguments, names, quoted
from sdegen.config.compose import CONF, Config
from sdegen.config.options import SAMPLE, check
from sdegen.config.trust import plain
from sdegen.core.errors import UserError
from sdegen.core.schema import option_faults
from sdegen.runs import checkpoint, files, locks
from sdegen.runs.checkpoint import Checkpoint
from sdegen.runs.run import Run, load

log = logging.getLogger("sdegen")

REPLACED = ("network", "sde")
"""Groups whose nodes in a configuration replace those of the run."""


def offer(groups: Sequence[str], arguments: Arguments, required: bool) -> None:
    """Register nodes of the run given by ``run=``, each as the choice ``run`` of the node's group.

    If the arguments start jobs, ``run=`` and ``checkpoint=`` are replaced by the folder and the step that were read, so
    that all jobs use the same weights while a training writes new ones. So are those of the weaker network of
    ``guidance=auto``.

    Args:
        groups: groups whose nodes are read.
        arguments: arguments of the command.
        required: True if ``run=`` must be given; False for help, where the nodes are empty without a run.

    Raises:
        UserError: the run does not exist, or its nodes are refused.
    """
    nodes: Config = dict.fromkeys(groups, {})
    if required or "run" in arguments.values():
        run, saved = _read(arguments)
        config = plain(saved.config)
        nodes = check({group: config[group] for group in groups}, groups, {}, names(arguments.values().get("trust")))
        if required:
            _fix(arguments, run, saved)
    for group, node in nodes.items():
        store(group, node)


def _fix(arguments: Arguments, run: Path, saved: Checkpoint) -> None:
    """Names a run's folder and step in the arguments; logs a warning if the run is not trained."""
    given = arguments.values()
    fixed: dict[str, object] = {"run": run}
    if isinstance(other := given.get("guidance.run"), str):
        fixed["guidance.run"] = files.resolve(Path(other))
    if given.get("guidance") == "auto":
        fixed |= _weaker(arguments, Path(str(fixed.get("guidance.run", run))))
    swept = "checkpoint" not in given and any(one.startswith("checkpoint=") for one in arguments.overrides)
    if not swept and not isinstance(given.get("checkpoint"), int):
        # A folder that was copied may hold last.pt alone.
        if checkpoint.has(run, saved.step):
            fixed["checkpoint"] = saved.step
        if locks.is_claimed(run):
            log.warning(f"run={run}: is still training: its checkpoint of step {saved.step} is used")
        elif saved.step == 0 and saved.weights:
            log.warning(f"run={run}: is not trained yet: train it with sdegen train resume={shlex.quote(str(run))}")
    others = [one for one in arguments.overrides if one.partition("=")[0] not in fixed]
    arguments.overrides[:] = [*(quoted(f"{key}={value}") for key, value in fixed.items()), *others]


def _weaker(arguments: Arguments, run: Path) -> dict[str, object]:
    """Returns the argument with the step of the weaker network of ``guidance=auto``; empty if a step is given."""
    which = arguments.values().get("guidance.checkpoint")
    swept = which is None and any(one.startswith("guidance.checkpoint=") for one in arguments.overrides)
    if swept or which not in (None, "last", "best"):
        return {}
    # The checks of the guidance report a run that cannot be read.
    with contextlib.suppress(UserError):
        step = checkpoint.read(run, which or "last").step
        return {"guidance.checkpoint": step} if checkpoint.has(run, step) else {}
    return {}


def loaded(config: Config) -> Run:
    """Loads the run of a checked configuration, whose nodes ``network`` and ``sde`` replace those of the run.

    The last run is kept, so that the jobs of a command that run in one process load it once, and read its data once.
    """
    file = checkpoint.find(Path(config["run"]), config["checkpoint"])
    options = ("run", "checkpoint", "weights", "ema", "device", "precision", "trust", *REPLACED)
    settings = {key: config[key] for key in options}
    return _loaded(json.dumps(settings), str(file.resolve()), file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _loaded(settings: str, path: str, changed: int) -> Run:
    """Loads a run with settings in JSON; ``path`` and ``changed`` are the checkpoint's file and its last change."""
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


def _read(arguments: Arguments) -> tuple[Path, Checkpoint]:
    """Returns the folder and the checkpoint of the run that ``run=`` and ``checkpoint=`` name."""
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
    step, run = given.get("checkpoint"), files.resolve(Path(given["run"]))
    which: Any = step if isinstance(step, str) else "last" if step is None else int(step)
    return run, checkpoint.read(run, which)
