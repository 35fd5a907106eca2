"""Parts that do not suit the forward process, and what to use in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdegen.core import schema
from sdegen.sde.base import LinearSDE


def refusals(config: Mapping[str, Any], parts: Mapping[str, Any], trust: Sequence[str]) -> list[str]:
    """Returns a line, with the fix, for each part that needs a closed-form kernel where the SDE has none.

    Args:
        config: the configuration, which names the parts.
        parts: objects or classes by their group.
        trust: modules whose classes the nodes may name.
    """
    if issubclass(schema.resolve(config["sde"]["_target_"], trust), LinearSDE):
        return []
    return [
        f"{group}={choice(config[group])} needs a closed-form kernel and sde={choice(config['sde'])} has none: {fix}"
        for group, part in parts.items()
        if (fix := part.kernel)
    ]


def choice(node: Mapping[str, Any]) -> str:
    """Returns a short name for a node: that of its predictor and corrector if it has them, else of its own class."""
    parts = [node[key] for key in ("predictor", "corrector") if node.get(key)] or [node]
    return "-".join(schema.snake_case(part["_target_"].rpartition(".")[2]) for part in parts)
