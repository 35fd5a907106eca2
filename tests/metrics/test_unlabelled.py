"""Images and signals without labels have measures that see noise, blur and missing kinds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from torch import Tensor
from torch.nn import functional

from sdegen import metrics
from sdegen.datasets import Dataset, Digits
from sdegen.metrics.distances import share_difference
from sdegen.metrics.features import Features
from sdegen.metrics.labels import clusters, own_labels, surrogates
from sdegen.metrics.spectrum import band_powers, spectral


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unlabelled() -> Dataset:
    """Returns the digits without their labels; half of the training images, which halves the time."""
    digits = Digits()
    return Dataset(digits.x[::2], digits.held_out, levels=17)


DIGITS = unlabelled()
LABELS = Digits().y[::2]  # type: ignore[index]


@pytest.fixture(scope="module")
def features() -> Features:
    return metrics.fit_features(DIGITS)


def ratios(found: metrics.Metrics) -> dict[str, float]:
    return {name: entry["value"] / entry["floor"] for name, entry in found.items()}


def measured(x: Tensor, features: Features, dataset: Dataset = DIGITS) -> dict[str, float]:
    return ratios(metrics.measure_images(dataset, x, features))


def some(x: Tensor, n: int = 359, seed: int = 0) -> Tensor:
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:n]].double()


def test_real_images_are_at_the_floor(features: Features) -> None:
    found = measured(some(DIGITS.x), features)
    assert set(found) == {"frechet", "kernel", "precision", "recall", "cluster_balance", "spectrum", "near_copies"}
    for name in ("frechet", "kernel", "spectrum"):
        assert 0.5 < found[name] < 1.5, name
    assert found["cluster_balance"] < 2  # It is a maximum over clusters, which varies more.
    for name in ("precision", "recall"):
        assert found[name] == pytest.approx(1, abs=0.05)


def test_noise_is_ten_floors_away(features: Features) -> None:
    noise = 16 * torch.rand(359, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = measured(noise, features)
    assert min(found["kernel"], found["spectrum"]) > 10
    assert min(found["frechet"], found["cluster_balance"]) > 6
    assert found["precision"] < 0.1


def test_blur_and_a_gaussian_with_the_right_covariance_are_seen(features: Features) -> None:
    x = some(DIGITS.x)
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    flat = DIGITS.x.double().flatten(1)
    roots = torch.linalg.cholesky(flat.T.cov() + 1e-6 * torch.eye(64))
    gaussian = (flat.mean(0) + normal(359, 64) @ roots.T).view(-1, 1, 8, 8)
    for bad in (blurred, gaussian):
        found = measured(bad, features)
        assert min(found["frechet"], found["kernel"], found["cluster_balance"]) > 4
        assert found["precision"] < 0.3
    assert measured(blurred, features)["spectrum"] > 10


def test_a_missing_class_is_seen_by_the_clusters(features: Features) -> None:
    """Of 359 images, 36 are of each class: the share of one cluster is off by at most six standard errors."""
    found = [measured(some(DIGITS.x[missing != LABELS], seed=missing), features) for missing in (1, 4, 7)]
    assert np.mean([one["cluster_balance"] for one in found]) > 2
    assert np.mean([one["kernel"] for one in found]) > 1.3
    only = measured(some(DIGITS.x[LABELS == 4], 150), features)
    assert min(only["cluster_balance"], only["frechet"]) > 4
    assert only["recall"] < 0.3


def test_c2st_sees_what_is_wrong_with_images(features: Features) -> None:
    def told(x: Tensor) -> dict[str, Any]:
        return metrics.measure_c2st_images(DIGITS, x, features)

    good, noisy = told(some(DIGITS.x)), told(some(DIGITS.x) + 4 * normal(359, 1, 8, 8))
    for name in ("c2st", "c2st_features"):
        assert max(good[name]["value"], good[name]["floor"]) < 0.56 < 0.8 < noisy[name]["value"]
    # One step of grey in a tenth of the pixels is seen by the pixels, and hardly by the features.
    faint = told(some(DIGITS.x) + (normal(359, 1, 8, 8) > 1.28))
    assert faint["c2st"]["value"] > 0.65 and faint["c2st_features"]["value"] < 0.6
    # Values are rounded to the levels before a forest sees them.
    assert told(some(DIGITS.x) + 0.4) == good


def test_surrogates_have_the_mean_and_the_covariance_of_the_images() -> None:
    x = normal(4000, 6) @ normal(6, 6, seed=1) + torch.arange(6)
    drawn = surrogates(x.view(-1, 1, 2, 3)).flatten(1)
    scale = x.std(0)
    assert float(((drawn.mean(0) - x.mean(0)) / scale).abs().max()) < 0.12
    assert float(((drawn.T.cov() - x.T.cov()) / (scale[:, None] * scale)).abs().max()) < 0.12
    # They are Gaussian, whatever the images are.
    coins = surrogates((normal(4000, 1, 1, 1) > 0).double()).flatten()
    assert float((coins - coins.mean()).pow(4).mean() / coins.var() ** 2) == pytest.approx(3, abs=0.3)


def test_clusters_keep_kinds_apart_and_surrogates_have_their_own_labels() -> None:
    kinds = torch.arange(200) % 4
    x = 0.05 * normal(200, 1, 4, 4) + torch.eye(16, dtype=torch.float64)[3 * kinds].view(-1, 1, 4, 4)
    before = torch.get_rng_state()
    images, labels = own_labels(x, lambda x: x.round())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(images[:200], x) and torch.equal(images[200:], images[200:].round())
    assert (int(labels[:200].max()) < 10 == clusters(200)) and int(labels[200:].min()) >= 10
    for label in range(10):
        assert len(kinds[labels[:200] == label].unique()) <= 1
    again, same = own_labels(x, lambda x: x.round())
    assert torch.equal(again, images) and torch.equal(same, labels)


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(30, 1, 4, 4),
        torch.arange(2.0).view(2, 1, 1, 1),
        torch.eye(25).view(25, 1, 5, 5),
        torch.eye(5).view(1, 1, 5, 5),
    ],
    ids=["equal", "pixels", "pairs", "single"],
)
def test_degenerate_images_are_at_no_distance_from_themselves(x: Tensor) -> None:
    dataset = Dataset(x, x)
    found = metrics.measure_images(dataset, x, metrics.fit_features(dataset))
    assert all(math.isfinite(entry["value"]) for entry in found.values())
    # Images of one pixel have no spectrum.
    for name in {"cluster_balance", "frechet", "spectrum"} & found.keys():
        assert found[name]["value"] == pytest.approx(0, abs=1e-6), name


def signals(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sines of two channels, of one or of three periods, with random phases."""
    kind, phase = torch.arange(n) % 2, 6.3 * torch.rand(n, 1, generator=torch.Generator().manual_seed(seed))
    time = torch.linspace(0, 2 * math.pi, 33)[:-1]
    wave = torch.sin((1 + 2 * kind[:, None]) * time + phase)
    return torch.stack([wave, wave.square()], 1).double() + 0.05 * normal(n, 2, 32, seed=seed), kind


