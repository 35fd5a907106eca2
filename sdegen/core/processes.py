"""The processes that torchrun starts for one command, and the exchange of numbers and of work between them.

Process 0 runs the command, and alone writes files and messages. The other processes wait in :meth:`Processes.serve` for
work from process 0: parts of a list (:meth:`Processes.each`), or calls of a partner, an object that each of them holds
(:meth:`Processes.partners`). A command without torchrun runs in one process, and nothing of this happens.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdegen.core.errors import UserError
from sdegen.core.meeting import GRACE, Meeting
from sdegen.core.messages import Failure, Lost, attempt, packed, unpacked

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("sdegen")

T = TypeVar("T")
R = TypeVar("R")

TIMEOUT = 600
"""Number of seconds that a process waits for the others in the exchange of a step; SDEGEN_TIMEOUT sets another one."""
FOREVER = datetime.timedelta(days=365)
"""Time that a process waits for work."""
SLOWER = 10
"""Factor by which the share of another process may take longer than that of process 0."""


class Processes:
    """The processes of a command.

    Args:
        rank: number of this process.
        size: number of processes.
        local: number of processes of the command on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 1) -> None:
        self.rank, self.size, self.local = rank, size, local
        self._partner: Any = None
        self._control: Any = None
        self._orders: Any = None
        # The others do not wait for work while they are busy. After the loss of a process, the connection is broken.
        self._busy = self._broken = False
        self._meeting = Meeting(rank, size)

    def join(self) -> None:
        """Connects the processes, and checks that they run the same command with the same code.

        Raises:
            UserError: the connection fails, or the commands or the code differ.
        """
        import torch
        from torch import distributed

        # With fewer devices than processes, the processes can work on the CPU only.
        cuda = torch.cuda.is_available() and torch.cuda.device_count() >= self.local
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        text = os.environ.get("SDEGEN_TIMEOUT", str(TIMEOUT))
        if not text.isdecimal() or not int(text):
            raise UserError(f"SDEGEN_TIMEOUT={text}: must be a number of seconds, such as {TIMEOUT}")
        self._waits = float(text)
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        wait = datetime.timedelta(seconds=int(text))
        try:
            store, kind = self._meeting.open(int(text)), "cpu:gloo,cuda:nccl" if cuda else "gloo"
            distributed.init_process_group(kind, store=store, rank=self.rank, world_size=self.size, timeout=wait)
            self._control = distributed.new_group(backend="gloo", timeout=FOREVER)
            # The others wait for work as long as it takes. Process 0 sends work only to processes that wait.
            self._orders = distributed.new_group(backend="gloo", timeout=FOREVER if self.rank else wait)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            fix = "the port is in use: choose another with --master-port" if "EADDRINUSE" in reason else reason
            raise UserError(f"torchrun: process {self.rank} cannot connect to {address}: {fix}") from None
        own = {"arguments": sys.argv[1:], "code of sdegen": _code(), "version of torch": torch.__version__}
        for rank, other in enumerate(self._gathered(own, self._waits)):
            for what, value in own.items():
                if other[what] != value:
                    found = f"{_short(other[what])}, not {_short(value)}"
                    raise UserError(
                        f"torchrun: the {what} of process {rank} and of process {self.rank} differ: {found}: start all "
                        f"processes with the same command and code"
                    )

    def leave(self) -> None:
        """Ends the other processes, and the connection to them."""
        from torch import distributed

        if self.rank == 0 and self._control is not None and not self._broken:
            with contextlib.suppress(Lost, RuntimeError):
                self._meeting.end()
                if not self._busy:
                    self._send("end", ())
                    # Wait for the answers: the connection must not close before the others have read it.
                    self._gathered(None, self._waits)
        self._control = None
        if distributed.is_initialized():
            distributed.destroy_process_group()

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
        parts = self._replies(answer, max(self._waits, SLOWER * (time.monotonic() - started)))
        return [parts[i % self.size][i // self.size] for i in range(len(items))]

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """Returns the items that this process computes in :meth:`each`."""
        alone = self.size == 1 or len(items) == 1 or self.rank or self._busy
        return items if alone else items[:: self.size]

    def partners(self, kind: Callable[..., Any], *arguments: object) -> None:
        """Makes the partner ``kind(*arguments)`` in each of the other processes. For process 0."""
        if self.size > 1:
            self._send("partner", (kind, arguments))
            self._replies(None, self._waits)

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
                kind, content = self._receive()
            except (ImportError, AttributeError) as error:
                # A class of the user that only process 0 can import.
                self._replies(Failure(error))
                continue
            if kind == "end":
                self._gathered(None)
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
            if self._meeting.ended():
                raise self._lost("")
            found.append(function(context, item))
        return found

    def ended(self) -> bool:
        """Returns True if process 0, which reports the reason, has ended by itself or ends in :data:`GRACE` seconds."""
        return self._meeting.ended(GRACE)

    @property
    def intact(self) -> bool:
        """True if the other processes wait for work."""
        return not self._busy

    def _make(self, kind: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self._partner = kind(*arguments)

    def add(self, vector: Tensor) -> None:
        """Adds up the vectors of all processes, in place, in the order that is fastest."""
        from torch import distributed

        if self.size > 1:
            with self._connected():
                distributed.all_reduce(vector)

    def add_in_tree(self, vector: Tensor, spare: Tensor) -> None:
        """Adds up the vectors of all processes, in place, in a binary tree. The number of processes is a power of two.

        Neighbours add their vectors first, then pairs of neighbours. Both sides of an exchange compute the same sum,
        because addition commutes, and so all processes have the same bits. ``spare`` is memory like the vector's.
        """
        from torch import distributed

        for level in range((self.size - 1).bit_length()):
            partner = self.rank ^ (1 << level)
            with self._connected():
                sides = ((distributed.isend, vector), (distributed.irecv, spare))
                works = distributed.batch_isend_irecv([distributed.P2POp(op, x, partner) for op, x in sides])
                for work in works:
                    work.wait()
            vector.add_(spare)

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Copies the tensors of process 0 to all processes, in place."""
        from torch import distributed

        for tensor in tensors:
            if self.size > 1:
                with self._connected():
                    distributed.broadcast(tensor, 0)

    @contextlib.contextmanager
    def _connected(self, waits: float | None = None) -> Iterator[None]:
        """Raises :class:`Lost` in place of the errors of a broken connection.

        ``waits`` is the number of seconds that this process waits for the others; None for that of a step.
        """
        try:
            yield
        except RuntimeError as error:
            raise self._lost(str(error), waits) from None

    def _lost(self, reason: str, waits: float | None = None) -> Lost:
        """Returns the error for a broken connection, which names the lost processes.

        The processes that still run report in the store of torchrun, which outlives them.
        """
        self._busy = self._broken = True
        if self._meeting.ended():
            lost = Lost(f"process {self.rank}: process 0 has ended")
            lost.speaks = False
            return lost
        missing = self._meeting.missing()
        several = missing is not None and len(missing) > 1
        names = f"process{'es' * several} {', '.join(map(str, missing))}" if missing else "another process"
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            seconds = f"{self._waits if waits is None else waits:.0f} s"
            what = f"no answer from {names} in {seconds}: if nothing hangs, set a longer time with SDEGEN_TIMEOUT"
        else:
            ends = "they were killed or have failed" if several else "it was killed or has failed"
            what = f"lost {names}: {ends}: look for an earlier message"
        lost = Lost(f"process {self.rank}: {what}")
        lost.speaks = missing is None or set(range(self.rank)) <= set(missing)
        return lost

    def _send(self, kind: str, content: object) -> None:
        """Sends work to the other processes. They wait for work again after :meth:`_replies` or :meth:`returned`."""
        import torch
        from torch import distributed

        data = packed((kind, content))
        with self._connected():
            distributed.broadcast(torch.tensor([len(data)]), 0, group=self._orders)
            distributed.broadcast(data, 0, group=self._orders)
        self._busy = True

    def _receive(self) -> tuple[str, Any]:
        """Returns the next work that process 0 sends."""
        import torch
        from torch import distributed

        with self._connected():
            length = torch.zeros(1, dtype=torch.int64)
            distributed.broadcast(length, 0, group=self._orders)
            data = torch.empty(int(length), dtype=torch.uint8)
            distributed.broadcast(data, 0, group=self._orders)
        return unpacked(data)

    def _replies(self, own: object, waits: float = math.inf) -> list[Any]:
        """Returns the answers of all processes in process 0, and an empty list elsewhere; raises the first failure.

        Process 0 waits at most ``waits`` seconds for the others.
        """
        found = self._gathered(own, waits)
        self._busy = False
        for rank, answer in enumerate(found):
            if isinstance(answer, Failure):
                raise answer.raised(rank)
        return found

    def _gathered(self, own: object, waits: float = math.inf) -> list[Any]:
        """Returns the objects of all processes in process 0, and an empty list elsewhere."""
        import torch
        from torch import distributed

        def received(tensor: Tensor, rank: int) -> Tensor:
            if (work := distributed.irecv(tensor, rank, group=self._control)) is not None:
                work.wait(datetime.timedelta(seconds=waits) if waits < math.inf else FOREVER)
            return tensor

        found = [own] if self.rank == 0 else []
        with self._connected(waits):
            if self.rank:
                data = packed(own)
                distributed.send(torch.tensor([len(data)]), 0, group=self._control)
                distributed.send(data, 0, group=self._control)
            else:
                for rank in range(1, self.size):
                    size = int(received(torch.zeros(1, dtype=torch.int64), rank))
                    found.append(unpacked(received(torch.empty(size, dtype=torch.uint8), rank)))
        return found


def _code() -> str:
    """Returns a hash of the source code of this package."""
    found = hashlib.blake2b(digest_size=8)
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return found.hexdigest()


def _short(value: object) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


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
        _present.join()
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
