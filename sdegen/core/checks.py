"""Checks of the ranges of options.

A constructor checks its own options. The message begins with the name of the option; the program adds the path.
"""

from __future__ import annotations

import math
from typing import TypeVar

N = TypeVar("N", int, float)


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
