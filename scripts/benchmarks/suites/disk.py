"""Speed of a training on images on the disk, from a cold page cache, divided by its speed on the same images in memory.

Both sides draw the same batches. Before each turn of a side on the disk, the system forgets the pages of the file. The
suite also measures how fast images are drawn by themselves, by blocks and by rows, because a faster device waits longer
for a slow disk.
"""

from __future__ import annotations

import copy
import gc
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from sdegen.config.assembly import build
from sdegen.config.components import Components
from sdegen.datasets import Dataset
from sdegen.datasets.base import Shuffle
from sdegen.datasets.disk import Disk, mapped, shared
from sdegen.training.batches import Points
from suites.base import Row, composed, over, row

SHAPE = (1, 28, 28)
PIECE = 2**16
"""Number of images that are written at once."""


def measure(size: float, options: Sequence[str], steps: int, drawn: int, rounds: int) -> list[Row]:
    """Returns the speeds of both sides and their ratios.

    Args:
        size: size of the file in GiB.
        options: options of train.py.
        steps: number of training steps in a turn.
        drawn: number of batches in a turn of the drawing.
        rounds: number of rounds.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        write(path, round(size * 2**30 / np.prod(SHAPE)))
        file = ("dataset=file", f"dataset.path={path}", "dataset.levels=256", "dataset.dequantize=true")
        parts = build(composed(*options, *file, "dataset.shuffle=blocks", "trainer.device=cpu"))
        count = len(parts.dataset.x)
        # Pages of a file that are mapped would stay in memory.
        kept = moved(parts.dataset, torch.from_numpy(np.array(mapped(path))[:count]), None, "blocks")
        kept.held_out = None if kept.held_out is None else kept.held_out.clone()
        parts = parts._replace(dataset=kept)

        def on_disk(shuffle: Shuffle) -> Dataset:
            forget(path)
            x = mapped(path)
            return moved(kept, shared(x)[:count], Disk.of(x), shuffle)

        sides: dict[str, Callable[[], Dataset]] = {
            "in memory": lambda: kept,
            "by blocks": lambda: on_disk("blocks"),
            "by rows": lambda: on_disk("rows"),
        }
        trained = in_turn({name: trainer(parts, side, steps) for name, side in sides.items()}, rounds)
        read = in_turn({name: drawer(side, parts.trainer.batch_size, drawn) for name, side in sides.items()}, rounds)
    images = parts.trainer.batch_size
    rows = speeds("speed of training, memory = 1", "images trained on", trained, images * steps)
    return rows + speeds("speed of drawing, memory = 1", "images drawn", read, images * drawn)


def write(path: Path, count: int) -> None:
    """Writes ``count`` random images to a file, and waits until they are on the disk."""
    source = np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, PIECE):
            file.write(source.bytes(min(PIECE, count - start) * int(np.prod(SHAPE))))
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Makes the system forget the pages of a file. It keeps those that an object of the last turn still maps."""
    gc.collect()
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def moved(dataset: Dataset, x: torch.Tensor, disk: Disk | None, shuffle: Shuffle) -> Dataset:
    """Returns the data set with its training points in another place."""
    own = copy.copy(dataset)
    own.x, own.disk, own.shuffle = x, disk, shuffle
    return own


def trainer(parts: Components, side: Callable[[], Dataset], steps: int) -> Callable[[], Callable[[], None]]:
    """Returns a function that prepares a turn: some training steps from the beginning."""

    def prepared() -> Callable[[], None]:
        training = parts._replace(dataset=side()).training()

        def turn() -> None:
            for chunks in training.stream.steps(0, steps):
                training.advance(chunks)

        return turn

    return prepared


def drawer(side: Callable[[], Dataset], batch: int, drawn: int) -> Callable[[], Callable[[], None]]:
    """Returns a function that prepares a turn: the images of some batches, without their preparation."""

    def prepared() -> Callable[[], None]:
        points = Points(0, side(), batch)

        def turn() -> None:
            for step in range(0, drawn, 10):
                points.take(range(step, step + 10), range(1), batch)

        return turn

    return prepared


def in_turn(works: Mapping[str, Callable[[], Callable[[], None]]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each turn in each round, without their preparation. The first round is discarded."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, prepared in works.items():
            turn = prepared()
            start = time.perf_counter()
            turn()
            taken[name].append(time.perf_counter() - start)
            del turn
    return {name: seconds[1:] for name, seconds in taken.items()}


def speeds(ratio: str, panel: str, seconds: Mapping[str, Sequence[float]], images: int) -> list[Row]:
    """Returns rows with the speeds of all sides, and with the speeds on the disk divided by that in memory."""
    ratios = over(seconds, "in memory").items()
    return [
        *(row(ratio, "", name, [1 / own for own in values], "") for name, values in ratios),
        *(row(panel, "", name, [images / own for own in values], "1/s") for name, values in seconds.items()),
    ]
