"""What the tests share: one thread, so that they time and add up alike, and small exact problems."""

from __future__ import annotations

import gc
import math
import os
import struct
import sys
from collections.abc import Iterator

# Before torch reads it, and for the processes that tests start: a process that has had two threads cannot be forked.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

from sdegen.metrics import points
from sdegen.sde import VE, VP, LinearSDE, SubVP
from sdegen.sde.mixture import GaussianMixture
from sdegen.training import held_out

torch.set_num_threads(1)
# What a fork covers is not counted, and counting is a third of its time.
os.register_at_fork(after_in_child=lambda: sys.settrace(None))


def pytest_collection_finish() -> None:
    """What is imported is no garbage, and is not to be looked through for some: a sixth of the time."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _small_measures() -> Iterator[None]:
    """Metrics against fewer points and held-out losses of fewer rows, where the tests are not about their values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "REFERENCE", 2000)
        patch.setattr(points, "FLOORS", 5)
        patch.setattr(held_out, "ROWS", 256)
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
"""The plainest choices, for tests whose numbers are worked out by hand, and for the steps of runs that go on."""

SDES = {"vp": VP(), "subvp": SubVP(), "ve": VE(sigma_max=10.0)}


@pytest.fixture(params=SDES.values(), ids=SDES.keys())
def sde(request: pytest.FixtureRequest) -> LinearSDE:
    return request.param


@pytest.fixture
def line() -> GaussianMixture:
    """The paper's mixture on the line."""
    return GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-3.0], [3.0]]), torch.tensor([0.25, 1.0]))


def plane() -> GaussianMixture:
    """Three components in the plane with full covariances."""
    root = torch.tensor([[[1.0, 0.3], [0.0, 0.5]], [[0.4, 0.0], [-0.2, 0.6]], [[0.7, 0.1], [0.1, 0.2]]])
    return GaussianMixture(
        torch.tensor([0.2, 0.5, 0.3]),
        torch.tensor([[1.0, -1.0], [-2.0, 0.5], [0.5, 2.0]]),
        root @ root.transpose(1, 2),
    )


def standard_error(x: torch.Tensor) -> float:
    """Of the mean of independent numbers."""
    return float(x.std() / math.sqrt(len(x)))


def idx_bytes(array: np.ndarray) -> bytes:
    """The format, by its description: two zeros, the type, the number of dimensions, the sizes, big end first."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(">u1").tobytes()
