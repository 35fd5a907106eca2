"""Exceptions that a user sees."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

NO_MEMORY = re.compile(r"(?i)out of memory|allocate memory|size calculation")
"""Pattern of torch's messages about too little memory. On the CPU, torch raises only a RuntimeError."""


class UserError(Exception):
    """A mistake of the user or a failure outside of the program, reported in one line with the fix."""


class Unwritable(UserError):
    """A failure to write a file, for example because the disk is full. The old file is unchanged."""


class Pruned(Exception):  # noqa: N818 - not an error
    """The early end of a training that a search over options asked for; its checkpoint is saved."""


class Stopped(KeyboardInterrupt):
    """A request to stop: what was stopped and saved, the number of the signal, and how to go on."""

    def __init__(self, what: str, number: int, again: str = "") -> None:
        super().__init__(what, number, again)
        self.what, self.number, self.again = what, number, again

    def __str__(self) -> str:
        return f"{self.what}; {self.again}" if self.again else self.what


def one_line(error: BaseException) -> str:
    """Returns the text of an error in one line; unless it is a :class:`UserError`, its type comes first."""
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def nearest(word: str, choices: Sequence[str], prefix: str = "") -> str:
    """Returns the end of a message about an unknown name.

    It has the nearest choices, each after ``prefix``, or all choices, or the command that shows them if they are many.
    """
    choices = list(dict.fromkeys(choices))
    same = [choice for choice in choices if choice.rpartition(".")[2] == word.rpartition(".")[2]]
    close = same[:3] or difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(prefix + choice for choice in close)}?"
    return f"choose from {', '.join(sorted(choices))}" if len(choices) < 30 else "--cfg job shows all options"
