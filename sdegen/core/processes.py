"""The processes that torchrun starts for one command, and the exchange of work between them.

Process 0 runs the command, and alone writes files and messages. The other processes wait in :meth:`Processes.serve` for
work from process 0: parts of a list (:meth:`Processes.each`), or calls of a partner, an object that each of them holds
(:meth:`Processes.partners`). A command without torchrun runs in one process, and nothing of this happens.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from sdegen.core.connection import Connection
from sdegen.core.errors import UserError
from sdegen.core.meeting import GRACE
from sdegen.core.messages import Failure, Lost, attempt

log = logging.getLogger("sdegen")

T = TypeVar("T")
R = TypeVar("R")

SLOWER = 10
"""Factor by which the share of another process may take longer than that of process 0."""


class Processes(Connection):
    """The processes of a command: see :class:`sdegen.core.connection.Connection`."""

    def __init__(self, rank: int = 0, size: int = 1, local: int = 1) -> None:
        super().__init__(rank, size, local)
        self._partner: Any = None
        # The others do not wait for work while they are busy.
        self._busy = False

    def leave(self) -> None:
        """Ends the other processes, and the connection to them."""
        if self.rank == 0 and self.is_open and not self.broken:
            with contextlib.suppress(Lost, RuntimeError):
                self.meeting.end()
                if not self._busy:
                    self._send("end", ())
                    # Wait for the answers: the connection must not close before the others have read it.
                    self.gathered(None, self.waits)
        self.close()

    def each(
        self,
        function: Callable[[Any, Any], R],
        context: object,
        items: Sequence[T],
        here: Callable[[T], R] | None = None,
    ) -> list[R]:
        """Returns ``function(context, item)`` for all items in order. The processes share the items. For process 0.

        Args:
            function: function of a module. Its arguments and results must be picklable.
            context: first argument of the function, equal for all items.
            items: second arguments, one after the other.
            here: function of an item to call in process 0 in place of ``function``, such as one that shows progress.
        """
        here = here or partial(function, context)
        own = self.own(items)
        if len(own) == len(items):
            return [here(item) for item in items]
        try:
            self._send("each", (function, context, items))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            log.warning(f"process 0 works alone here, because {error}: define classes and functions in a module")
            return [here(item) for item in items]
        started = time.monotonic()
        answer = attempt(lambda: [here(item) for item in own])
        parts = self._replies(answer, max(self.waits, SLOWER * (time.monotonic() - started)))
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """Returns the items that this process computes in :meth:`each`."""
        alone = self.size == 1 or len(items) == 1 or self.rank or not self.intact
        return items if alone else items[:: self.size]

    def partners(self, kind: Callable[..., Any], *arguments: object) -> None:
        """Makes the partner ``kind(*arguments)`` in each of the other processes. For process 0."""
        if self.size > 1:
            self._send("partner", (kind, arguments))
            self._replies(None, self.waits)

    def call(self, method: str, *arguments: object) -> None:
        """Calls a method of the partners, and does not wait for its end. For process 0.

        Process 0 then takes part in the exchanges that the method makes, and calls :meth:`returned` after the last one.
        """
        if self.size > 1:
            self._send("call", (method, arguments))

    def returned(self) -> None:
        """Notes that the method of :meth:`call` has ended, and that the partners wait for work again."""
        self._busy = False

    def serve(self) -> None:
        """Does the work that process 0 sends, until process 0 ends."""
        while True:
            try:
                kind, content = self.receive()
            except (ImportError, AttributeError) as error:
                # A class of the user that only process 0 can import.
                self._replies(Failure(error))
                continue
            if kind == "end":
                self.gathered(None)
                return
            if kind == "call":
                method, arguments = content
                getattr(self._partner, method)(*arguments)
                continue
            if kind == "partner":
                make, arguments = content
                answer = attempt(partial(self._make, make, arguments))
            else:
                function, context, items = content
                answer = attempt(partial(self._share_of, function, context, items))
            self._replies(answer)

    def _share_of(self, function: Callable[[Any, Any], Any], context: object, items: Sequence[Any]) -> list[Any]:
        found = []
        for item in items[self.rank :: self.size]:
            if self.meeting.ended():
                raise self._lost("")
            found.append(function(context, item))
        return found

    def ended(self) -> bool:
        """Returns True if process 0, which reports the reason, has ended by itself or ends in :data:`GRACE` seconds."""
        return self.meeting.ended(GRACE)

    @property
    def intact(self) -> bool:
        """True if the other processes wait for work."""
        return not (self._busy or self.broken)

    def _send(self, kind: str, content: object) -> None:
        """Sends work to the other processes. They wait for work again after :meth:`_replies` or :meth:`returned`."""
        self.send((kind, content))
        self._busy = True

    def _make(self, kind: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self._partner = kind(*arguments)

    def _replies(self, own: object, waits: float = math.inf) -> list[Any]:
        """Returns the answers of all processes as :meth:`gathered` does; raises the first failure."""
        found = self.gathered(own, waits)
        self._busy = False
        for rank, answer in enumerate(found):
            if isinstance(answer, Failure):
                raise answer.raised(rank)
        return found


ALONE = Processes()
"""The only process of a command without torchrun."""
_present = ALONE


def present() -> Processes:
    """Returns the processes of this command; a single one without torchrun."""
    return _present


def started() -> int:
    """Returns the number of processes that torchrun has started for this program; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if {"RANK", "MASTER_ADDR"} <= os.environ.keys() else 1


def run(command: Callable[[], object]) -> None:
    """Runs a command in process 0 of those that torchrun started, and serves it in the others.

    Raises:
        UserError: the processes cannot be connected, or the command fails.
    """
    global _present  # noqa: PLW0603 - torch's processes are global, too
    size = started()
    if size == 1:
        command()
        return
    _present = Processes(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    try:
        _present.open()
        if _present.rank:
            _present.serve()
        else:
            command()
    except Lost as lost:
        if lost.speaks:
            raise
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        if _present.rank == 0:
            raise
        # The signal reaches process 0, too, which reports it. Wait, because torchrun would kill process 0 after the end
        # of this one.
        _present.leave()
        _present.ended()
        raise SystemExit(1) from None
    except Exception as error:
        if _present.rank == 0:
            raise
        # The same error may occur in all processes. It is reported once.
        known = isinstance(error, UserError)
        if _present.ended():
            raise SystemExit(2 if known else 1) from None
        if known:
            raise UserError(f"process {_present.rank}: {error}") from None
        raise
    finally:
        _present.leave()
        _present = ALONE


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Returns a context in which process 0 does not share its work."""
    global _present  # noqa: PLW0603 - as above
    group, _present = _present, ALONE
    try:
        yield
    finally:
        _present = group
