"""Ranges of options: the message, and the values on both sides of each bound."""

from __future__ import annotations

import math

import pytest

from sdegen.core.checks import in_range


@pytest.mark.parametrize(
    "bounds, inside, outside, wanted",
    [
        ({"above": 0}, 1e-300, 0.0, "be above 0"),
        ({"at_least": 0}, 0.0, -1e-300, "be at least 0"),
        ({"below": 2}, 1.999, 2.0, "be below 2"),
        ({"at_most": 2}, 2, 3, "be at most 2"),
        ({"at_least": 1, "at_most": 3}, 3, 4, "lie between 1 and 3"),
        ({"above": 0, "below": 1}, 0.5, 0.0, "be above 0 and below 1"),
        ({"at_least": 0, "below": 1}, 0.0, 1.0, "be at least 0 and below 1"),
    ],
)
def test_bounds_and_message(bounds: dict[str, float], inside: float, outside: float, wanted: str) -> None:
    assert in_range("steps", inside, **bounds) == inside
    with pytest.raises(ValueError) as refused:
        in_range("steps", outside, **bounds, fix=": try steps=1")
    shown = outside if isinstance(outside, int) else f"{outside:g}"
    assert str(refused.value) == f"steps={shown} must {wanted}: try steps=1"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="^lr=(nan|inf|-inf) must be a finite number"):
        in_range("lr", value, above=-1e300)


def test_large_whole_numbers_are_shown_in_full() -> None:
    with pytest.raises(ValueError, match="^steps=12345678 must"):
        in_range("steps", 12345678, at_most=10)
