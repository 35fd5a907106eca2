"""Checks of the ranges of options, and of the arguments of calls from Python.

A constructor checks its own options. The message begins with the name of the option; the program adds the path.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from sdegen.core.errors import UserError

N = TypeVar("N", int, float)
P = ParamSpec("P")
R = TypeVar("R")


def in_range(
    name: str,
    value: N,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    fix: str = "",
) -> N:
    """Returns the value of an option if it lies in a range.

    Raises:
        ValueError: the value is outside of the range or not finite. The message ends with ``fix``.
    """
    if above < value < below and at_least <= value <= at_most:
        return value
    if not math.isfinite(value):
        wanted = "be a finite number"
    elif math.isfinite(at_least) and math.isfinite(at_most):
        wanted = f"lie between {at_least:g} and {at_most:g}"
    else:
        bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
        wanted = "be " + " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
    shown = f"{value:g}" if isinstance(value, float) else value
    raise ValueError(f"{name}={shown} must {wanted}{fix}")


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a public function: a call with unknown, missing or too many arguments raises UserError."""
    signature = inspect.signature(function)
    named = [name for name in signature.parameters if name != "self"]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UserError(f"{function.__name__}: {error}: the arguments are {', '.join(named)}") from None
        return function(*args, **kwargs)

    return call


def as_path(name: str, value: object) -> Path:
    """Returns the argument ``name`` as a path; raises UserError if it is no path."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name}: must be a path, such as 'outputs/smile/latest', not {value!r:.100}")
    return Path(value)
