"""From a configuration to objects: checks, measured options, rules between parts, and what a stranger may name."""

from sdegen.config.assembly import build, check

__all__ = ["build", "check"]
