"""Shared parts of the tests: one thread, so that times and sums are reproducible, and small exact problems."""

from __future__ import annotations

import gc
import math
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

# Set this before torch reads it, also for the processes that tests start. A process that has used
# two threads cannot be forked.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

from sdegen.metrics import features, points
from sdegen.sde import EDM, VE, VP, Cosine, Linear, LinearSDE, SubVP
from sdegen.sde.mixture import GaussianMixture
from sdegen.training import held_out

torch.set_num_threads(1)
# Coverage does not count lines that run in forks, so switch off tracing, which takes a third of the time of a fork.
os.register_at_fork(after_in_child=lambda: sys.settrace(None))


def pytest_collection_finish() -> None:
    """Excludes imported objects from garbage collection, which saves a sixth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _small_measures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Uses fewer points for metrics and fewer rows for held-out losses. Tests of these values set their own numbers.

    The tests of one file share a user's cache, because they use the same numbers.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(points, "REFERENCE", 2000)
        patch.setattr(points, "FLOORS", 5)
        patch.setattr(held_out, "ROWS", 256)
        yield


@pytest.fixture(scope="module")
def one_epoch() -> Iterator[None]:
    """Fits the features of images in one epoch, for tests that do not look at the values of metrics of images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "EPOCHS", (1, 1))
        yield


TEXTBOOK = (
    "parametrization=noise",
    "weighting=variance",
    "times=stratified",
    "network.activation=relu",
    "network.time_embedding=concat",
    "optimizer.lr=1e-3",
    "optimizer.decay=constant",
)
"""Simple choices, for tests with numbers worked out by hand and for tests of resumed runs."""

SDES = {
    "vp": VP(),
    "subvp": SubVP(),
    "ve": VE(sigma_max=10.0),
    "linear": Linear(),
    "cosine": Cosine(),
    "edm": EDM(sigma_max=5.0),
}


FEW = ("vp", "subvp", "ve", "linear")
"""Processes that differ most, for tests that need not try all."""


@pytest.fixture(params=[SDES[key] for key in FEW], ids=FEW)
def sde(request: pytest.FixtureRequest) -> LinearSDE:
    return request.param


@pytest.fixture
def line() -> GaussianMixture:
    """Returns the paper's mixture on the line."""
    return GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-3.0], [3.0]]), torch.tensor([0.25, 1.0]))


def plane() -> GaussianMixture:
    """Returns a mixture of three components in the plane with full covariances."""
    root = torch.tensor([[[1.0, 0.3], [0.0, 0.5]], [[0.4, 0.0], [-0.2, 0.6]], [[0.7, 0.1], [0.1, 0.2]]])
    return GaussianMixture(
        torch.tensor([0.2, 0.5, 0.3]),
        torch.tensor([[1.0, -1.0], [-2.0, 0.5], [0.5, 2.0]]),
        root @ root.transpose(1, 2),
    )


def standard_error(x: torch.Tensor) -> float:
    """Returns the standard error of the mean of independent numbers."""
    return float(x.std() / math.sqrt(len(x)))


def idx_bytes(array: np.ndarray) -> bytes:
    """Returns an array in the IDX format: two zeros, the type, the number of dimensions, big-endian sizes, the data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(">u1").tobytes()


def go_back(folder: Path, step: int) -> None:
    """Leaves a run as if it had been killed after it logged its last step, with no checkpoint after ``step``."""
    (folder / "metrics.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        if path.name != f"step-{step:08d}.pt":
            path.unlink()
    shutil.copyfile(folder / "checkpoints" / f"step-{step:08d}.pt", folder / "checkpoints" / "last.pt")