def test_signals_are_measured_as_images_are() -> None:
    (x, kind), (held_out, _), (fresh, _) = signals(400, 0), signals(400, 1), signals(400, 2)
    dataset = Dataset(x, held_out)
    features = metrics.fit_features(dataset)
    good, noisy = measured(fresh, features, dataset), measured(fresh + 0.5 * normal(400, 2, 32), features, dataset)
    for name in ("frechet", "kernel", "spectrum"):
        assert good[name] < 2 < 4 < noisy[name], name
    one = measured(x[kind == 0], features, dataset)
    assert one["cluster_balance"] > 2 > good["cluster_balance"]
    assert one["recall"] < 0.8


def test_difference_of_shares_is_the_root_of_chi_squared() -> None:
    x, y = torch.tensor([0] * 30 + [1] * 10), torch.tensor([0] * 15 + [1] * 35)
    expected = chi2_contingency([[30, 10], [15, 35]], correction=False).statistic
    assert share_difference(x, y) == pytest.approx(math.sqrt(expected))
    assert share_difference(x, x) == 0
    assert share_difference(torch.zeros(9).long(), torch.zeros(5).long()) == 0
    # Of three labels, the one that differs most counts.
    table = [[30, 10, 10], [15, 35, 10]]
    sets = [torch.arange(3).repeat_interleave(torch.tensor(row)) for row in table]
    single = [chi2_contingency([[r[k], sum(r) - r[k]] for r in table], correction=False).statistic for k in range(3)]
    assert share_difference(*sets) == pytest.approx(math.sqrt(max(single)))


def test_powers_are_those_of_the_frequencies() -> None:
    time = 2 * math.pi * torch.arange(64, dtype=torch.float64) / 64
    powers = band_powers(torch.stack([torch.sin(k * time) for k in (1, 2, 5, 31)])[:, None])
    # Half octaves from one period on: the bands begin at 1, 1.41, 2, 2.83, 4, 5.66, …
    assert powers.argmax(1).tolist() == [0, 1, 3, 8]
    assert float((powers > 1e-20).double().sum()) == 4
    assert float(band_powers(torch.full((1, 3, 5, 7), 4.0)).abs().max()) < 1e-20
    # By Parseval's theorem, a wave of one period in n steps has all its power in the two frequencies of the first band.
    for n in (48, 49, 98, 107, 187):
        wave = torch.sin(2 * math.pi * torch.arange(n, dtype=torch.float64) / n)[None, None]
        assert float(band_powers(wave)[0, 0]) == pytest.approx(float(wave.square().sum()) / 2)
    # White noise has the same power at all frequencies, in every number of dimensions.
    for shape in ((400, 1, 50), (400, 2, 9, 16)):
        mean = band_powers(2 * normal(*shape)).mean(0)
        assert float((mean / 4 - 1).abs().max()) < 0.25


def test_spectral_distance_is_the_gain_in_decibels() -> None:
    x = band_powers(normal(500, 1, 16, 16))
    assert spectral(x, x) == 0
    for gain in (0.5, 2.0, 10.0):
        assert spectral(gain**2 * x, x) == pytest.approx(abs(20 * math.log10(gain)), rel=0.03)
    assert spectral(0 * x, x) == pytest.approx(-10 * math.log10(1e-3), rel=0.15)
