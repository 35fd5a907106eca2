"""Metrics of images agree with closed forms, double loops and known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sdegen import metrics
from sdegen.core import tensors
from sdegen.core.errors import UserError
from sdegen.datasets import Digits
from sdegen.metrics import distances, images
from sdegen.metrics.distances import frechet, kernel, nearest, precision, recall
from sdegen.metrics.features import Features, shifted, train_features
from sdegen.metrics.floors import Floors

DIGITS = Digits()


def held_out() -> tuple[Tensor, Tensor]:
    assert DIGITS.held_out is not None and DIGITS.held_out_y is not None
    return DIGITS.held_out, DIGITS.held_out_y


def labels() -> Tensor:
    assert DIGITS.y is not None
    return DIGITS.y


@pytest.fixture(scope="module")
def features() -> Features:
    return train_features(DIGITS.units.encode(DIGITS.x), labels(), 10)


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_set(mean: Tensor, covariance: Tensor, n: int, seed: int) -> Tensor:
    """Returns a set with exactly the given mean and covariance."""
    z = normal(n, len(mean), seed)
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / n), z.T, upper=False)
    return mean + (torch.linalg.cholesky(covariance) @ white).T


def rotation(d: int, seed: int = 7) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed)).Q


def test_frechet_distance_of_commuting_covariances_is_that_of_the_deviations() -> None:
    q, a, b = rotation(5), torch.tensor([1, 4, 0.25, 9, 2.0]).double(), torch.tensor([2, 1, 0.09, 16, 2.0]).double()
    mean = torch.tensor([3.0, -1, 0, 2, 5]).double()
    x, y = exact_set(mean, q @ a.diag() @ q.T, 300, 1), exact_set(mean + 2, q @ b.diag() @ q.T, 170, 2)
    expected = math.sqrt(5 * 2**2 + float((a.sqrt() - b.sqrt()).square().sum()))
    assert frechet(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet(y, x) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_any_covariances_is_that_of_the_matrix_root() -> None:
    from scipy.linalg import sqrtm

    roots = [normal(4, 4, seed) for seed in (3, 4)]
    first, second = (root @ root.T + 0.1 * torch.eye(4).double() for root in roots)
    x, y = exact_set(normal(4, 1)[:, 0], first, 90, 1), exact_set(normal(4, 1, 1)[:, 0], second, 50, 2)
    trace = np.trace(first.numpy() + second.numpy() - 2 * np.real(sqrtm(first.numpy() @ second.numpy())))
    shift = float((normal(4, 1) - normal(4, 1, 1)).square().sum())
    assert frechet(x, y) == pytest.approx(math.sqrt(shift + trace), rel=1e-8)


def test_frechet_distance_is_blind_to_rotations_and_zero_for_equal_sets() -> None:
    x, y = normal(100, 6) * torch.arange(1, 7), normal(80, 6, 1) + 0.3
    turned = [part @ rotation(6) + 11 for part in (x, y)]
    assert frechet(*turned) == pytest.approx(frechet(x, y), rel=1e-9)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet(x, x.flip(0)) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_of_singular_sets_is_exact() -> None:
    """For one point, two points and points on lines, the result is still the distance of the moments."""
    e = torch.eye(40).double()
    assert frechet(e[:1], 4 * e[1:2]) == pytest.approx(math.sqrt(17))
    # Each set varies along another axis, with the standard deviation 1.
    x, y = torch.stack([e[0], -e[0]]), torch.stack([e[1], -e[1]])
    assert frechet(x, y) == pytest.approx(math.sqrt(2))
    assert frechet(x, 3 * x) == pytest.approx(2)
    few = normal(5, 40)
    assert frechet(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet(few, few + 1) == pytest.approx(math.sqrt(40))
    assert frechet(0 * few, 0 * few) == 0


def test_kernel_distance_is_its_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(23, 3), normal(17, 3, 1) * 1.5 + 0.2

    def mean(a: Tensor, b: Tensor) -> float:
        return sum((sum(p * q for p, q in zip(u, v, strict=True)) / 3 + 1) ** 3 for u in a.tolist() for v in b.tolist())

    square = mean(x, x) / 23**2 + mean(y, y) / 17**2 - 2 * mean(x, y) / (23 * 17)
    assert kernel(x, y) == pytest.approx(math.sqrt(square), rel=1e-9)
    monkeypatch.setattr(distances, "PAIRS", 100)
    assert kernel(x, y) == pytest.approx(math.sqrt(square), rel=1e-9)
    assert kernel(x, x) == pytest.approx(0, abs=1e-6)


def on_manifold(x: Tensor, y: Tensor, k: int = 3) -> float:
    """Returns the share of x in balls around the points y.

    The radius is the distance from a point to its k-th neighbour.
    """
    reach = [
        sorted(math.dist(b, c) for j, c in enumerate(y.tolist()) if j != i)[k - 1] for i, b in enumerate(y.tolist())
    ]
    inside = [any(math.dist(a, b) <= r for b, r in zip(y.tolist(), reach, strict=True)) for a in x.tolist()]
    return sum(inside) / len(inside)


def test_precision_and_recall_are_their_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(60, 2) * 2, normal(40, 2, 1) + 1
    assert 0.1 < on_manifold(x, y) < 0.9
    for pairs in (distances.PAIRS, 100):
        monkeypatch.setattr(distances, "PAIRS", pairs)
        assert precision(x, y) == on_manifold(x, y)
        assert recall(x, y) == on_manifold(y, x)


def test_a_dropped_mode_costs_recall_and_outliers_precision() -> None:
    near, far = 0.1 * normal(100, 8), 0.1 * normal(300, 8, 1) + 20
    data = torch.cat([near, far])
    assert (precision(data, data), recall(data, data)) == (1, 1)
    assert precision(near, data) == 1
    assert recall(near, data) == 0.25
    noisy = torch.cat([data, torch.full((100, 8), 500.0).double()])
    assert precision(noisy, data) == 0.8
    assert recall(noisy, data) == 1


def test_nearest_is_found_among_all_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    x, reference = 1e4 + normal(30, 12).view(30, 3, 2, 2), 1e4 + normal(50, 12, 1).view(50, 3, 2, 2)
    x[7] = reference[-1]
    expected = (x[:, None] - reference).flatten(2).norm(dim=2).amin(1)
    for pairs, chunk in ((distances.PAIRS, tensors.CHUNK), (100, 100)):
        monkeypatch.setattr(distances, "PAIRS", pairs)
        monkeypatch.setattr(tensors, "CHUNK", chunk)
        torch.testing.assert_close(nearest(x, reference), expected, rtol=1e-9, atol=1e-9)
    assert nearest(x, reference)[7] == 0


def test_near_copies_of_the_training_set_are_all_and_of_the_held_out_one_in_twenty() -> None:
    def share(x: Tensor) -> float:
        return images._near_copies(DIGITS, metrics.quantized(x, 17))["value"]

    assert share(DIGITS.x[:200]) == 1
    # Samples that become copies when they are rounded to whole levels count as copies.
    assert share(DIGITS.x[:200] + 0.98 * torch.rand(200, 1, 8, 8, dtype=torch.float64) - 0.49) == 1
    assert share(held_out()[0]) == pytest.approx(0.05, abs=0.5 / 359)
    assert share(16 * torch.rand(50, 1, 8, 8)) == 0
    assert images._near_copies(DIGITS, DIGITS.x[:9])["floor"] == pytest.approx(0.05, abs=0.5 / 359)


def test_class_balance_is_half_the_l1_distance_of_the_shares() -> None:
    counts = torch.bincount(torch.cat([labels(), held_out()[1]]), minlength=10).double()
    shares = counts / counts.sum()
    only = torch.full((400,), 4)
    entry = images.class_balance(DIGITS, only, labels, Floors())
    assert entry["value"] == pytest.approx(1 - float(shares[4]))
    assert entry["train"] < 0.01
    # The error of each share is nearly normal, with E|error| = √(2 p (1 - p) / (π n)).
    expected = 0.5 * float((2 * shares * (1 - shares) / (math.pi * 400)).sqrt().sum())
    assert entry["floor"] == pytest.approx(expected, rel=0.1)
    assert 1.2 * expected < entry["limit"] < 2 * expected


def test_features_see_the_digits(features: Features) -> None:
    x, y = held_out()
    encoded = DIGITS.units.encode(x)
    seen = features(encoded)
    assert float((features.classify(seen) == y).double().mean()) >= 0.975
    assert (seen.dtype, seen.shape) == (torch.float64, (len(x), 32))
    torch.testing.assert_close(seen[100:103], features(encoded[100:103]), rtol=1e-4, atol=1e-4)
    copy = Features((1, 8, 8), 10).eval()
    copy.load_state_dict(features.state_dict())
    assert torch.equal(copy(encoded), seen)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 9)], ids=str)
def test_features_are_a_function_of_the_data(shape: tuple[int, ...]) -> None:
    """With 129 images, batches of 128 would leave a batch of one image."""
    x, y = normal(129, math.prod(shape)).view(-1, *shape).clamp(-1, 1), torch.arange(129) % 3
    trained = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        trained.append(train_features(x, y, 3))
        assert torch.equal(torch.get_rng_state(), before)
    states = [model.state_dict() for model in trained]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = train_features(x.flip(0), y, 3).state_dict()
    assert not torch.equal(states[0]["head.weight"], other["head.weight"])


def test_shifts_are_whole_pixels_the_same_for_every_channel() -> None:
    x = normal(200, 2 * 6 * 30).view(200, 2, 6, 30)
    moved, seen = shifted(x, torch.Generator().manual_seed(0)), set()
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    for image, large in zip(moved.numpy(), padded, strict=True):
        places = [(i, j) for i in range(5) for j in range(5) if (large[:, i : i + 6, j : j + 30] == image).all()]
        assert len(places) == 1
        seen |= set(places)
    assert len(seen) == 25


def test_training_images_as_samples_have_the_floor(features: Features) -> None:
    found = metrics.measure_images(DIGITS, DIGITS.x.double(), features)
    for name in ("frechet", "kernel", "precision", "recall"):
        assert found[name]["value"] == found[name]["floor"] == found[name]["train"]
    # The doubled set is measured in two parts, which have the same value.
    twice = metrics.measure_images(DIGITS, DIGITS.x.double().repeat(2, 1, 1, 1), features)
    assert twice["recall"] == found["recall"] and twice["frechet"] == found["frechet"]
    seen = [features(DIGITS.units.encode(part)) for part in (DIGITS.x, held_out()[0])]
    assert found["frechet"]["value"] == pytest.approx(frechet(*seen))
    few = metrics.measure_images(DIGITS, DIGITS.x[:90], features)
    assert few["precision"]["value"] == pytest.approx(on_manifold(seen[0][:90], seen[1]))
    assert few["recall"]["value"] == pytest.approx(on_manifold(seen[1], seen[0][:90]))
    assert few["recall"]["train"] == found["recall"]["train"]


def test_floor_is_of_as_many_images_and_damage_is_seen(features: Features) -> None:
    source = torch.Generator().manual_seed(0)
    x = DIGITS.x[:150].double()
    good = metrics.measure_images(DIGITS, x, features)
    assert good["frechet"]["floor"] > 1.2 * good["frechet"]["train"]
    assert good["frechet"]["value"] == pytest.approx(good["frechet"]["floor"], rel=0.25)
    bad = metrics.measure_images(DIGITS, x + 8 * torch.rand(x.shape, generator=source, dtype=torch.float64), features)
    assert bad["frechet"]["value"] > 2 * bad["frechet"]["floor"]
    assert bad["kernel"]["value"] > 2 * bad["kernel"]["floor"]
    assert bad["precision"]["value"] < bad["precision"]["floor"] - 0.1
    same = metrics.measure_images(DIGITS, x[:1].expand(150, -1, -1, -1), features)
    assert same["recall"]["value"] < 0.02
    assert same["class_balance"]["value"] > 0.85 > 5 * same["class_balance"]["floor"]


def test_held_out_images_agree_with_their_labels_and_not_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = held_out()
    found = metrics.agreement(DIGITS, x, y)
    assert found["value"] == found["floor"] >= 0.97
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    assert metrics.agreement(DIGITS, x, shuffled)["value"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 360))
    # Images that are chosen from a large set keep their labels.
    monkeypatch.setattr(images, "REFERENCE", 300)
    monkeypatch.setattr(images, "JUDGED", 100)
    found = metrics.agreement(DIGITS, x, y)
    assert found["value"] > 0.9
    assert found["floor"] > 0.9


def test_images_are_measured_as_they_would_be_saved(features: Features) -> None:
    """Values are rounded to whole levels and clamped to the range of the levels."""
    x = DIGITS.x[:40].double()
    noisy = x + 0.98 * torch.rand(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.49
    noisy = torch.where(x == 16, 30, torch.where(x == 0, -9, noisy)).float()
    assert metrics.measure_images(DIGITS, noisy, features) == metrics.measure_images(DIGITS, x, features)
    y = labels()[:40]
    first, second = (metrics.measure_conditional(DIGITS, images, y, features) for images in (noisy, x))
    assert first == second
    assert torch.equal(metrics.quantized(noisy, None), noisy)


def test_spread_and_recall_are_within_the_classes(features: Features) -> None:
    x, y = held_out()
    found = metrics.measure_conditional(DIGITS, x, y, features)
    seen = features(DIGITS.units.encode(x)).numpy()
    spreads = [math.sqrt(seen[y.numpy() == c].var(0, ddof=1).sum()) for c in range(10)]
    assert found["spread"]["value"] == found["spread"]["floor"] == pytest.approx(np.mean(spreads))
    assert found["class_recall"]["value"] == 1
    # The samples repeat one image of each requested class: all agree with their class, and none varies.
    first = [int((y == c).nonzero()[0]) for c in (2, 7)]
    same = x[first].repeat_interleave(20, 0), y[first].repeat_interleave(20)
    found = metrics.measure_conditional(DIGITS, *same, features)
    assert found["agreement"]["value"] == 1
    assert found["spread"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["spread"]["floor"] == pytest.approx(np.mean([spreads[2], spreads[7]]))
    assert found["class_recall"]["value"] <= 1 / 30 < 0.4 < found["class_recall"]["floor"]


def test_agreement_without_labels_says_so() -> None:
    unlabelled = Digits()
    unlabelled.y = None
    with pytest.raises(UserError, match="needs labels") as error:
        metrics.agreement(unlabelled, *held_out())
    assert "\n" not in str(error.value)
