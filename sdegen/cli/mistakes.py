"""Messages of one line for errors of Hydra and OmegaConf. For frequent errors, the message names the fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from sdegen.cli.arguments import unreadable
from sdegen.config.compose import CONF
from sdegen.core.errors import nearest


def explain(error: Exception, known: Callable[[], Sequence[str]]) -> str:
    """Returns a message of one line for an error of Hydra or OmegaConf.

    Args:
        error: exception to explain.
        known: function that returns every option and group by its full path.
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
        return _no_option(cause.full_key, known)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {' '.join(str(cause.msg).partition('full_key:')[0].split())}"
    if chosen := re.match(r"Multiple values for (\S+)\.", str(error)):
        # Replace Hydra's message, which is about YAML files and not about the command line.
        return f"{chosen[1]} has a choice already: remove the +"
    return " ".join(str(error).split())


def _no_option(key: str, known: Callable[[], Sequence[str]]) -> str:
    """Returns the message for an unknown option. It names choices that have this option, or the nearest option."""
    group, _, option = key.partition(".")
    files = sorted((CONF / group).glob("*.yaml")) if option else []
    if owners := [path.stem for path in files if re.search(rf"^{re.escape(option)}:", path.read_text(), re.MULTILINE)]:
        others = " and other choices have" if len(owners) > 3 else " have" if len(owners) > 1 else " has"
        named = ", ".join(f"{group}={owner}" for owner in owners[:3])
        return f"{key}: no option of the chosen {group}; {named}{others} this option"
    hint = nearest(key, known(), "")
    if f"did you mean {key}?" == hint:
        return f"{key}: no option of the chosen parts; --cfg job shows all options"
    return f"{key}: no such option; {hint}"
