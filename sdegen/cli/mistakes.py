"""Messages of one line for errors of Hydra and OmegaConf. For frequent errors, the message names the fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from sdegen.cli.arguments import unreadable
from sdegen.config.compose import CONF, primary
from sdegen.core.errors import nearest

COMMANDS = ("train", "sample", "evaluate", "verify")
"""Commands with options."""


def explain(error: Exception, known: Callable[[], Sequence[str]], command: str) -> str:
    """Returns a message of one line for an error of Hydra or OmegaConf.

    Args:
        error: exception to explain.
        known: function that returns every option and group by its full path.
        command: name of the command.
    """
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice}: no such choice; {nearest(choice, error.options or (), f'{group}=')}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} is missing: give {cause.full_key}=…"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return _no_option(cause.full_key, known, command)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if "Cannot merge" in str(cause.msg):
            return (
                f"{cause.full_key}: a list cannot replace named options, and named options cannot replace a list: "
                f"sdegen {command} --help {cause.full_key.partition('.')[0]}=… shows the option"
            )
        return f"{cause.full_key}: {' '.join(str(cause.msg).partition('full_key:')[0].split())}"
    missing = re.match(r"Could not override '(\S+)'\.", str(error))
    if missing and (foreign := _of_others(missing[1], command)):
        return foreign
    if chosen := re.match(r"Multiple values for (\S+)\.", str(error)):
        # Replace Hydra's message, which is about YAML files and not about the command line.
        return f"{chosen[1]} has a choice already: remove the +"
    return " ".join(str(error).split())


def _no_option(key: str, known: Callable[[], Sequence[str]], command: str) -> str:
    """Returns the message for an unknown option.

    It names the choices or the commands that have this option, or else the nearest option.
    """
    group, _, option = key.partition(".")
    files = sorted((CONF / group).glob("*.yaml")) if option else []
    if owners := [path.stem for path in files if re.search(rf"^{re.escape(option)}:", path.read_text(), re.MULTILINE)]:
        others = " and other choices have" if len(owners) > 3 else " have" if len(owners) > 1 else " has"
        named = ", ".join(f"{group}={owner}" for owner in owners[:3])
        return f"{key}: no option of the chosen {group}; {named}{others} this option"
    names = list(dict.fromkeys(known()))
    same = [name for name in names if _last(name) == _last(key)][:3]
    # The names have the groups of all commands.
    if (key in same or not same) and (foreign := _of_others(key, command)):
        return foreign
    if key not in same and (close := same or _nearest(key, names)):
        return f"{key}: no such option; did you mean {' or '.join(close)}?"
    return f"{key}: no such option; sdegen {command} --help shows the options"


def _of_others(key: str, command: str) -> str:
    """Returns the message for an option of other commands; an empty text if no other command has the option."""
    name = key.partition(".")[0]
    owners = [f"sdegen {other}" for other in COMMANDS if name in _own(other)]
    if not owners or f"sdegen {command}" in owners:
        return ""
    return f"{key}: no option of sdegen {command}; {name} is an option of {', '.join(owners)}"


def _own(command: str) -> list[str]:
    """Returns the names of the options and groups of a command."""
    options, groups = primary(command)
    return [*options, *groups]


def _nearest(key: str, names: Sequence[str]) -> list[str]:
    """Returns the name whose last part is nearest to the last part of ``key``, in the same group if there is one."""
    group = f"{key.rpartition('.')[0]}."
    chosen = [name for name in names if name.startswith(group)]
    ends = {_last(name): name for name in reversed(chosen or names)}
    return [ends[end] for end in difflib.get_close_matches(_last(key), ends, n=1, cutoff=0.5 if chosen else 0.7)]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
