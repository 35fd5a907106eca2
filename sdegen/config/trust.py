"""Checks of checkpoints, which may come from a stranger. They run before anything is built or written."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from sdegen.config.compose import Config
from sdegen.config.construction import construct
from sdegen.config.options import GROUPS
from sdegen.core import schema
from sdegen.core.errors import UserError
from sdegen.core.schema import Trust
from sdegen.networks.base import at_most

DEEPEST, LONGEST, MOST = 20, 4096, 10**5
"""Largest depth, largest length of a string and largest number of entries in one part of a checkpoint."""


def plain(config: Config) -> Config:
    """Returns a checkpoint's configuration; raises UserError if a group is missing or a value is not plain data."""
    check_plain("configuration", config)
    if "${" in repr(config):
        raise UserError(
            "the checkpoint's configuration is refused: it contains an interpolation, ${…}: use the original one"
        )
    missing = [group for group in (*GROUPS, "seed") if group not in config]
    if missing:
        raise UserError(
            f"the checkpoint's configuration is refused: it has no {', '.join(missing)}: use the original checkpoint"
        )
    return config


def check_plain(name: str, content: object) -> None:
    """Raises UserError if a part of a checkpoint is too large, nested too deeply or not plain data.

    A list that occurs several times is counted each time. Such a list is small in the checkpoint, but YAML writes it
    each time and could fill the memory.
    """
    entries, left = 0, [(0, content)]
    while left:
        depth, value = left.pop()
        reason, entries = None, entries + 1
        if isinstance(value, Mapping | list | tuple):
            inner = [*value, *value.values()] if isinstance(value, Mapping) else value
            left += [(depth + 1, part) for part in inner]
        elif isinstance(value, str):
            if len(value) > LONGEST or re.search(r"[\x00-\x1f\x7f]", value):
                reason = "contains a string that is too long or not a single line"
        elif not isinstance(value, bool | int | float | None):
            reason = f"contains a {type(value).__name__}, which is not plain data"
        if depth > DEEPEST:
            reason = "is nested too deeply"
        if len(left) + entries > MOST:
            reason = "has too many entries"
        if reason:
            raise UserError(f"the checkpoint's {name} is refused: it {reason}: use the original checkpoint")


def check_size(config: Config, weights: Mapping[str, Tensor], trust: Trust, **supplied: object) -> None:
    """Raises UserError if the network in a checkpoint's configuration is larger than the weights in the checkpoint.

    ``supplied`` are the arguments that the checkpoint supplies to the network. The construction stops as soon as the
    network needs more bytes than the weights have. Classes outside this package are trusted and not checked.
    """
    config = {group: config[group] for group in ("sde", "network")}
    if any(schema.faults(config[group], GROUPS[group], group, trust) for group in config):
        return  # The caller reports these faults later, with all others and before anything is built.
    network = schema.resolve(config["network"]["_target_"], trust)
    if network.exact or network.__module__.partition(".")[0] != schema.PACKAGE:  # type: ignore[attr-defined]
        return
    storages = {one.data_ptr(): one for weight in weights.values() if (one := weight.untyped_storage())}
    held = sum(storage.nbytes() for storage in storages.values())
    supplied["sde"] = construct(config, "sde", trust)
    with torch.random.fork_rng(devices=[]), at_most(held, "the checkpoint contains: use the original checkpoint"):
        construct(config, "network", trust, **supplied)
