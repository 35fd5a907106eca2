"""Several processes that train one run: speed beside that of one process, and the cost of the tree of gradients.

Each side is a whole training in new processes, and its time is that of the steps, without the start.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
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
FIXED = ("count=2", "sampler=euler_maruyama", "sampler.steps=1", "figures=false", "trainer.preview_every=0")
PANEL = "speed beside one process of one thread"


def measure(networks: dict[str, list[str]], steps: dict[str, int], rounds: int) -> list[Row]:
    """Returns the speed of every side over that of the first one in the same round, for each network."""
    rows = []
    for name, options in networks.items():
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(0)
            np.save(f"{folder}/images.npy", rng.integers(0, 256, (2000, 1, 28, 28), dtype=np.uint8))
            np.save(f"{folder}/points.npy", rng.normal(size=(2000, 16)).astype("float32"))
            speeds: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(rounds):
                for side, (processes, threads, shards) in SIDES.items():
                    own = [*options, f"trainer.threads={threads}", f"trainer.shards={shards}"]
                    speeds[side].append(speed(Path(folder), processes, [*own, f"trainer.steps={steps[name]}"]))
        first, *others = SIDES
        for side in others:
            ratios = [own / bare for own, bare in zip(speeds[side], speeds[first], strict=True)]
            rows.append(row(PANEL, side, name, ratios, ""))
        rows.append(row("steps per second", first, name, speeds[first], ""))
        two, threads_two = speeds["2 processes, 1 thread"], speeds["1 process, 2 threads"]
        paired = [own / bare for own, bare in zip(two, threads_two, strict=True)]
        rows.append(row("2 processes beside 2 threads", "speed", name, paired, ""))
    return rows


def speed(folder: Path, processes: int, options: Sequence[str]) -> float:
    """Returns the steps per second of a training in new processes."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    start = start if processes > 1 else ["-m"]
    done = command(*start, "sdegen", "train", *options, *FIXED, f"hydra.run.dir={folder}/run", folder=folder)
    if done.returncode:
        raise UserError(f"{' '.join(options)}: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
    cost = json.loads((folder / "run" / "provenance.json").read_text())["training"]
    shutil.rmtree(folder / "run")
    return cost["steps"] / cost["seconds"]
