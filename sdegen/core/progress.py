"""Progress of work that takes more than a few seconds, and the format of messages."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

log = logging.getLogger("sdegen")

DELAY = 2.0
"""Number of seconds after which progress is shown."""
INTERVAL = 5.0
"""Number of seconds between two lines of progress where no bar can be shown."""


class Progress:
    """Report of the progress of work that may take long: a bar in a terminal or a notebook, lines elsewhere.

    Nothing is shown before :data:`DELAY` seconds have passed.

    Args:
        what: name of the work.
        unit: name of the parts of the work, in the plural.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._bar: Any = None
        self._began = time.monotonic()
        self._due = self._began + DELAY

    def to(self, done: int, total: int | None) -> None:
        """Reports that ``done`` of ``total`` parts are done; ``total`` is None if it is not known yet."""
        now = time.monotonic()
        if now < self._due:
            return
        if has_bar():
            self._show(done, total)
            return
        self._due = now + INTERVAL
        if total is None:
            say(f"{self._what}: {done} {self._unit}, {now - self._began:.0f} s")
        elif done:
            left = (now - self._began) * max(total - done, 0) / done
            say(f"{self._what}: {done} of {total} {self._unit}, {left:.0f} s left")

    def _show(self, done: int, total: int | None) -> None:
        if self._bar is None:
            self._bar = make_bar(desc=self._what, unit=f" {self._unit}", leave=False)
            # The rate and the remaining time must include the time before the bar was shown.
            self._bar.start_t -= time.monotonic() - self._began
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()


class Evaluations:
    """Report of the progress of work on points, in evaluations of a model.

    Args:
        what: name of the work.
        points: number of points.
        each: number of evaluations for each point; None if it is not known before the first batch.
    """

    def __init__(self, what: str, points: int, each: float | None = None) -> None:
        self._points, self._each, self._finished, self._shown = points, each, 0, Progress(what, "evaluations")
        self.close = self._shown.close

    def to(self, rows: int) -> None:
        """Reports the number of evaluations so far."""
        self._shown.to(rows, None if self._each is None else round(self._points * self._each))

    def finish(self, points: int, rows: int) -> None:
        """Notes that a batch of points is finished, after ``rows`` evaluations for it and the batches before.

        The other batches are expected to take as many evaluations for each point.
        """
        self._finished += points
        self._each = rows / self._finished


class Marked(logging.Formatter):
    """Formatter with the field ``mark``, which marks warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the text of a record."""
        marks = {logging.WARNING: "warning: ", logging.ERROR: "error: "}
        record.mark = marks.get(record.levelno, "")
        return super().format(record)


def say(message: str) -> None:
    """Logs a line of progress; also writes it to standard error if no handler shows it, as in a script in Python."""
    log.info(message)
    if not log.hasHandlers():
        print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def announced(message: str) -> Iterator[None]:
    """Logs a message while the context is open, if it is open for more than :data:`DELAY` seconds."""
    timer = threading.Timer(DELAY, say, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def has_bar() -> bool:
    """Returns True if this process can show a bar; bars of several processes would overwrite each other."""
    notebook = "IPKernelApp" in getattr(shell(), "config", ())
    return (sys.stderr.isatty() or notebook) and multiprocessing.current_process().name == "MainProcess"


def make_bar(**options: Any) -> Any:  # noqa: ANN401 - tqdm has no types
    """Returns a bar of tqdm."""
    with warnings.catch_warnings():
        # A notebook without ipywidgets gets a text bar; the warning about it is not needed.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm(**options)


def shell() -> Any:  # noqa: ANN401 - IPython is no dependency
    """Returns the IPython shell that runs this process; None if there is none."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
