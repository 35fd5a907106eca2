"""The arguments of a command: flags of Hydra, and overrides."""

from __future__ import annotations

import functools
import unicodedata
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from sdegen.core.errors import UserError

OPTIONAL = ("experiment", "sweep", "guidance")
"""Groups without a default choice. ``experiment=null`` cancels an earlier ``experiment=…``."""
EXECUTION = ("sweep=", "hydra", "forecast=", "devices=")
"""Prefixes of overrides that change how and where jobs run, but not the results of the jobs."""
UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories of characters that an argument must not contain, so that each message is one line."""
REFUSED = ("config_name", "config_path", "experimental_rerun")
"""Flags of Hydra that are refused, because with them a command would do something else."""


class Arguments(NamedTuple):
    """The arguments of a command.

    Args:
        flags: flags of Hydra, such as ``--multirun``.
        overrides: overrides ``key=value``, with quotes around values that Hydra cannot read without quotes.
    """

    flags: Namespace
    overrides: list[str]

    @property
    def asks_hydra(self) -> bool:
        """True if the arguments ask Hydra for information and not for a run."""
        flags = self.flags
        return bool(flags.hydra_help or flags.info or flags.cfg or flags.shell_completion)

    def values(self) -> dict[str, Any]:
        """Returns the options with a single value, by path."""
        single = (one for one in parsed(self.overrides) if not (one.is_sweep_override() or one.is_delete()))
        return {one.key_or_group: one.value() for one in single}


def read(arguments: Sequence[str]) -> Arguments:
    """Returns the arguments of a command as Hydra reads them.

    Raises:
        UserError: a flag is unknown, two flags exclude each other, or an override cannot be read.
    """
    given: list[str] = []
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group in OPTIONAL and value == "null":
            given = [other for other in given if not other.startswith(f"{group}=")]
        else:
            given.append(quoted(argument))
    parser = get_args_parser()
    # With abbreviations, --experiment would mean --experimental-rerun.
    parser.allow_abbrev = False
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(given)
    found = Arguments(flags, flags.overrides)
    if unwanted := [name for name in REFUSED if getattr(flags, name)]:
        _refuse(f"--{unwanted[0].replace('_', '-')} is fixed by the command; --config-dir adds a folder")
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        _refuse(f"--config-dir={flags.config_dir}: no such folder")
    if flags.resolve and not flags.cfg:
        _refuse("--resolve works only with --cfg job")
    if flags.multirun and found.asks_hydra:
        _refuse("--multirun runs jobs, but --cfg and --info only show a configuration")
    return found


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Returns overrides as Hydra reads them; raises UserError if one cannot be read."""
    try:
        return _parser().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UserError(unreadable(error.override)) from None


def quoted(argument: str) -> str:
    """Returns an argument, with quotes around a value that Hydra cannot read, such as a path with brackets."""
    if any(unicodedata.category(character) in UNSEEN for character in argument.replace("\t", " ")):
        raise UserError(f"{argument!r}: contains a line break or another invisible character: remove this character")
    key, equals, value = argument.partition("=")
    if argument.startswith("-") or not equals:
        return argument
    if not key:
        raise UserError(f"{argument}: no option before the =: write option=value")
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    for form in (argument, f"{key}='{escaped}'"):
        try:
            _parser().parse_override(form)
        except HydraException:
            continue
        return form
    return argument


def names(trust: object) -> list[str]:
    """Returns the modules that ``trust=`` names. ``trust`` is a list, one name or None."""
    return [] if trust is None else [str(name) for name in (trust if isinstance(trust, list) else [trust])]


def unreadable(override: str) -> str:
    """Returns the message for an argument that Hydra's grammar does not allow."""
    key = override.partition("=")[0].lstrip("+~")
    if "/" in key and "." in key:
        return f"{override}: / separates groups, and . separates options: try {key.replace('/', '.')}="
    shown = override if override.strip() else repr(override)
    return f"{shown}: cannot be read; write option=value, and lists as [1,2]"


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}: see --help")
