"""Cost of a training step against dimensions, data points, batch size, grid, threads, replicas and jobs.

Each value is measured in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sdegen.config.assembly import replicated
from sdegen.config.components import together
from suites.base import Row, composed, process, row


def measure(
    options: list[str],
    dimensions: list[int],
    points: list[int],
    batches: list[int],
    threads: list[int],
    grid: list[int],
    replicas: list[int],
    jobs: list[int],
    seconds: float,
) -> list[Row]:
    """Returns the rows of all panels; each value is measured for ``seconds`` seconds."""
    rows = []

    def take(panel: str, line: str, at: float, *own: str, threads: int = 1) -> None:
        taken = process(f"scaling.rounds({[*options, *own]!r}, {seconds})", threads)
        rows.append(row(panel, line, at, taken, "µs"))

    with tempfile.TemporaryDirectory() as folder:
        for d in dimensions:
            take("time of a step against number of dimensions", "perceptron", d, *normal(Path(folder), 1000, d))
        for n in points:
            take("time of a step against number of data points", "perceptron", n, *normal(Path(folder), n, 2))

    def take_by_threads(panel: str, at: int, *own: str) -> None:
        for count in threads:
            line = f"{count} thread{'s' * (count > 1)}"
            take(panel, line, at, *own, f"trainer.threads={count}", threads=count)

    for batch in batches:
        take_by_threads("time of a step against batch size", batch, f"trainer.batch_size={batch}", "dataset.size=20000")
    for n in grid:
        own = ("times=grid", f"times.points={n}", "times.simulations=10")
        take("time of a step against grid size", "perceptron", n, *own)
    for r in replicas:
        take_by_threads("time of a step of all replicas against number of replicas", r, f"trainer.replicas={r}")
    for n in jobs:
        taken = at_once(n, options, seconds)
        rows.append(row("time of a step of each job against number of jobs", "perceptron", n, taken, "µs"))
    return rows


def normal(folder: Path, n: int, d: int) -> tuple[str, str]:
    """Returns the options of a data set of standard normal points."""
    path = folder / f"{n}x{d}.npy"
    np.save(path, np.random.default_rng(0).normal(size=(n, d)).astype("float32"))
    return "dataset=file", f"dataset.path={path}"


def rounds(options: Sequence[str], seconds: float) -> list[float]:
    """Returns the microseconds of a step in each of ten rounds."""
    fixed = ("trainer.preview_every=0", "trainer.device=cpu", "trainer.steps=1000000000")
    training = together(replicated(composed(*options, *fixed)))

    def take(steps: int) -> float:
        training.steps, start = training.step + steps, time.perf_counter()
        training.run(lambda step, values: None, lambda: None, lambda: None)
        return (time.perf_counter() - start) / steps

    # The first steps include work that is done once.
    take(10)
    steps = max(1, int(seconds / 10 / take(20)))
    return [1e6 * take(steps) for _ in range(10)]


def at_once(jobs: int, options: Sequence[str], seconds: float) -> list[float]:
    """Returns the microseconds of a step while ``jobs`` processes train at once."""
    with ThreadPoolExecutor(jobs) as pool:
        return [
            us
            for own in pool.map(lambda _: process(f"scaling.rounds({options!r}, {seconds})"), range(jobs))
            for us in own
        ]
