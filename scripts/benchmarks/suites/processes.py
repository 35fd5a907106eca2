"""Several processes that train one run: speed beside that of one process, and the cost of the tree of gradients.

Each side is a whole training in new processes. Its speed is that of the steps after the first ones.
"""

from __future__ import annotations

import csv
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sdegen.core.errors import UserError
from suites.base import Row, command, row

SIDES = {
    "1 process, 1 thread": (1, 1, "null"),
    "1 process, 2 threads": (1, 2, "null"),
    "2 processes, 1 thread": (2, 1, "null"),
    "2 processes, tree": (2, 1, "2"),
    "1 process, tree": (1, 1, "2"),
}
"""Number of processes, threads in each of them, and ``trainer.shards`` of each side."""
BOTH = "2 runs at once"
"""Side that does not share a run: its speed is the sum of the speeds of two runs."""
FIXED = (
    *("count=2", "sampler=euler_maruyama", "sampler.steps=1", "figures=false"),
    *("trainer.preview_every=0", "trainer.log_every=10"),
)
PANEL = "speed, one process of one thread = 1"


def measure(networks: dict[str, list[str]], steps: dict[str, int], rounds: int) -> list[Row]:
    """Returns the speed of every side over that of the first one in the same round, for each network."""
    rows = []
    for name, options in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(0)
            np.save(f"{folder}/images.npy", rng.integers(0, 256, (2000, 1, 28, 28), dtype=np.uint8))
            np.save(f"{folder}/points.npy", rng.normal(size=(2000, 16)).astype("float32"))
            speeds: dict[str, list[float]] = {side: [] for side in (*SIDES, BOTH)}
            for _ in range(rounds):
                for side, (processes, threads, shards) in SIDES.items():
                    own = [*options, f"trainer.shards={shards}", f"trainer.steps={steps[name]}"]
                    speeds[side].append(speed(Path(folder), processes, threads, own))
                # The limit of the machine: two trainings that do not wait for each other.
                own = [*options, f"trainer.steps={steps[name]}"]
                with ThreadPoolExecutor(2) as pool:
                    both = [pool.submit(speed, Path(folder), 1, 1, own, f"run-{i}") for i in range(2)]
                    speeds[BOTH].append(sum(one.result() for one in both))
        first, *others = speeds
        for side in others:
            ratios = [own / bare for own, bare in zip(speeds[side], speeds[first], strict=True)]
            rows.append(row(PANEL, side, name, ratios, ""))
        rows.append(row("steps per second", first, name, speeds[first], ""))
        two, threads_two = speeds["2 processes, 1 thread"], speeds["1 process, 2 threads"]
        paired = [own / bare for own, bare in zip(two, threads_two, strict=True)]
        rows.append(row("speed of 2 processes, 2 threads = 1", "speed", name, paired, ""))
    return rows


def speed(folder: Path, processes: int, threads: int, options: Sequence[str], name: str = "run") -> float:
    """Returns the steps per second of a training in new processes, in the folder ``name`` inside ``folder``.

    It is the median over spans of ten steps without the first span, in which the processes warm up.
    """
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    start = start if processes > 1 else ["-m"]
    own = [*options, *FIXED, f"trainer.threads={threads}", f"hydra.run.dir={folder}/{name}"]
    done = command(*start, "sdegen", "train", *own, folder=folder, threads=threads)
    if done.returncode:
        raise UserError(f"{' '.join(options)}: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
    with (folder / name / "scalars.csv").open() as file:
        spans = [float(one["value"]) for one in csv.DictReader(file) if one["name"] == "train/steps_per_second"]
    shutil.rmtree(folder / name)
    return statistics.median(spans[1:])
