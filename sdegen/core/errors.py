"""The exceptions a user is meant to see."""

from __future__ import annotations

import re

NO_MEMORY = re.compile(r"(?i)out of memory|allocate memory|size calculation")
"""What torch says where there is not enough memory: it has no error of its own for that."""


class UserError(Exception):
    """A mistake of the user's, or trouble of the outside world, told in one line that says the fix."""


class Unwritable(UserError):
    """A file that could not be written: the disk is full, say. What was there is there still."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop.

    Args:
        name: of the signal.
        number: its own.
    """

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.name, self.number = name, number
