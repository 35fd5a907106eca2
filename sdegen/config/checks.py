"""The check of a configuration before anything is built."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sdegen.config.compose import Config
from sdegen.config.options import NODES
from sdegen.core import schema
from sdegen.core.errors import UserError

MOST = 10**9
"""Upper limit for ``count`` and ``batch_size``."""


class Faults(UserError):
    """All that is wrong with a configuration, a line each."""


def check(config: Config, groups: Sequence[str], types: Mapping[str, Any], trust: Sequence[str]) -> Config:
    """Returns a configuration without faults, its plain options in their types, such as 1e3 as an integer.

    Args:
        config: the configuration, plain data.
        groups: the groups that it must have.
        types: the types of its other options.
        trust: modules whose classes the nodes may name.

    Raises:
        Faults: all that is wrong with it.
    """
    plain = {key: value for key, value in config.items() if key not in groups}
    found = schema.option_faults(plain, types)
    for group in groups:
        found += schema.faults(config.get(group), NODES[group], group, trust)
    if not re.fullmatch(r"\w[\w.+-]*", str(config.get("name", "run"))):
        found.append(f"name: {config['name']!r} names a folder: use letters, digits, _ . + and - only")
    found += [
        f"{key}: must lie between 1 and {MOST:.0e}, not {config[key]}"
        for key in ("count", "batch_size")
        if isinstance(config.get(key), int) and not 1 <= config[key] <= MOST
    ]
    if found:
        raise Faults("\n".join(found))
    return {key: schema.convert(value, types[key]) if key in plain else value for key, value in config.items()}
