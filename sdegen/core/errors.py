"""The exceptions that a user is meant to see."""

from __future__ import annotations

import re

NO_MEMORY = re.compile(r"(?i)out of memory|allocate memory|size calculation")
"""Messages of torch where memory is not enough: it raises a plain RuntimeError."""


class UserError(Exception):
    """Mistake of the user's, or trouble of the outside world, in one line with the fix."""


class Unwritable(UserError):
    """A failure to write a file, for example because the disk is full. The old file is still there."""


class Stopped(KeyboardInterrupt):
    """A request to stop, by a signal.

    Args:
        name: the signal's name.
        number: the signal's number.
    """

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.name, self.number = name, number
