"""Errors of Hydra and OmegaConf, in one line each; frequent ones with the fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from sdegen.cli.arguments import unreadable
from sdegen.config.compose import CONF
from sdegen.core.errors import nearest


def explain(error: Exception, known: Callable[[], Sequence[str]]) -> str:
    """Returns one line for what Hydra or OmegaConf raised.

    Args:
        error: what was raised.
        known: returns every option and group by its full path.
    """
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(error.missing_cfg_file, error.options or ())
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key}: is missing: give {cause.full_key}=…"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        return _no_option(cause.full_key, known)
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {' '.join(str(cause.msg).partition('full_key:')[0].split())}"
    if chosen := re.match(r"Multiple values for (\S+)\.", str(error)):
        # Hydra's own words are about YAML files.
        return f"{chosen[1]}: is chosen already: drop the +"
    return " ".join(str(error).split())


def _no_choice(path: str, choices: Sequence[str]) -> str:
    group, _, choice = path.rpartition("/")
    return f"{group}={choice}: no such choice; {nearest(choice, choices, f'{group}=')}"


def _no_option(key: str, known: Callable[[], Sequence[str]]) -> str:
    """Returns one line for an unknown option, with the choices that have such an option, or with the nearest name."""
    group, _, option = key.partition(".")
    if owners := [path.stem for path in sorted((CONF / group).glob("*.yaml")) if option and _names(path, option)]:
        others = " and others have" if len(owners) > 3 else " have" if len(owners) > 1 else " has"
        named = ", ".join(f"{group}={owner}" for owner in owners[:3])
        return f"{key}: no option of the chosen {group}; {named}{others} it"
    hint = nearest(key, known(), "")
    if f"did you mean {key}?" == hint:
        return f"{key}: is no option of the choices made here; --cfg job shows their options"
    return f"{key}: no such option; {hint}"


def _names(path: Path, option: str) -> bool:
    """True if a YAML file has an option."""
    return any(line.startswith(f"{option}:") for line in path.read_text().splitlines())
