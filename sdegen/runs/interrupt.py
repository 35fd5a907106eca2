"""Signals that stop a run, from Ctrl-C, a shutdown, or a cluster that needs the machine."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sdegen.core.errors import Stopped

log = logging.getLogger("sdegen")

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
"""Signals that stop a run. Slurm sends the signal that ``--signal`` names, then SIGTERM; submitit sends SIGUSR2."""


class Interrupt:
    """Context in which a signal raises :class:`Stopped`. Inside :meth:`noted`, a signal is only recorded.

    A launcher may have a handler of its own, which is called in place of raising Stopped: that of submitit puts the job
    into the queue of the cluster again and exits for SIGUSR2, and ignores SIGTERM, which Slurm sends as a notice.

    Only the main thread can handle signals; in other threads nothing changes.
    """

    def __init__(self) -> None:
        self._asked: list[int] = []
        self._noting = False
        self._previous: dict[signal.Signals, Any] = {}

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Record signals, and answer them when the context is left. A signal that comes again is answered at once."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False
        while self._asked:
            self._answer(self._asked.pop(0))

    def note_all(self) -> Interrupt:
        """Records signals from now on, until the process ends. A signal that comes again raises Stopped."""
        self._noting = True
        return self.__enter__()

    def asked(self) -> bool:
        """Return True if a signal has arrived."""
        return bool(self._asked)

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Slurm sends SIGTERM together with another signal. Only a signal that comes again ends the run without a save.
        if self._noting and number not in self._asked:
            self._asked.append(number)
        else:
            self._answer(number)

    def _answer(self, number: int) -> None:
        """Call the launcher's handler of a signal, or raise Stopped."""
        known = signal.Signals(number)
        before = self._previous.get(known)
        if not callable(before) or before is signal.default_int_handler:
            raise Stopped(known.name, number)
        log.info(f"{known.name} arrived: the launcher decides whether the job goes on")
        before(number, None)
