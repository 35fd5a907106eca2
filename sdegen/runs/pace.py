"""Message about the expected time of a long training, as soon as a few steps have been timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STEPS, SECONDS = 3, 10.0
"""Numbers of steps and of seconds that are timed. The first step is slower, and not counted."""
LONG = 1800.0
"""Seconds from which on a training is long."""
FACTOR = 3
"""Speed of a U-Net with half the channels, measured with 64 channels on images of 32 × 32."""

LEAST = 32
"""Smallest batch that is worth halving."""


class Pace:
    """Forecast of the rest of a training.

    Args:
        step: step at which the training starts.
        stop: last step.
        config: configuration of the training.
        parameters: number of trained parameters.
    """

    def __init__(self, step: int, stop: int, config: Mapping[str, Mapping[str, Any]], parameters: int) -> None:
        self.step, self.stop, self.config, self.parameters = step, stop, config, parameters
        self._first: tuple[int, float] | None = None
        self._told = False

    def message(self, step: int, now: float) -> str:
        """Returns the message at a time ``now`` in seconds, once for a long training; otherwise an empty string."""
        if self._told:
            return ""
        if self._first is None:
            self._first = (step, now)
        taken, seconds = step - self._first[0], now - self._first[1]
        if taken < STEPS or seconds < SECONDS:
            return ""
        self._told = True
        left = seconds / taken * (self.stop - step)
        if left < LONG:
            return ""
        return (
            f"expected time: {in_words(left)} for {self.stop - step} steps of {seconds / taken:.2g} s with "
            f"{self.parameters} parameters{self._faster()}"
        )

    def _faster(self) -> str:
        """Returns the options that make the training faster; empty if there are none."""
        found, channels = [], self.config["network"].get("channels")
        if isinstance(channels, int) and channels % 16 == 0:
            found.append(f"about {FACTOR} times as fast with network.channels={channels // 2}")
        size = self.config["trainer"]["batch_size"]
        # If epochs set the number of steps, half the batch means twice the steps.
        if self.config["trainer"]["epochs"] is None and size >= LEAST:
            found.append(f"about twice as fast with trainer.batch_size={size // 2}")
        return f": {', or '.join(found)}" if found else ""


def in_words(seconds: float) -> str:
    """Returns a duration in days and hours, hours and minutes, or minutes."""
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes % 1440 // 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
