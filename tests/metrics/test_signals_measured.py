"""Metrics of signals: against SciPy, and for samples that are good, noise, of one kind, or in other units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from sdegen import metrics
from sdegen.datasets import Dataset
from sdegen.metrics import signals
from sdegen.metrics.distances import directions


def waves(n: int, seed: int) -> Tensor:
    """Returns waves of two frequencies, with a second channel of a thousand times the size."""
    source = np.random.default_rng(seed)
    kind, phase = source.integers(1, 3, n)[:, None], source.uniform(0, 2 * np.pi, n)[:, None]
    first = np.sin(2 * np.pi * kind * np.arange(32) / 32 + phase) + 0.1 * source.normal(size=(n, 32))
    return torch.from_numpy(np.stack([first, 1000 * np.roll(first, 8, axis=1)], axis=1))


DATA = Dataset(waves(800, 0), held_out=waves(400, 1))


def test_sliced_distance_is_that_of_channels_over_their_deviation() -> None:
    x = waves(100, 2)
    deviation = DATA.held_out.transpose(0, 1).flatten(1).std(1, correction=0)[:, None]
    along = directions(64).numpy()
    pairs = zip(((a / deviation).flatten(1).numpy() @ along for a in (x, DATA.held_out)), strict=False)
    own, other = (part for (part,) in pairs)
    expected = np.mean([wasserstein_distance(own[:, i], other[:, i]) for i in range(along.shape[1])])
    assert metrics.measure_signals(DATA, x)["sliced_w1"]["value"] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["sliced_w1", "energy"])
def test_bad_signals_are_far_over_the_floor_and_good_ones_near_it(name: str) -> None:
    def ratio(x: Tensor) -> float:
        entry = metrics.measure_signals(DATA, x)[name]
        return entry["value"] / entry["floor"]

    good = waves(300, 3)
    scale = DATA.x.transpose(0, 1).flatten(1).std(1)[:, None]
    noise = scale * torch.randn(good.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    still = good - 0.7 * good
    slow = torch.cat([good, waves(900, 4)])
    slow = slow[slow[:, 0, :16].sum(1).abs() > 3]
    assert ratio(good) < 1.5
    for bad in (noise, still, slow):
        assert ratio(bad) > 2


def test_units_of_a_channel_do_not_matter() -> None:
    x = waves(100, 5)
    change = torch.tensor([[3.0], [0.01]]).double()
    assert DATA.held_out is not None
    other = Dataset(DATA.x * change, held_out=DATA.held_out * change)
    found, changed = metrics.measure_signals(DATA, x), metrics.measure_signals(other, x * change)
    for name in found:
        assert changed[name]["value"] == pytest.approx(found[name]["value"])
        assert changed[name]["floor"] == pytest.approx(found[name]["floor"])


def test_large_sets_are_measured_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "REFERENCE", 200)
    found, whole = metrics.measure_signals(DATA, waves(400, 6)), metrics.measure_signals(DATA, waves(200, 6))
    assert found.keys() == whole.keys()
    assert found["energy"]["value"] < 3 * found["energy"]["floor"]
    assert len(DATA.x) == 800
