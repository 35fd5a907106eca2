"""The connection between the processes that torchrun starts for one command, and the exchange of numbers on it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdegen.core.errors import UserError
from sdegen.core.meeting import GRACE, Meeting
from sdegen.core.messages import Lost, packed, unpacked

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = 600
"""Number of seconds that a process waits for the others in the exchange of a step; SDEGEN_TIMEOUT sets another one."""
FOREVER = datetime.timedelta(days=365)
"""Time that a process waits for work."""


class Connection:
    """The connection of a process to the others.

    Args:
        rank: number of this process.
        size: number of processes.
        local: number of processes of the command on this machine.

    Attributes:
        waits: number of seconds that a process waits for the others in the exchange of a step.
        broken: True after the loss of a process.
    """

    waits: float = TIMEOUT
    broken = False

    def __init__(self, rank: int = 0, size: int = 1, local: int = 1) -> None:
        self.rank, self.size, self.local = rank, size, local
        self.meeting = Meeting(rank, size)
        self._control: Any = None
        self._orders: Any = None

    @property
    def is_open(self) -> bool:
        """True between :meth:`open` and :meth:`close`."""
        return self._control is not None

    def open(self) -> None:
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
            if self.rank:
                # Process 0 reports the mistake, and its end ends the others.
                time.sleep(GRACE)
            raise UserError(f"SDEGEN_TIMEOUT={text}: must be a number of seconds, such as {TIMEOUT}")
        self.waits = float(text)
        address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        wait = datetime.timedelta(seconds=int(text))
        try:
            store, kind = self.meeting.open(int(text)), "cpu:gloo,cuda:nccl" if cuda else "gloo"
            distributed.init_process_group(kind, store=store, rank=self.rank, world_size=self.size, timeout=wait)
            self._control = distributed.new_group(backend="gloo", timeout=FOREVER)
            # The others wait for work as long as it takes. Process 0 sends work only to processes that wait.
            self._orders = distributed.new_group(backend="gloo", timeout=FOREVER if self.rank else wait)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            fix = "the port is in use: choose another with --master-port" if "EADDRINUSE" in reason else reason
            raise UserError(f"torchrun: process {self.rank} cannot connect to {address}: {fix}") from None
        self._compare({"arguments": sys.argv[1:], "code of sdegen": _code(), "version of torch": torch.__version__})

    def _compare(self, own: dict[str, object]) -> None:
        """Raises UserError in process 0 if a value of another process differs."""
        for rank, other in enumerate(self.gathered(own, self.waits)):
            for what, value in own.items():
                if other[what] != value:
                    found = f"{_short(other[what])}, not {_short(value)}"
                    raise UserError(
                        f"torchrun: the {what} of process {rank} and of process {self.rank} differ: {found}: start all "
                        f"processes with the same command and code"
                    )

    def close(self) -> None:
        """Closes the connection."""
        from torch import distributed

        self._control = None
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def add(self, vector: Tensor) -> None:
        """Adds up the vectors of all processes, in place, in the order that is fastest."""
        from torch import distributed

        if self.size > 1:
            with self.connected():
                distributed.all_reduce(vector)

    def add_in_tree(self, vector: Tensor, spare: Tensor) -> None:
        """Adds up the vectors of all processes, in place, in a binary tree. The number of processes is a power of two.

        Neighbours add their vectors first, then pairs of neighbours. Both sides of an exchange compute the same sum,
        because addition commutes, and so all processes have the same bits. ``spare`` is memory like the vector's.
        """
        from torch import distributed

        for level in range((self.size - 1).bit_length()):
            partner = self.rank ^ (1 << level)
            with self.connected():
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
                with self.connected():
                    distributed.broadcast(tensor, 0)

    @contextlib.contextmanager
    def connected(self, waits: float | None = None) -> Iterator[None]:
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
        self.broken = True
        if self.meeting.ended():
            lost = Lost(f"process {self.rank}: process 0 has ended")
            lost.speaks = False
            return lost
        missing = self.meeting.missing()
        several = missing is not None and len(missing) > 1
        names = f"process{'es' * several} {', '.join(map(str, missing))}" if missing else "another process"
        if "timed out" in reason.lower() or "timeout" in reason.lower():
            seconds = f"{self.waits if waits is None else waits:.0f} s"
            what = f"no answer from {names} in {seconds}: if nothing hangs, set a longer time with SDEGEN_TIMEOUT"
        else:
            ends = "they were killed or have failed" if several else "it was killed or has failed"
            what = f"lost {names}: {ends}: look for an earlier message"
        lost = Lost(f"process {self.rank}: {what}")
        lost.speaks = missing is None or set(range(self.rank)) <= set(missing)
        return lost

    def send(self, content: object) -> None:
        """Sends an object from process 0 to the other processes, which wait for it in :meth:`receive`."""
        import torch
        from torch import distributed

        data = packed(content)
        with self.connected():
            distributed.broadcast(torch.tensor([len(data)]), 0, group=self._orders)
            distributed.broadcast(data, 0, group=self._orders)

    def receive(self) -> Any:  # noqa: ANN401 - any object
        """Returns the next object that process 0 sends."""
        import torch
        from torch import distributed

        with self.connected():
            length = torch.zeros(1, dtype=torch.int64)
            distributed.broadcast(length, 0, group=self._orders)
            data = torch.empty(int(length), dtype=torch.uint8)
            distributed.broadcast(data, 0, group=self._orders)
        return unpacked(data)

    def gathered(self, own: object, waits: float = math.inf) -> list[Any]:
        """Returns the objects of all processes in process 0, and an empty list elsewhere.

        Process 0 waits at most ``waits`` seconds for each of the others.
        """
        import torch
        from torch import distributed

        def received(tensor: Tensor, rank: int) -> Tensor:
            if (work := distributed.irecv(tensor, rank, group=self._control)) is not None:
                work.wait(datetime.timedelta(seconds=waits) if waits < math.inf else FOREVER)
            return tensor

        found = [own] if self.rank == 0 else []
        with self.connected(waits):
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
