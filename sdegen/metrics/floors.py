"""Floors and values of training sets, which depend on the data and not on the samples, and are computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

Numbers = dict[str, float]


class Floors:
    """Numbers that the metrics need beside the samples: floors, values of the training set, limits.

    A number is computed when it is needed for the first time. It may depend only on the data and on the name of its
    entry, which therefore contains the number of samples.

    Args:
        known: numbers from an earlier computation with the same data and the same code, by the names of the entries.
        memory: numbers that :meth:`once` has computed, by name; new ones are added. None to begin with none.

    Attributes:
        entries: all numbers that are known, by the names of the entries.
    """

    def __init__(self, known: Mapping[str, Numbers] | None = None, memory: dict[str, float] | None = None) -> None:
        self.entries = dict(known or {})
        self._memory = {} if memory is None else memory
        self._prefix = ""

    def of(self, name: str, keys: Iterable[str], compute: Callable[[], Numbers]) -> Numbers:
        """Returns the numbers of an entry. They are computed if the entry is not known or has other keys.

        Args:
            name: name of the entry, such as ``frechet of 2000 samples``.
            keys: names of the numbers.
            compute: function that returns the numbers.
        """
        name = f"{self._prefix}{name}"
        found = self.entries.get(name, {})
        if found.keys() != set(keys):
            found = self.entries[name] = compute()
        return found

    def once(self, name: str, compute: Callable[[], float]) -> float:
        """Returns a number on which values depend. It is kept in memory only: a file may come from a stranger."""
        name = f"{self._prefix}{name}"
        if name not in self._memory:
            self._memory[name] = compute()
        return self._memory[name]

    def part(self, name: str) -> Floors:
        """Returns a view of these floors for a part of the data, such as a class."""
        own = Floors(memory=self._memory)
        own.entries, own._prefix = self.entries, f"{self._prefix}{name}, "
        return own


def are_numbers(entry: object) -> bool:
    """Returns True if an entry of a file is a dictionary of finite floating-point numbers from 0."""
    return isinstance(entry, dict) and all(type(n) is float and 0 <= n < math.inf for n in entry.values())
