"""Advice has known values on data of known size, and its command trains."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from sdegen.config.assembly import build
from sdegen.config.compose import composed
from sdegen.runs import advice
from sdegen.runs.advice import calibrate, command, resolution, table


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take few steps, whose results only the tests of the steps look at."""
    monkeypatch.setattr(advice, "TRAINED", 8)
    monkeypatch.setattr(advice, "RANGE", 40)


def advised(tmp_path: Path, x: np.ndarray, *line: str) -> dict[str, object]:
    np.save(tmp_path / "x.npy", x)
    config = composed("train", ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "network.hidden=[8]", *line])
    return {one.option: one.value for one in calibrate(config).advice}


def test_largest_noise_is_the_largest_distance_between_points(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, size=(300, 2))
    x[[3, 200]] = [-9, -12], [9, 12]
    # Both points are among those trained on with this seed, or not: ask the data.
    found = advised(tmp_path, x, "sde=ve", "sde.sigma_max=50", "dataset.standardize=false", "dataset.held_out=0.01")
    assert found["sde.sigma_max"] == pytest.approx(30)
    assert advised(tmp_path, x, "sde=ve")["sde.sigma_max"] is None


def test_the_table_shows_the_number_that_auto_measures(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, size=(300, 2))
    np.save(tmp_path / "x.npy", x)
    line = ("sde=ve", "dataset.standardize=false", "network.hidden=[8]")
    config = composed("train", ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", *line])
    (row,) = (row for row in table(config, calibrate(config)).splitlines() if row.startswith("sde.sigma_max"))
    option, now, kept, measured = row.split()
    # Only the rows of the training are measured.
    assert (option, now, kept) == ("sde.sigma_max", "auto", "keep")
    assert 0.9 < float(measured.strip("()")) / pdist(x).max() <= 1.01


def test_deviation_is_that_of_the_points_and_1_for_standardised_points(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2000, 3)) * 4 + 7
    raw = advised(tmp_path, x, "parametrization=karras", "dataset.standardize=false")
    assert raw["parametrization.sigma_data"] == pytest.approx(4, rel=0.05)
    assert advised(tmp_path, x, "parametrization=karras")["parametrization.sigma_data"] == 1
    assert "parametrization.sigma_data" not in advised(tmp_path, x)


@pytest.mark.parametrize("standardize", [False, True])
def test_smallest_noise_on_a_grid_is_that_of_rounding(tmp_path: Path, standardize: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2000, 1)).round(1)
    found = advised(tmp_path, x, f"dataset.standardize={str(standardize).lower()}")
    dataset = build(composed("train", ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}"])).dataset
    step = 0.1 / float(dataset.x.std(correction=0)) if standardize else 0.1
    # Under VP, sigma² / alpha² = exp(B) - 1 with B = 0.1 t + 19.9 t² / 2.
    exact = brentq(lambda t: math.expm1(0.1 * t + 19.9 * t * t / 2) - step**2 / 12, 0, 1)
    assert found["sde.eps"] == pytest.approx(exact, rel=0.05)


def test_resolution_of_a_continuous_column_is_the_distance_of_nearest_neighbours(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(1500, 2))
    np.save(tmp_path / "x.npy", x)
    line = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "dataset.standardize=false"]
    dataset = build(composed("train", line)).dataset
    size, rounded = resolution(dataset, dataset.x)
    # The reference compares all points; the search takes 1000 of them against the other 200.
    distances, _ = KDTree(dataset.x.numpy()).query(dataset.x.numpy(), k=2)
    exact = np.median(distances[:, 1]) / math.sqrt(2)
    assert size == pytest.approx(exact * math.sqrt(1200 / 200), rel=0.2)
    assert not rounded
    # The noise at the default smallest time is smaller; at t = 0.1 it would hide the details.
    assert advised(tmp_path, x)["sde.eps"] is None
    assert advised(tmp_path, x, "sde.eps=0.1")["sde.eps"] < 0.1  # type: ignore[operator]


@pytest.mark.parametrize(("columns", "width"), [(2, 128), (100, 256)])
def test_width_is_twice_the_number_of_columns(tmp_path: Path, columns: int, width: int) -> None:
    x = np.random.default_rng(0).normal(size=(80, columns))
    assert advised(tmp_path, x)["network.hidden"] == [width]


def test_advice_is_the_same_each_time_and_does_not_exceed_the_points(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    first, second = advised(tmp_path, x), advised(tmp_path, x)
    assert first == second
    assert first["trainer.batch_size"] == 32


def test_a_learning_rate_that_is_nearly_the_suggested_one_is_kept(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 2))
    found = advised(tmp_path, x, "optimizer.lr=1e-6")["optimizer.lr"]
    assert isinstance(found, float)
    assert advised(tmp_path, x, f"optimizer.lr={found / 2}")["optimizer.lr"] is None
    assert advised(tmp_path, x, "optimizer.lr=1")["optimizer.lr"] < 0.1  # type: ignore[operator]


def test_command_has_each_changed_option_once(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(300, 2))
    np.save(tmp_path / "x.npy", x)
    line = ["dataset=file", f"dataset.path={tmp_path / 'x.npy'}", "network.hidden=[8]", "optimizer.lr=1", "sde=ve"]
    before = composed("train", line)
    found = calibrate(before)
    words = shlex.split(command(f"sdegen train {shlex.join(line)}", before, found))
    config = composed("train", words[2:])
    for option, value, *_ in found.advice:
        if value is not None:
            group, key = option.split(".")
            assert config[group][key] == value
            changed = before[group][key] != value
            assert sum(word.startswith(f"{option}=") for word in words) == changed
    assert config["optimizer"]["lr"] < 1 and config["network"]["hidden"] == [128]
    build(config)


@pytest.mark.parametrize("path", ["linear", "edm"])
def test_smallest_noise_is_the_same_along_every_path(tmp_path: Path, path: str) -> None:
    """The advice is a time of the path, at which the noise in units of the signal is that of rounding to tenths."""
    x = np.random.default_rng(0).integers(0, 20, size=(300, 2)) / 10
    line = (f"sde={path}", "dataset.standardize=false")
    found = advised(tmp_path, x, *line)["sde.eps"]
    sde = build(composed("train", [*line, "dataset=file", f"dataset.path={tmp_path / 'x.npy'}"])).sde
    assert isinstance(found, float) and sde.linear is not None
    time = torch.tensor(found, dtype=torch.float64)
    assert float(sde.linear.sigma(time) / sde.linear.alpha(time)) == pytest.approx(0.1 / math.sqrt(12), rel=0.1)
