"""Process 0 learns what became of the work that it gave to the other processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from sdegen.core import processes

Work = Callable[[None, int], int]


def square(_: None, item: int) -> int:
    return item**2


def hang(_: None, item: int) -> int:
    if processes.present().rank:
        os.kill(os.getpid(), signal.SIGSTOP)
    return item


def fail(_: None, item: int) -> int:
    return item if processes.present().rank == 0 else {}[item]


def outcome(work: Work, folder: Path, wait: int = 300) -> str:
    """Returns the result of five items of work in two processes, or the error. They wait ``wait`` seconds."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    context, found = multiprocessing.get_context("fork"), folder / "found"

    def share(rank: int) -> None:
        os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        os.environ["SDEGEN_TIMEOUT"] = str(wait)
        try:
            processes.run(lambda: found.write_text(str(processes.present().each(work, None, range(5)))))
        except Exception as error:  # noqa: BLE001 - the test looks at any error
            if rank == 0:
                found.write_text(str(error))

    both = [context.Process(target=share, args=(rank,)) for rank in range(2)]
    for process in both:
        process.start()
    both[0].join(300)
    for process in both:
        process.kill()
        process.join()
    return found.read_text()


def test_results_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    assert outcome(square, tmp_path) == "[0, 1, 4, 9, 16]"


def test_a_process_that_hangs_in_its_work_is_named(tmp_path: Path) -> None:
    assert "no answer from process 1 in 5 s" in outcome(hang, tmp_path, wait=5)


def test_an_unexpected_error_of_another_process_keeps_its_trace(tmp_path: Path) -> None:
    found = outcome(fail, tmp_path)
    assert found.startswith("process 1: Traceback")
    assert "test_answers.py" in found
    assert found.endswith("KeyError: 1")
