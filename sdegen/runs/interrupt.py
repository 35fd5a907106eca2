"""Signals that stop a run, from Ctrl-C, a shutdown, or a cluster that needs the machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sdegen.core.errors import Stopped

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
"""Signals that stop a run. Slurm sends the signal that ``--signal`` names, then SIGTERM; submitit sends SIGUSR2."""


class Interrupt:
    """Context in which a signal raises :class:`Stopped`. Inside :meth:`noted`, the first signal is only recorded.

    Only the main thread can handle signals; in other threads nothing changes.
    """

    def __init__(self) -> None:
        self._asked: signal.Signals | None = None
        self._noting = False
        self._previous: dict[signal.Signals, Any] = {}

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Record the first signal, and raise Stopped when the context is left. A second signal raises it at once."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False
        if self._asked is not None:
            raise Stopped(self._asked.name, self._asked)

    def note_all(self) -> Interrupt:
        """Records the first signal from now on, until the process ends."""
        self._noting = True
        return self.__enter__()

    def asked(self) -> bool:
        """Return True if a signal has arrived."""
        return self._asked is not None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = self._asked is not None, signal.Signals(number)
        if again or not self._noting:
            raise Stopped(self._asked.name, number)
