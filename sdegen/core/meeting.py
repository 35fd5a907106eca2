"""The store in which the processes of a command meet. torchrun keeps it, so that it outlives each of them."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
import uuid
from typing import Any

GRACE = 3.0
"""Number of seconds in which the processes that still run must report after the loss of another one."""


class Meeting:
    """The meeting of the processes of a command.

    Args:
        rank: number of this process.
        size: number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self._store: Any = None

    def open(self, seconds: int) -> Any:  # noqa: ANN401 - torch's store
        """Returns a store that the present processes share, after all of them have come.

        Raises:
            RuntimeError: the other processes cannot be found in ``seconds`` seconds.
        """
        from torch import distributed

        store, _, _ = next(distributed.rendezvous("env://", timeout=datetime.timedelta(seconds=seconds)))
        self._store = self.met(store, seconds)
        return self._store

    def met(self, store: Any, seconds: int) -> Any:  # noqa: ANN401 - torch's store
        """Returns a part of a store that only the present processes use, after all of them have found it.

        When torchrun starts the processes again, its store still has the addresses of those that were killed. The name
        of the part is the answer to a new question, so that it cannot come from them.
        """
        from torch import distributed

        own, end = uuid.uuid4().hex, time.monotonic() + seconds
        if self.rank:
            store.set(f"sdegen/asks/{self.rank}", own)
            name = store.get(f"sdegen/answer/{own}").decode()
            store.add(f"sdegen/met/{name}", 1)
            return distributed.PrefixStore(name, store)
        asks = [f"sdegen/asks/{rank}" for rank in range(1, self.size)]
        while store.add(f"sdegen/met/{own}", 0) < self.size - 1:
            for key in asks:
                if store.check([key]):
                    store.set(f"sdegen/answer/{store.get(key).decode()}", own)
            if time.monotonic() > end:
                raise RuntimeError(f"some processes have not started in {seconds} s")
            time.sleep(0.01)
        return distributed.PrefixStore(own, store)

    def end(self) -> None:
        """Notes that process 0 has ended by itself."""
        self._store.set("ended", "1")

    def ended(self, seconds: float = 0.0) -> bool:
        """Returns True if process 0, which reports the reason, has ended by itself or ends in ``seconds`` seconds."""
        end = time.monotonic() + seconds
        with contextlib.suppress(RuntimeError):
            while self._store is not None:
                if self._store.check(["ended"]):
                    return True
                if time.monotonic() >= end:
                    break
                time.sleep(0.05)
        return False

    def missing(self) -> list[int] | None:
        """Reports that this process runs, and returns the numbers of those that do not report in :data:`GRACE` seconds.

        The result is None if the store does not answer.
        """
        with contextlib.suppress(RuntimeError):
            self._store.set(f"alive/{self.rank}", "1")
            time.sleep(GRACE)
            return [rank for rank in range(self.size) if not self._store.check([f"alive/{rank}"])]
        return None


def restarts() -> int:
    """Returns the number of times that torchrun has started the processes again: see ``--max-restarts``."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def first(key: str, value: str) -> str:
    """Returns the text that was first given for a key. It outlives a restart of the processes by torchrun."""
    from torch import distributed

    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return value
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(address, port, is_master=False, wait_for_workers=False)
    return store.compare_set(f"sdegen/{key}", "", value).decode()
